"""Tasks of a report that failed: each says why, and the others are reported all the same."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from worldsim.errors import WorldsimError

__all__ = ["Failures"]

_log = logging.getLogger(__name__)


class Failures(dict[str, str]):
    """Name of a part -> reason why it could not be measured."""

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Note an error of the block as a failure of ``part``, and go on after it."""
        try:
            yield
        except WorldsimError as error:
            self[part] = str(error)
        except Exception as error:  # whatever it is, hours of other metrics shall not be lost with it
            _log.debug("the part %r failed", part, exc_info=True)
            self[part] = f"{type(error).__name__}: {error}"
