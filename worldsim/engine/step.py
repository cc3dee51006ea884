"""One step of a session: the new frame and what the model says of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True, slots=True)
class Step:
    """One imagined frame."""

    frame: np.ndarray
    """uint8 [H, W, 3]; empty, [0, 0, 3], if no frame was requested."""
    pose: np.ndarray | None
    """Camera-to-world, float64 [4, 4], metres; None where the source has no poses."""
    pose_given: bool
    """True if the pose was explicit; otherwise the model predicted it from the keys."""
    reward: float
    """Reward of this frame, as the world imagines the source's."""
    terminated: bool
    """True if the episode ends with this frame, as the world imagines it; a session can be stepped on."""
    uncertainty: float | None
    """Expected error of the frame in [0, 1]. It combines the difference between the frame and its prior, as a
    share of the pixel range, and the pose uncertainty, which counts 0.5 at one metre and reference contrast.
    In a world of bits with known chances the mean entropy of the drawn bits, scale by scale, stands in for
    that difference. 1 where the pose is not known; None in a world without poses and without chances."""
    index: int
    """Number of the frame; 0 is the first of the frames that the session began with."""
    denoising_steps: int = 0
    """Denoising passes taken, K; 0 where the frame was given."""
    latent: np.ndarray | None = field(default=None, repr=False)
    """The frame's code, float32 [N, C]; None where the frame was given."""
    known: bool = True
    """False if the pose lies outside the training data, so that the frame is made up: with a static scene off
    the walkable map, above or below the trained heights, or with pitch or roll; without one for an explicit
    pose that is tilted, or farther from the one before than any step."""
    surprise: float | None = None
    """Bits of information in the frame: minus the binary logarithm of its bits' probability, given all before
    it. Of an imagined frame those bits count that were drawn. None in a world that knows no such chances."""

    def with_real(self, frame: np.ndarray) -> Step:
        """The same step with a copy of a real frame, uint8 [H, W, 3]."""
        uncertainty = None if self.uncertainty is None else 0.0
        return replace(self, frame=frame.copy(), uncertainty=uncertainty, latent=None)
