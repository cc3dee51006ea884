"""The cost of a unit: its autoregressive steps, its latency, and the tokens of each step."""

from __future__ import annotations

from dataclasses import dataclass

from worldsim.units.protocol import Unit


@dataclass(frozen=True, slots=True)
class UnitCost:
    """The cost of one unit, in numbers that need no measurement."""

    steps: int
    """Autoregressive steps: each takes K denoising passes."""
    latency: int
    """Frames that are imagined under controls that are known ahead, at least 1.

    With 1 every frame answers its own control. With more, a control that was not foreseen begins a new unit:
    it takes effect at once, and what was imagined beyond it is lost."""
    predicted: tuple[int, ...]
    """Tokens that each step predicts."""
    seen: tuple[int, ...]
    """Tokens of the unit that each step sees: its own, and those of the steps before it."""

    @property
    def steps_per_frame(self) -> float:
        """Autoregressive steps per frame."""
        return self.steps / self.latency


def cost_of(unit: Unit) -> UnitCost:
    """The cost of ``unit``."""
    order, mask = unit.order(), unit.mask()
    seen = tuple(int(mask[list(tokens)].any(0).sum()) for tokens in order)
    return UnitCost(len(order), unit.frames, tuple(map(len, order)), seen)
