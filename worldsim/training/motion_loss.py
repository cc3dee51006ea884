"""Loss of the camera's motion in worlds without a static scene, where it is read from the agent's features.

Shapes: B windows, T arrivals, M control vector, D agent features, P past twists.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.networks import Networks
from worldsim.training.losses import pose_uncertainty_loss


def motion_loss(
    networks: Networks,
    vector: Tensor,
    twist: Tensor,
    planar: Tensor,
    agent: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the smooth L1 error of the twist into each arrival but the first, and that of its expected size.

    Args:
        networks: their heads predict motion.
        vector: control vectors that led to each arrival [B, T, M].
        twist: normalised twists, likewise [B, T, 6].
        planar: x, y, z, yaw of each arrival's camera [B, T, 4].
        agent: features of each arrival [B, T, D]; those of one predict the twist into the next.
        weight: of each arrival [B, T]; None: all alike.
    """
    assert networks.heads.motion is not None, "only a source with poses has motion"
    past, scale = networks.config.heads.twists, twist.new_tensor(networks.config.twist_scale)
    steps = F.pad(torch.cat([networks.steering(vector), twist], -1), (0, 0, past, 0))
    # of B (T - 1) steps, each with those before it [.., P + 1, J + 6]
    moves = steps.unfold(1, past + 1, 1)[:, 1:].transpose(-1, -2).flatten(0, 1)
    controls, twists = moves[..., :-6], moves[..., -6:]
    state, height = agent[:, :-1].float().flatten(0, 1), planar[:, :-1, 2].flatten()
    step = networks.heads.predict_motion(state, None, controls, twists[:, :-1] * scale, height)
    turn = networks.heads.motion.predict_rotation(controls, twists[:, :-1] * scale)
    moved = torch.cat([step.twist[:, :3], turn], 1) / scale.clamp(min=1e-6)
    error = (moved - twists[:, -1]).masked_fill(scale == 0, 0)
    if weight is not None:
        error = error * weight[:, 1:].reshape(-1, 1)
    uncertainty = pose_uncertainty_loss(
        step.step_error, *((error * scale)[:, part].norm(dim=1) for part in (slice(3), slice(3, 6)))
    )
    return F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1) + 0.1 * uncertainty
