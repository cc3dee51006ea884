"""What a session answers to a control."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True, slots=True)
class Step:
    """One imagined frame."""

    frame: np.ndarray
    """uint8 [H, W, 3]; empty, [0, 0, 3], where the step was asked for no frame."""
    pose: np.ndarray | None
    """Camera-to-world, float64 [4, 4], metres; None where the source has no poses."""
    pose_given: bool
    """Whether the pose was explicit; otherwise the model predicted it from the keys."""
    reward: float
    terminated: bool
    uncertainty: float | None
    """How far the dream may be from the truth, from 0 (not at all) to 1 (all is lost): how far the frame is
    from what its past foretold, as a share of the pixel range, and how far off the camera may be, half at a
    metre in a picture of usual contrast. 1 where the pose is not known; None in a world without poses."""
    index: int
    """Frames since the session began, given ones included."""
    denoising_steps: int = 0
    """Denoising passes taken, K; 0 where the frame was given."""
    latent: np.ndarray | None = field(default=None, repr=False)
    """The frame's code, float32 [N, C]; None where the frame was given."""
    known: bool = True
    """Whether the world knows what is seen from the pose. False off its map, above or below the heights that
    it was learnt at, and for pitch or roll that it cannot draw; in a world without a static scene, for an
    explicit pose that is tilted, or farther from the one before than any step: the picture is made up."""

    def with_real(self, frame: np.ndarray) -> Step:
        """The same with a real frame, uint8 [H, W, 3], copied: nothing of it is lost."""
        uncertainty = None if self.uncertainty is None else 0.0
        return replace(self, frame=frame.copy(), uncertainty=uncertainty, latent=None)
