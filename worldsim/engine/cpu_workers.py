"""Rows of a batch side by side: on a CPU every core steps rows of its own.

A batch-wide operation on many worlds leaves the cores' caches, and its threads wait for each other after
every one of a thousand small operations. A few worlds a core at a time do neither.

Which lane a row gets does not change its frames, to the bit. Kernels never look at a row's neighbours; where
torch multiplies, a self-test says whether rows may be stepped together, and whether one that is alone may
have several threads (``World.invariance``). If not, each is a lane of its own, or has one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from worldsim.engine.self_test import Invariance
from worldsim.engine.thread_tuner import ThreadTuner
from worldsim.utils.threads import call_after_fork, thread_limit

T = TypeVar("T")

_PIXELS = 8 * 120 * 160
"""Of frames that a core steps at once: with more of them, what lies between layers leaves its cache."""
_MOST = 32
"""Worlds that a core steps at once, however small: a turn reads all weights. The self-test tries as many."""


class CpuWorkers:
    """Splits rows over the cores of a CPU; another device gets them all at once.

    Args:
        size: height and width of a frame.
        together: rows that a core steps at once whatever the self-test says; None: as many as it allows.
        invariance: whether rows come out the same in every batch and on any number of threads.
    """

    def __init__(
        self,
        device: torch.device,
        size: tuple[int, int],
        invariance: Invariance,
        together: int | None = None,
    ) -> None:
        self._invariance, most = invariance, _MOST if invariance.batch else 1
        self._rows = together or min(most, max(1, _PIXELS // (size[0] * size[1])))
        self._threads = torch.get_num_threads() if device.type == "cpu" else 1
        self._device, self._pool = device, None if self._threads == 1 else self._workers()
        self._tuners: dict[Hashable, ThreadTuner] = {}
        call_after_fork(self._renew)

    def run(
        self, count: int, work: Callable[[np.ndarray], T], kind: Hashable = None
    ) -> list[tuple[np.ndarray, T]]:
        """``work(rows)`` for all of ``range(count)``, in parts; the parts and their results in order.

        Work of one ``kind`` takes equally long for each row.
        """
        parts = self._split(count)
        if self._pool is None:
            return [(rows, work(rows)) for rows in parts]
        if count == 1:
            return [(parts[0], self._alone(parts[0], work, kind))]
        return list(zip(parts, self._pool.map(work, parts), strict=True))

    def _alone(self, row: np.ndarray, work: Callable[[np.ndarray], T], kind: Hashable) -> T:
        """``work`` on as many threads as answer soonest and change nothing."""
        if not self._invariance.threads:
            with thread_limit(1):
                return work(row)
        tuner = self._tuners.setdefault(kind, ThreadTuner(self._threads))
        threads, began = tuner.choose(), time.perf_counter()
        with thread_limit(threads):
            done = work(row)
        tuner.record(threads, time.perf_counter() - began)
        return done

    def _split(self, count: int) -> list[np.ndarray]:
        rows = np.arange(count)
        if self._device.type != "cpu" or count == 1:
            return [rows]
        lanes = min(count, self._threads)
        parts = np.array_split(rows, -(-count // (lanes * self._rows)) * lanes)
        return [part for part in parts if len(part)]

    def _workers(self) -> ThreadPoolExecutor:
        """One thread a core, each of which computes alone: torch counts its threads for every caller."""
        return ThreadPoolExecutor(self._threads, "lane", initializer=torch.set_num_threads, initargs=(1,))

    def _renew(self) -> None:
        """Go on in a forked child, which has none of the workers."""
        self._threads, self._pool = 1, None
