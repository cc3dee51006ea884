"""The command line: ``worldsim record | train | eval | play | dream-train | serve`` and others.

A thin dispatcher: each command's own module reads the rest of the line and is imported only when called. So
``worldsim --help`` answers at once, and a user's mistake is one line, not a traceback.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import worldsim
from worldsim.errors import ConfigError
from worldsim.registry import import_parts
from worldsim.utils.run_command import run_command

__all__ = ["main"]

_COMMANDS = {
    "record": ("worldsim.agents.record", "record frames, controls and poses from a real environment"),
    "train": ("worldsim.training.run", "learn a world from recorded data"),
    "calibrate": ("worldsim.evaluation.calibrate", "fit a world's noise to the lengths of real episodes"),
    "eval": ("worldsim.evaluation.run", "evaluate a world against its environment's own frames"),
    "train-idm": ("worldsim.evaluation.idm.training", "train the inverse dynamics model that eval uses"),
    "baseline": ("worldsim.evaluation.baselines.run", "train a ConvLSTM or PredRNN baseline"),
    "play": ("worldsim.agents.human.play", "walk through a world in a window"),
    "dream-train": ("worldsim.agents.dreamer.command", "train a policy in a dream, then play the real game"),
    "score": ("worldsim.agents.dreamer.score", "let an agent play the real game, and score it"),
    "serve": ("worldsim.bridge.serve", "serve a world to other programs, over ZeroMQ"),
    "keys": ("worldsim.bridge.auth.keys", "make keys for programs on other machines"),
    "bench": ("worldsim.bench.command", "measure how fast a world answers"),
    "compress": ("worldsim.compression.compress", "compress a recorded episode with a world of bits"),
    "decompress": ("worldsim.compression.decompress", "restore frames and controls of a compressed episode"),
}
"""Command -> the module whose ``main(argv) -> exit code`` it calls, and its help text."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for a user's error, 130 for Ctrl-C or SIGTERM."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words:
        _parser().print_help(sys.stderr)
        return 2
    with _sigterm_as_ctrl_c():
        return run_command(lambda: _run(words))


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """End a command by SIGTERM as by Ctrl-C: it keeps what it has, and releases what it holds."""
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run(words: list[str]) -> int:
    """Import the modules that the line names, then run its command."""
    words, modules = _without_imports(words)
    arguments = _parser().parse_args(words)
    for name in modules:
        import_parts(name)
    module, _ = _COMMANDS[arguments.command]
    return int(importlib.import_module(module).main(arguments.rest))


def _without_imports(words: list[str]) -> tuple[list[str], list[str]]:
    """The line without its ``--import MODULE``, wherever they stand, and the modules."""
    rest, modules, line = [], [], iter(words)
    for word in line:
        option, equals, value = word.partition("=")
        if option != "--import":
            rest.append(word)
            continue
        module = value if equals else next(line, "")
        if not module:
            raise ConfigError("--import needs the name of a module", None, "see `worldsim --help`")
        modules.append(module)
    return rest, modules


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, _COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in _COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="worldsim",
        usage="worldsim [--import MODULE] COMMAND [options]",
        description=worldsim.__doc__,
        epilog=f"commands:\n{table}\n\n'worldsim COMMAND --help' lists a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"worldsim {worldsim.__version__}")
    parser.add_argument(
        "--import", metavar="MODULE", help="import a module that registers parts of your own; may be repeated"
    )
    parser.add_argument("command", choices=_COMMANDS, help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
