"""Threads of torch and the kernels: how many the calling thread takes, and how they wait for each other.

Both share one OpenMP. Its threads look for each other at barriers before they sleep, by itself for so long
(18 ms on Intel) that two programs on the same cores keep each other from going on; ``bound_spinning`` limits
that. A forked child inherits none of its threads and would wait for them for ever; there one thread does all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakMethod

_SPINS = "10000"
"""Looks for others before a thread sleeps: half a millisecond. Steps of 13 ms took 1.2 s without."""

_guarded = False
_renewals: list[WeakMethod[Callable[[], None]]] = []


def bound_spinning() -> None:
    """Let OpenMP's threads sleep soon, unless the user decided otherwise; nothing once torch is imported."""
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


@contextmanager
def limited(count: int) -> Iterator[None]:
    """Take ``count`` threads within the block; as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def guard_forks() -> None:
    """See to it that children forked from now on take one thread; may be called again."""
    global _guarded
    if not _guarded and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_in_child)
    _guarded = True


def renew_after_fork(renew: Callable[[], None]) -> None:
    """Have a bound method called in every child that is forked while its object lives."""
    guard_forks()
    _renewals[:] = [other for other in _renewals if other() is not None]
    _renewals.append(WeakMethod(renew))


def _in_child() -> None:
    import torch

    torch.set_num_threads(1)
    for renewal in _renewals:
        if (renew := renewal()) is not None:
            renew()
