"""How far a dream may have come from the truth, as it can be told without knowing the truth.

Shapes: B worlds, H x W frame.
"""

from __future__ import annotations

from torch import Tensor

from worldsim.kernels import image_ops, library
from worldsim.tokenizer.protocol import Prior


def frame_uncertainty(
    frame: Tensor, prior: Prior, pose_uncertainty: Tensor, typical_contrast: float
) -> Tensor:
    """What picture and camera may have lost, float32 [B] in [0, 1]; ``pose_uncertainty`` [B] is in metres.

    Of the picture: where the past speaks, how far the frame is from what it said, as a share of the pixel
    range. Of the camera: the error to be expected, which is learnt on walks and adds up until a pose is
    given, as the picture shows it: seen from elsewhere, a wall without a seam looks the same. Half at one
    metre, where there is as much to see as usual; pictures come apart with the root of the distance, about.
    """
    if library.accepts(frame, prior.warped_rgb, prior.warp_confidence):
        off, believed, contrast = image_ops.warp_statistics(
            frame, prior.warped_rgb, prior.warp_confidence
        ).unbind(1)
    else:
        off, believed = (
            _mean((frame - prior.warped_rgb).abs() * prior.warp_confidence),
            _mean(prior.warp_confidence),
        )
        contrast = frame_contrast(frame)
    surprise = off / believed.clamp(min=0.05) / 2
    return 1 - (1 - surprise) / (1 + contrast / typical_contrast * pose_uncertainty.sqrt())


def frame_contrast(frame: Tensor) -> Tensor:
    """Mean length of the brightness gradient [B] of frames [B, 3, H, W]."""
    grey = frame.float().mean(1)
    across, down = grey[:, :-1].diff(dim=2), grey.diff(dim=1)[:, :, :-1]
    return _mean((across.square() + down.square()).sqrt())


def _mean(image: Tensor) -> Tensor:
    """Of [B, ..., W], [B]. Row by row first: threads share a long sum, and round it otherwise."""
    return image.mean(-1).flatten(1).mean(-1)
