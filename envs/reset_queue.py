"""The episodes to come, drawn ahead and kept on the device, so that one can begin without the host."""

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
"""Episodes that are drawn ahead. Even if each lasts a single frame, they last until they are drawn anew."""
_PERIOD = 8
"""Frames between two looks at how many were taken; the first look's answer is read at the second."""


class ResetQueue:
    """Queues of (seed, number of a start), one for each of ``count`` places of a vector.

    The device takes from them by a mask. The host learns how many were taken a few frames later, when the
    answer has long arrived, and fills them up again.

    Args:
        draw: the next (seed, start) of a place, in the order of its own chance.
    """

    def __init__(self, count: int, device: torch.device, draw: Callable[[int], tuple[int, int]]) -> None:
        self._draw, self._device = draw, device
        self._queues: list[deque[tuple[int, int]]] = [deque() for _ in range(count)]
        self._taken = torch.zeros(count, dtype=torch.int64, device=device)
        self._asked: tuple[Tensor, torch.cuda.Event | None] | None = None
        self._frames = 0
        self._send()

    def take(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Seeds and starts, int64 [N] each; those of the places in ``mask``, bool [N], are used up."""
        if self._frames % _PERIOD == 0:
            self._look()
        self._frames += 1
        column = self._taken.expand(2, -1)[..., None]
        seeds, starts = self._table.gather(2, column)[..., 0].unbind(0)
        self._taken = self._taken + mask
        return seeds, starts

    def draw(self, places: Iterable[int]) -> list[int]:
        """The next seed of some places, on the host; waits for the device."""
        self._use_up(self._taken.cpu())
        seeds = [self._queues[place].popleft()[0] for place in places]
        self._send()
        return seeds

    def forget(self, places: Iterable[int]) -> None:
        """Draw anew what was to come in some places; waits for the device."""
        self._use_up(self._taken.cpu())
        for place in places:
            self._queues[place].clear()
        self._send()

    def _look(self) -> None:
        """Fill up what had been taken when this was last called, and ask anew."""
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
        for place, queue in enumerate(self._queues):
            while len(queue) < _DEPTH:
                queue.append(self._draw(place))
        rows = [[(signed(seed), start) for seed, start in queue] for queue in self._queues]
        table = np.ascontiguousarray(np.array(rows, np.int64).transpose(2, 0, 1))
        self._table = upload(table, self._device)


def _fetched(tensor: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A copy on the host, and what tells that it has arrived; None: it has."""
    if tensor.device.type != "cuda":
        return tensor.clone(), None
    host = torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event
