"""Losses that several objectives share.

Shapes: B clips, H x W frame.
"""

from __future__ import annotations

from torch import Tensor

from worldsim.model.dynamics import METRES_PER_RADIAN

__all__ = ["LATENT_L2", "pose_uncertainty_loss", "reconstruction_loss", "warp_loss"]

LATENT_L2 = 0.01
"""Weight of the latents' mean square: it keeps uninformative latents near 0 and out of the tails of tanh."""

_TRUSTED_ERROR = 0.1
"""Error of a warped pixel, in [-1, 1], at which the confidence in it is 1 / e."""


def reconstruction_loss(made: Tensor, true: Tensor) -> Tensor:
    """L1 + MSE + L1 of the image gradients, which blur loses first; frames [B, 3, H, W]."""
    error = made - true
    loss = error.abs().mean() + error.square().mean()
    for slope in (error.diff(dim=-1), error.diff(dim=-2)):
        if slope.numel():  # a frame one pixel high or wide has none that way
            loss = loss + slope.abs().mean()
    return loss


def warp_loss(warped: Tensor, confidence: Tensor, true: Tensor) -> Tensor:
    """Photometric loss of a learnt warp, and squared error of the confidence in it.

    The mean absolute error of ``warped`` [B, 3, H, W] trains the flow. The confidence [B, 1, H, W] is to fall
    with the error of its pixel: 1 where there is none, 1 / e at 0.1.
    """
    error = (warped - true).abs().mean(1, keepdim=True)
    deserved = (-error.detach() / _TRUSTED_ERROR).exp()
    return error.mean() + (confidence - deserved).square().mean()


def pose_uncertainty_loss(uncertainty: Tensor, metres: Tensor, radians: Tensor) -> Tensor:
    """Negative log-likelihood of position and direction errors [B] under an exponential distribution.

    ``uncertainty`` [B] is the distribution's mean.
    """
    error, scale = (metres + METRES_PER_RADIAN * radians).detach(), uncertainty + 1e-3
    return (scale.log() + error / scale).mean()
