"""Temperatures of sessions: one for all, or one of its own in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypeAlias

import torch
from torch import Tensor

from worldsim.engine.snapshot_rules import MAX_TEMPERATURE
from worldsim.errors import EngineError

__all__ = ["Temperature", "TemperatureRange", "check_temperature"]

Temperature: TypeAlias = float | tuple[float, float]
"""A temperature, or the lowest and the highest one."""
_GOLDEN = 0.6180339887498949
"""Seeds that follow each other are spread evenly by multiples of it."""


def check_temperature(value: float) -> float:
    """Return ``value``.

    Raises:
        EngineError: it is not a temperature.
    """
    if not 0 <= value <= MAX_TEMPERATURE:
        raise EngineError(f"a temperature must be in [0, {MAX_TEMPERATURE:g}]", value, "use 1, as trained")
    return value


@dataclass(frozen=True, slots=True)
class TemperatureRange:
    """Temperatures from ``low`` to ``high``; a session's own follows from its seed."""

    low: float
    high: float

    @classmethod
    def read(cls, value: Temperature) -> Self:
        """The range that ``value`` stands for.

        Raises:
            EngineError: no temperature, or a range whose ends are not in order.
        """
        low, high = value if isinstance(value, tuple) else (value, value)
        if check_temperature(low) > check_temperature(high):
            raise EngineError("a range of temperatures must be (low, high)", value, f"use {(high, low)}")
        return cls(low, high)

    def of(self, seed: int) -> float:
        """Temperature of the session of a seed."""
        return float(self.of_all(torch.tensor([seed % 2**31]))[0])

    def of_all(self, seeds: Tensor) -> Tensor:
        """Temperatures float32 [N] of the sessions of ``seeds``, int64 [N]."""
        share = (seeds % 2**31).double() * _GOLDEN % 1.0
        return (self.low + (self.high - self.low) * share).float()
