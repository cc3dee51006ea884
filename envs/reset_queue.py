"""Prefetched episodes on the device, so that a reset does not wait for the host."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from worldsim.sampling.philox import signed
from worldsim.sampling.upload import upload

__all__ = ["ResetQueue"]

_DEPTH = 32
"""Episodes that are drawn ahead: enough until the next refill even if each lasts a single frame."""
_PERIOD = 8
"""Frames between two refills; a refill reads the counts that the one before requested."""


class ResetQueue:
    """Queues of (seed, number of a start), one for each of ``count`` rows of a vector.

    The device takes from them by a mask. The host reads a few frames later how many were taken, when the copy
    has long arrived, and refills the queues.

    Args:
        draw: draws the next (seed, start) of a row.
    """

    def __init__(self, count: int, device: torch.device, draw: Callable[[int], tuple[int, int]]) -> None:
        self._draw, self._device = draw, device
        self._queues: list[deque[tuple[int, int]]] = [deque() for _ in range(count)]
        self._taken = torch.zeros(count, dtype=torch.int64, device=device)
        self._asked: tuple[Tensor, torch.cuda.Event | None] | None = None
        self._frames = 0
        self._send()

    def take(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Seeds and starts, int64 [N] each; those of the rows in ``mask``, bool [N], are used up."""
        if self._frames % _PERIOD == 0:
            self._refill()
        self._frames += 1
        column = self._taken.expand(2, -1)[..., None]
        seeds, starts = self._table.gather(2, column)[..., 0].unbind(0)
        self._taken = self._taken + mask
        return seeds, starts

    def draw(self, rows: Iterable[int]) -> list[int]:
        """Draw the next seed of some rows, on the host; waits for the device."""
        self._use_up(self._taken.cpu())
        seeds = [self._queues[row].popleft()[0] for row in rows]
        self._send()
        return seeds

    def forget(self, rows: Iterable[int]) -> None:
        """Drop the queued episodes of some rows; waits for the device."""
        self._use_up(self._taken.cpu())
        for row in rows:
            self._queues[row].clear()
        self._send()

    def _refill(self) -> None:
        """Replace the episodes that were taken at the last call, and request the counts again."""
        if self._asked is not None:
            taken, arrived = self._asked
            if arrived is not None:
                arrived.synchronize()
            if taken.any():
                self._use_up(taken)
                self._send()
        self._asked = _fetched(self._taken)

    def _use_up(self, taken: Tensor) -> None:
        for queue, count in zip(self._queues, taken.tolist(), strict=True):
            for _ in range(count):
                queue.popleft()
        self._taken = self._taken - upload(taken.numpy().copy(), self._device)
        self._asked = None

    def _send(self) -> None:
        for row, queue in enumerate(self._queues):
            while len(queue) < _DEPTH:
                queue.append(self._draw(row))
        rows = [[(signed(seed), start) for seed, start in queue] for queue in self._queues]
        table = np.ascontiguousarray(np.array(rows, np.int64).transpose(2, 0, 1))
        self._table = upload(table, self._device)


def _fetched(tensor: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A copy on the host, and the event of its arrival; None: it has arrived."""
    if tensor.device.type != "cuda":
        return tensor.clone(), None
    host = torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event
