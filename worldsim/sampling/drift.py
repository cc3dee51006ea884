"""How far a dream may have come from the truth, as it can be told without knowing the truth.

Shapes: B worlds, H x W frame.
"""

from __future__ import annotations

from torch import Tensor

from worldsim.kernels import frames, library
from worldsim.tokenizer.protocol import Prior

_USUAL = 0.052
"""Contrast of a maze's picture, on the average."""


def drift_of(frame: Tensor, prior: Prior, doubt: Tensor) -> Tensor:
    """What picture and camera may have lost, float32 [B] in [0, 1]; ``doubt`` [B] is in metres.

    Of the picture: where the past speaks, how far the frame is from what it said, as a share of the pixel
    range. Of the camera: the error to be expected, which is learnt on walks and adds up until a pose is
    given, as the picture shows it: seen from elsewhere, a wall without a seam looks the same. Half at one
    metre, where there is as much to see as usual; pictures come apart with the root of the distance, about.
    """
    if library.can_take(frame, prior.warped, prior.valid):
        off, believed, contrast = frames.strayed(frame, prior.warped, prior.valid).unbind(1)
    else:
        off, believed = _mean((frame - prior.warped).abs() * prior.valid), _mean(prior.valid)
        contrast = _contrast(frame)
    surprise = off / believed.clamp(min=0.05) / 2
    return 1 - (1 - surprise) / (1 + contrast / _USUAL * doubt.sqrt())


def _contrast(frame: Tensor) -> Tensor:
    """Mean length of the brightness gradient [B] of frames [B, 3, H, W]."""
    grey = frame.float().mean(1)
    across, down = grey[:, :-1].diff(dim=2), grey.diff(dim=1)[:, :, :-1]
    return _mean((across.square() + down.square()).sqrt())


def _mean(image: Tensor) -> Tensor:
    """Of [B, ..., W], [B]. Row by row first: threads share a long sum, and round it otherwise."""
    return image.mean(-1).flatten(1).mean(-1)
