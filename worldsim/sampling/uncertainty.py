"""Uncertainty of imagined frames: an estimate of their error without the true frame.

Shapes: B worlds, H x W frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.kernels import image_ops, library
from worldsim.tokenizer.protocol import Prior


def frame_uncertainty(
    frame: Tensor,
    prior: Prior,
    pose_uncertainty: Tensor | None,
    typical_contrast: float,
    doubt: Tensor | None = None,
) -> Tensor:
    """Uncertainty of each frame, float32 [B] in [0, 1].

    ``pose_uncertainty`` [B] is in metres; None where there are no poses.

    Combines (a) the mean absolute difference between the frame and the warped previous frame, weighted by
    the warp's confidence, or the ``doubt`` [B] of its chances where these are known (see
    ``sampling.protocol.Chances``), and (b) the pose uncertainty, weighted by image contrast: a wall without
    texture looks the same from elsewhere. Equals 0.5 at 1 m of pose uncertainty and ``typical_contrast``;
    grows with the square root of the distance.
    """
    if pose_uncertainty is None and (doubt is not None or prior.is_unknown):
        return frame.new_zeros(len(frame), dtype=torch.float32) if doubt is None else doubt
    has_slopes = min(frame.shape[-2:]) > 1
    if has_slopes and library.accepts(frame, prior.warped_rgb, prior.warp_confidence):
        off, believed, contrast = image_ops.warp_statistics(
            frame, prior.warped_rgb, prior.warp_confidence
        ).unbind(1)
    else:
        off, believed = (
            _mean((frame - prior.warped_rgb).abs() * prior.warp_confidence),
            _mean(prior.warp_confidence),
        )
        contrast = frame_contrast(frame)
    if doubt is None:
        doubt = off / believed.clamp(min=0.05) / 2
    if pose_uncertainty is None:
        return doubt
    return 1 - (1 - doubt) / (1 + contrast / typical_contrast * pose_uncertainty.sqrt())


def frame_contrast(frame: Tensor) -> Tensor:
    """Mean length of the brightness gradient [B] of frames [B, 3, H, W]; 0 for lines of pixels."""
    if min(frame.shape[-2:]) < 2:
        return frame.float().new_zeros(len(frame))
    grey = frame.float().mean(1)
    across, down = grey[:, :-1].diff(dim=2), grey.diff(dim=1)[:, :, :-1]
    return _mean((across.square() + down.square()).sqrt())


def _mean(image: Tensor) -> Tensor:
    """Mean [B] of [B, ..., W], row by row first: a long sum is split among threads and rounds otherwise."""
    return image.mean(-1).flatten(1).mean(-1)
