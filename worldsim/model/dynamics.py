"""Camera dynamics: a nearly linear law of motion under keys, and a network for its residual.

A body with inertia and friction moves by a fixed linear combination of its last displacements and of the
forces of the keys, all expressed in its current frame. Its rotation depends on how long a key was held. So
the rotation is predicted first; the linear law is solved for by least squares; a residual network adds the
effects of walls, steps and the swing of a walk. A network alone takes hours to learn to the centimetre what
the linear layer has exactly at once, and errors of a centimetre a frame add up to metres.

Shapes: B cameras, M keys and yaw, P past twists, S of what is around; a twist is 6 long: metres right, down
and forward, then radians about these axes, in the camera's frame before the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from worldsim.batch_invariant import BatchInvariantLinear
from worldsim.kernels.motion import MotionKernel, PackedWalkableMap, supports
from worldsim.kernels.render import SceneRenderer

_ROTATION_WIDTH, _RESIDUAL_WIDTH, _ERROR_WIDTH = 128, 256, 64

METRES_PER_RADIAN = 3.0
"""Displacement that counts as much as a radian: the distance of what is seen, about."""

CollisionFn = Callable[[Tensor], Tensor]
"""Collision features of displacements [B, 3] (right, down, forward; metres)."""


@dataclass(frozen=True, slots=True)
class MotionPrediction:
    """A step of the camera, and how far it may be wrong."""

    twist: Tensor
    """[B, 6] in metres and radians."""
    step_error: Tensor
    """Error that the step adds, expected, in metres [B]; a radian counts ``METRES_PER_RADIAN``."""
    error_growth: Tensor
    """Relative growth of earlier errors in the step, expected [B]."""


class Dynamics(nn.Module):
    """Predicts the next twist, and what error to expect of it.

    Args:
        control: keys and yaw, M.
        feature_dim: length of the scene features and walkable features, S.
        twists: number of past twists, P.
        camera_height: of the camera at rest, in metres.
        collision_dim: length of the collision features.
        idle_damping: without keys and yaw, a step is at most this share of the last one; None: no bound.
            Recordings hardly show idle cameras, and small errors would add up to a walk.
    """

    def __init__(
        self,
        control: int,
        feature_dim: int,
        twists: int,
        camera_height: float,
        idle_damping: float | None,
        collision_dim: int = 0,
    ) -> None:
        super().__init__()
        self.camera_height, self.idle_damping, self.control, self.collision_dim = (
            camera_height,
            idle_damping,
            control,
            collision_dim,
        )
        rotation_inputs, linear_inputs = control * (twists + 1) + 3 * twists, 3 * twists + 4 * control
        self.rotation = _mlp(rotation_inputs, _ROTATION_WIDTH, 3)
        self.linear = BatchInvariantLinear(linear_inputs, 3)
        state = rotation_inputs + linear_inputs + 6 + feature_dim + collision_dim
        self.residual = _mlp(state, _RESIDUAL_WIDTH, 3)
        self.error = _mlp(state, _ERROR_WIDTH, 2)
        last = self.residual[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(
        self,
        features: Tensor,
        controls: Tensor,
        twists: Tensor,
        height: Tensor,
        collision_fn: CollisionFn | None = None,
    ) -> MotionPrediction:
        """The next step. Only ``predict_rotation`` trains the rotation; error estimates train no other part.

        ``features`` [B, S]; ``controls`` [B, P + 1, M], those of the step last; ``twists`` [B, P, 6] in
        metres and radians, newest last; ``height`` [B] of the camera in metres. All float32.
        ``collision_fn`` gives the collision features [B, ``collision_dim``] of displacements [B, 3].
        """
        rotation_inputs = _rotation_inputs(controls, twists)
        turn = self._rotation_from(rotation_inputs).detach()
        linear_inputs = self.linear_inputs(controls, twists, turn)
        linear_out: Tensor = self.linear(linear_inputs)
        rise, (right, down, forward) = height - self.camera_height, linear_inputs[:, :3].unbind(1)
        speed = right * right + down * down + forward * forward
        swing = torch.stack([5 * rise, 5 * (rise + twists[:, -1, 1]), 4 * speed], 1)
        state = torch.cat([rotation_inputs, linear_inputs, 5 * linear_out, swing, features], 1)
        if collision_fn is not None:
            state = torch.cat([state, 5 * collision_fn(linear_out.detach())], 1)
        moved = linear_out + 0.1 * self.residual(state)
        # softplus, but of torch's own the last few of many rows are rounded otherwise
        step_error, error_growth = (0.02 * self.error(state.detach()).clamp(max=20).exp().log1p()).unbind(1)
        twist = torch.cat([twist_from_displacement(moved, turn[:, 1].contiguous()), turn], 1)
        if self.idle_damping is not None:
            idle = (controls[:, -1] == 0).all(-1, keepdim=True)
            twist = torch.where(idle, _damped(twist, twists[:, -1], self.idle_damping), twist)
        return MotionPrediction(twist, step_error, error_growth)

    def packed(
        self, renderer: SceneRenderer, ground: PackedWalkableMap, scale: Sequence[float]
    ) -> MotionKernel | None:
        """The kernel; ``scale`` multiplies normalised twists. None where the sizes are unsupported."""
        parts = self.rotation, self.residual, self.error
        rotation, residual, error = (
            [layer for layer in part if isinstance(layer, nn.Linear)] for part in parts
        )
        hidden = [layer.out_features for part in (rotation, residual, error) for layer in part[:-1]]
        rotation_inputs, linear_inputs, inputs = (
            some.in_features for some in (rotation[0], self.linear, residual[0])
        )
        twists = (linear_inputs - 4 * self.control) // 3
        if not supports(
            inputs,
            hidden,
            inputs - rotation_inputs - linear_inputs - 6 - self.collision_dim,
            self.collision_dim,
        ):
            return None
        sizes = (self.control, twists)
        return MotionKernel(
            renderer,
            ground,
            (rotation, residual, error),
            self.linear,
            scale,
            sizes,
            self.camera_height,
            self.idle_damping,
        )

    def predict_rotation(self, controls: Tensor, twists: Tensor) -> Tensor:
        """The rotation [B, 3] of the next twist; arguments as of ``forward``."""
        return self._rotation_from(_rotation_inputs(controls, twists))

    def _rotation_from(self, inputs: Tensor) -> Tensor:
        turn: Tensor = 0.1 * self.rotation(inputs)
        return turn

    def linear_inputs(self, controls: Tensor, twists: Tensor, turn: Tensor) -> Tensor:
        """Inputs of the linear law [B, 3 P + 4 M]: the last displacements, newest first, and the keys.

        All are expressed in the frame before the step. A key pushes along directions between those before and
        after the rotation ``turn`` [B, 3], hence by a combination of its sine and cosine.
        """
        newest_first = twists.flip(1)
        turned = newest_first[..., 4].contiguous()  # what is not contiguous is rounded otherwise
        past = _rotate_yaw(displacement_from_twist(newest_first[..., :3], turned), -turned.cumsum(1))
        both = torch.stack([turn[:, 1], turned[:, 0]], 1)[..., None]
        keys = controls[:, -2:].flip(1)
        parts = (past, keys * both.sin(), keys * both.cos())
        return torch.cat([part.flatten(1) for part in parts], 1)


def _rotation_inputs(controls: Tensor, twists: Tensor) -> Tensor:
    """Inputs of the rotation network: recent keys and recent rotations."""
    return torch.cat([controls.flatten(1), 10 * twists[..., 3:].flatten(1)], 1)


def displacement_from_twist(twist: Tensor, yaw: Tensor) -> Tensor:
    """Displacements in the first frame, of translations [..., 3] under a rotation by ``yaw`` [...]."""
    sine, cosine = _arc_factors(yaw)
    right, down, forward = twist.unbind(-1)
    return torch.stack([sine * right + cosine * forward, down, sine * forward - cosine * right], -1)


def twist_from_displacement(moved: Tensor, yaw: Tensor) -> Tensor:
    """The inverse of ``displacement_from_twist``."""
    sine, cosine = _arc_factors(yaw)
    right, down, forward = moved.unbind(-1)
    size = sine.square() + cosine.square()
    return torch.stack(
        [(sine * right - cosine * forward) / size, down, (sine * forward + cosine * right) / size], -1
    )


def _arc_factors(yaw: Tensor) -> tuple[Tensor, Tensor]:
    """sin(yaw) / yaw and (1 - cos(yaw)) / yaw."""
    return torch.sinc(yaw / torch.pi), torch.sinc(yaw / (2 * torch.pi)) * (yaw / 2).sin()


def _rotate_yaw(vector: Tensor, yaw: Tensor) -> Tensor:
    """Vectors [..., 3] of a camera turned by ``yaw`` [...] to the right, in the frame before the turn."""
    sine, cosine = yaw.sin(), yaw.cos()
    right, down, forward = vector.unbind(-1)
    return torch.stack([cosine * right + sine * forward, down, cosine * forward - sine * right], -1)


def _damped(twist: Tensor, last: Tensor, share: float) -> Tensor:
    """``twist`` [B, 6]: translation and rotation, each no longer than ``share`` of that of ``last``."""
    both, before = twist.unflatten(-1, (2, 3)), last.unflatten(-1, (2, 3))
    limit = share * _length(before)
    return (both * (limit / _length(both).clamp(min=1e-9)).clamp(max=1)).flatten(-2)


def _length(vectors: Tensor) -> Tensor:
    """Lengths [..., 1] of vectors [..., 3], without gradient, which is unbounded at 0; batch invariant."""
    x, y, z = vectors.detach().unbind(-1)
    return (x * x + y * y + z * z).sqrt()[..., None]


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    sizes = [inputs, hidden, hidden, hidden]
    parts: list[nn.Module] = []
    for before, after in pairwise(sizes):
        parts += [BatchInvariantLinear(before, after), nn.SiLU()]
    return nn.Sequential(*parts, BatchInvariantLinear(hidden, outputs))
