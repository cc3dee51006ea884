"""Entry point of every command: a user's error is one line on standard error, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

from worldsim.errors import StorageError, WorldsimError

__all__ = ["run_command"]


def run_command(run: Callable[[], int], name: str = "worldsim") -> int:
    """Run a command and return its exit code: 2 after a user's error, 130 after Ctrl-C.

    Args:
        run: the command.
        name: the program's, before the error's line.
    """
    try:
        return run()
    except WorldsimError as error:
        failure: WorldsimError = error
    except OSError as error:
        failure = StorageError.of(error)
    except KeyboardInterrupt:
        return 130
    print(f"{name}: {failure}", file=sys.stderr)
    return 2
