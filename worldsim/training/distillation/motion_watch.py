"""A watch over motion: distribution matching may end in worlds in which nothing moves.

Shapes: B clips, T frames, H x W frame.
"""

from __future__ import annotations

from torch import Tensor, nn

LEAST_RATIO = 0.6
"""Ratio of imagined to real motion below which a training ends."""
_DECAY = 0.7
"""Share of the mean so far that a new reading leaves."""
_FIRST_READINGS = 3
"""Readings before a verdict."""


def motion(frames: Tensor) -> float:
    """Mean absolute change from frame to frame, of frames [B, T, 3, H, W]."""
    return float(frames.float().diff(dim=1).abs().mean())


class MotionWatch:
    """Running ratio of imagined to real motion; keeps the weights of ``module`` of the last good reading.

    Args:
        module: the network whose weights are put back where motion dies.
        least: the ratio below which it ends. A generator that moved less than that to begin with, because it
            was trained too shortly, is held to the same share of its first readings.
    """

    def __init__(self, module: nn.Module, least: float = LEAST_RATIO) -> None:
        self._module, self._least = module, least
        self._imagined = self._real = 0.0
        self._readings, self._bound = 0, least
        self._good: dict[str, Tensor] = {}
        self.ended = False

    @property
    def ratio(self) -> float:
        """Imagined over real motion, weighted towards the newest readings; 1 before the first."""
        return self._imagined / max(self._real, 1e-9) if self._readings else 1.0

    def read(self, imagined: Tensor, real: Tensor) -> None:
        """Take in clips of imagined and of real frames, both [B, T, 3, H, W]."""
        keep, (now, then) = _DECAY if self._readings else 0.0, (motion(imagined), motion(real))
        self._imagined = keep * self._imagined + (1 - keep) * now
        self._real = keep * self._real + (1 - keep) * then
        self._readings += 1
        if self._readings <= _FIRST_READINGS:
            self._bound = self._least * (1.0 if self.ratio >= self._least else self.ratio)
        self.ended = self._readings >= _FIRST_READINGS and self.ratio < self._bound
        if not self.ended and now >= self._bound * then:
            self._good = {name: value.clone() for name, value in self._module.state_dict().items()}

    def verdict(self) -> str | None:
        """The reason to end the training, or None; the weights are those of the last good reading then."""
        if not self.ended:
            return None
        if self._good:
            self._module.load_state_dict(self._good)
        return f"imagined motion fell to {self.ratio:.2f} of the real, below {self._bound:.2g}"
