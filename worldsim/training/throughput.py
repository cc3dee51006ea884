"""How fast a training goes, and which share of the machine's matmul peak that is."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode

from worldsim.training.stage import Logs


class Throughput:
    """Times the steps of a stage; their floating-point operations are counted once, in the first one.

    Args:
        peak: FLOP/s of the machine's matmuls.
    """

    def __init__(self, peak: float) -> None:
        self._peak = peak
        self._flops: int | None = None

    def measure(self, step: Callable[[], Logs]) -> Logs:
        """The step's figures, with ``steps_per_s`` and ``peak_share`` in [0, 1]; the first step is slower."""
        began = time.monotonic()
        if self._flops is None:
            with FlopCounterMode(display=False) as counter:
                logs = step()
            self._flops = counter.get_total_flops()
        else:
            logs = step()
        took = max(time.monotonic() - began, 1e-9)
        return {**logs, "steps_per_s": 1 / took, "peak_share": self._flops / took / self._peak}
