"""CPU workers: the rows of a batch are sharded, and every core steps shards of its own.

An operation over many worlds would leave the cores' caches, and its threads would synchronise after each of a
thousand small operations. A shard of a few worlds per core avoids both.

The shard of a row does not change its frames, to the bit. Kernels never read a row's neighbours; where torch
multiplies, a self-test tells whether rows may share a shard, and whether a single row may use several threads
(``World.invariance``). If not, each row is a shard, or runs on one thread.
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
"""Pixels of the frames that a core steps at once: with more, activations leave its cache."""
_MOST = 32
"""Worlds that a core steps at once at most; the self-test tries as many."""


class CpuWorkers:
    """Shards rows over the cores of a CPU; another device gets them all at once.

    Args:
        size: height and width of a frame.
        together: rows per shard, whatever the self-test says; None: as many as it allows.
        invariance: result of the self-test.
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
        """Run ``work(rows)`` on all of ``range(count)``; returns the shards and their results in order.

        Work of one ``kind`` takes equally long for each row.
        """
        shards = self._split(count)
        if self._pool is None:
            return [(rows, work(rows)) for rows in shards]
        if count == 1:
            return [(shards[0], self._alone(shards[0], work, kind))]
        return list(zip(shards, self._pool.map(work, shards), strict=True))

    def _alone(self, row: np.ndarray, work: Callable[[np.ndarray], T], kind: Hashable) -> T:
        """Run ``work`` on one row, with the fastest number of threads that keeps its bits."""
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
        workers = min(count, self._threads)
        shards = np.array_split(rows, -(-count // (workers * self._rows)) * workers)
        return [shard for shard in shards if len(shard)]

    def _workers(self) -> ThreadPoolExecutor:
        """One worker per core, each of which runs torch on one thread."""
        return ThreadPoolExecutor(
            self._threads, "worldsim-worker", initializer=torch.set_num_threads, initargs=(1,)
        )

    def _renew(self) -> None:
        """Continue without workers in a forked child, which has none."""
        self._threads, self._pool = 1, None
