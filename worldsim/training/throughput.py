"""Throughput of a training: steps a second and model FLOPs utilisation."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode

from worldsim.training.stage import Logs

_COUNTED = 2
"""Step in which operations are counted."""


class Throughput:
    """Timer of a stage's steps; their floating-point operations are counted once, in the second step.

    The first one may do what is done only once, such as encoding all data.

    A GPU runs asynchronously: the time between two readings is only right if the reader waits for the GPU in
    each, as reading a loss does.

    Args:
        peak: FLOP/s of the machine's matmuls.
    """

    def __init__(self, peak: float) -> None:
        self._peak = peak
        self._flops: int | None = None
        self._steps, self._since, self._taken = 0, time.monotonic(), 0

    def run(self, step: Callable[[], Logs]) -> Logs:
        """Take one step; return its logs."""
        self._steps, self._taken = self._steps + 1, self._taken + 1
        if self._taken != _COUNTED:
            return step()
        with FlopCounterMode(display=False) as counter:
            logs = step()
        self._flops = counter.get_total_flops()
        return logs

    def read(self) -> Logs:
        """Return ``steps_per_s`` and ``mfu`` in [0, 1] since the last reading; 0 before the second step."""
        now = time.monotonic()
        rate = self._steps / max(now - self._since, 1e-9)
        self._steps, self._since = 0, now
        return {"steps_per_s": rate, "mfu": (self._flops or 0) * rate / self._peak}
