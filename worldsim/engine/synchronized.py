"""Mutual exclusion between the methods of an object."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from threading import RLock
from typing import Any, TypeVar

from worldsim.engine.in_process import InProcess
from worldsim.utils.threads import call_after_fork


class Synchronized(InProcess):
    """Base of classes whose methods named by ``synchronized`` exclude each other."""

    def __init__(self) -> None:
        self.lock = RLock()
        """Held while one of these methods runs."""
        call_after_fork(self._renew)

    def _renew(self) -> None:
        """Take a new lock in a forked child: the thread that held the old one is not there."""
        self.lock = RLock()


C = TypeVar("C", bound=Synchronized)


def synchronized(*names: str) -> Callable[[type[C]], type[C]]:
    """Class decorator: only one thread at a time runs the named methods of an object."""

    def decorated(kind: type[C]) -> type[C]:
        for name in names:
            setattr(kind, name, _waiting(getattr(kind, name)))
        return kind

    return decorated


def _waiting(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def run(self: Synchronized, /, *args: Any, **kwargs: Any) -> Any:
        with self.lock:
            return method(self, *args, **kwargs)

    return run
