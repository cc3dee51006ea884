"""Threads of torch and the kernels: their number, how long they spin, and what a fork does to them.

Both share one OpenMP runtime. Its threads spin at barriers before they sleep, by default for so long (18 ms
on Intel) that two programs on the same cores block each other; ``limit_spinning`` shortens that. A forked
child inherits none of the threads and would wait for them for ever; it runs on one thread.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakMethod

_SPINS = "10000"
"""Spins before a thread sleeps: half a millisecond. Without the limit steps of 13 ms took 1.2 s."""

_PARALLEL = 2**20
"""Elements of a tensor that torch shares among threads."""

_guarded = False
_renewals: list[WeakMethod[Callable[[], None]]] = []


def limit_spinning() -> None:
    """Let OpenMP's threads sleep soon, unless the user configured it. Call it before torch is imported."""
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


@contextmanager
def thread_limit(count: int) -> Iterator[None]:
    """Use ``count`` threads within the block; restore the number afterwards."""
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


def start_worker_threads() -> None:
    """Start OpenMP's threads for parallel regions of the calling thread; they keep its present priority."""
    import torch

    torch.zeros(_PARALLEL).add_(1)


def single_thread_after_fork() -> None:
    """Let children that are forked from now on use one thread; may be called again."""
    global _guarded
    if not _guarded and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_in_child)
    _guarded = True


def call_after_fork(renew: Callable[[], None]) -> None:
    """Call a bound method in every child that is forked while its object lives."""
    single_thread_after_fork()
    _renewals[:] = [other for other in _renewals if other() is not None]
    _renewals.append(WeakMethod(renew))


def _in_child() -> None:
    import torch

    torch.set_num_threads(1)
    for renewal in _renewals:
        if (renew := renewal()) is not None:
            renew()
