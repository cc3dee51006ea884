"""How keys move a camera: laws that are nearly linear, and a network for what they leave over.

A body with inertia and friction moves by a fixed mixture of its last displacements and of the pushes of the
keys, once all are told in the frame in which it now looks; how it turns depends on how long a key was held.
So the turn comes first, the mixture is linear and can be solved for, and a network adds what walls, steps and
the swing of a walk change. A network alone takes hours to learn the mixture to the centimetre that a linear
layer is exact to at once, and errors of a centimetre a frame add up to metres.

Shapes: B cameras, M keys and look, P past twists, S of what is around; a twist is 6 long: metres right, down
and forward, then radians about these axes, in the camera's frame before the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from worldsim.alone import Alone
from worldsim.kernels.look import Look
from worldsim.kernels.move import Ground, Mover, suits

_HIDDEN_TURN, _HIDDEN_REST, _HIDDEN_SLIP = 128, 256, 64

LEVER = 3.0
"""Metres: what is looked at lies about so far, and a wrong direction shifts it."""

Meeting = Callable[[Tensor], Tensor]
"""From displacements [B, 3] (right, down, forward; metres) to what is in their way."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A step of the camera, and how far it may be wrong."""

    twist: Tensor
    """[B, 6] in metres and radians."""
    slip: Tensor
    """Error in metres that the step is expected to add, [B]; a radian counts as ``LEVER`` metres."""
    spread: Tensor
    """Share by which the step is expected to make earlier errors grow, [B]."""


class Dynamics(nn.Module):
    """Predicts the next twist, and what error to expect of it.

    Args:
        control: keys and look, M.
        around: length of what is told of the surroundings, S.
        twists: past twists that are looked at, P.
        eye: height of the camera at rest, in metres.
        met: length of what is told of what is in the way.
        coasting: without keys and look the camera moves and turns by at most this share of its last step:
            what nobody pushes slows down. None: no such rule. Recordings hardly show idleness, and small
            errors would add up to a walk.
    """

    def __init__(
        self, control: int, around: int, twists: int, eye: float, coasting: float | None, met: int = 0
    ) -> None:
        super().__init__()
        self.eye, self.coasting, self.control, self.met = eye, coasting, control, met
        turning, pushing = control * (twists + 1) + 3 * twists, 3 * twists + 4 * control
        self.turn = _network(turning, _HIDDEN_TURN, 3)
        self.push = Alone(pushing, 3)
        state = turning + pushing + 6 + around + met
        self.rest = _network(state, _HIDDEN_REST, 3)
        self.slip = _network(state, _HIDDEN_SLIP, 2)
        last = self.rest[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(
        self, around: Tensor, controls: Tensor, twists: Tensor, height: Tensor, meet: Meeting | None = None
    ) -> Prediction:
        """The next step. Its rotation is taught by ``turns`` alone; the errors teach nothing but themselves.

        ``around`` [B, S]; ``controls`` [B, P + 1, M], those of the step last; ``twists`` [B, P, 6] in metres
        and radians, newest last; ``height`` [B] of the camera in metres. All float32. ``meet`` tells what is
        in the way of displacements [B, 3] of the camera, [B, ``met``].
        """
        held = _held(controls, twists)
        turn = self._turned_by(held).detach()
        pushes = self.pushes(controls, twists, turn)
        pushed: Tensor = self.push(pushes)
        rise, (right, down, forward) = height - self.eye, pushes[:, :3].unbind(1)
        speed = right * right + down * down + forward * forward
        swing = torch.stack([5 * rise, 5 * (rise + twists[:, -1, 1]), 4 * speed], 1)
        state = torch.cat([held, pushes, 5 * pushed, swing, around], 1)
        if meet is not None:
            state = torch.cat([state, 5 * meet(pushed.detach())], 1)
        moved = pushed + 0.1 * self.rest(state)
        # softplus, but of torch's own the last few of many rows are rounded otherwise
        slip, spread = (0.02 * self.slip(state.detach()).clamp(max=20).exp().log1p()).unbind(1)
        twist = torch.cat([as_twist(moved, turn[:, 1].contiguous()), turn], 1)
        if self.coasting is not None:
            idle = (controls[:, -1] == 0).all(-1, keepdim=True)
            twist = torch.where(idle, _slowed(twist, twists[:, -1], self.coasting), twist)
        return Prediction(twist, slip, spread)

    def packed(self, look: Look, ground: Ground, scale: Sequence[float]) -> Mover | None:
        """What kernels take, with what a normalised twist is multiplied by; None if there are none for it."""
        parts = self.turn, self.rest, self.slip
        turn, rest, slip = ([layer for layer in part if isinstance(layer, nn.Linear)] for part in parts)
        hidden = [layer.out_features for part in (turn, rest, slip) for layer in part[:-1]]
        turning, pushing, inputs = (some.in_features for some in (turn[0], self.push, rest[0]))
        twists = (pushing - 4 * self.control) // 3
        if not suits(inputs, hidden, inputs - turning - pushing - 6 - self.met, self.met):
            return None
        sizes = (self.control, twists)
        return Mover(look, ground, (turn, rest, slip), self.push, scale, sizes, self.eye, self.coasting)

    def turns(self, controls: Tensor, twists: Tensor) -> Tensor:
        """The rotation [B, 3] of the next twist; arguments as of ``forward``."""
        return self._turned_by(_held(controls, twists))

    def _turned_by(self, held: Tensor) -> Tensor:
        turn: Tensor = 0.1 * self.turn(held)
        return turn

    def pushes(self, controls: Tensor, twists: Tensor, turn: Tensor) -> Tensor:
        """What displacement is a mixture of [B, 3 P + 4 M]: the last ones, newest first, and the keys'.

        All are told in the frame before the step. A key pushes along directions between those before and
        after the ``turn`` [B, 3], hence by a mixture of its sine and cosine; so did those of the step before.
        """
        newest_first = twists.flip(1)
        turned = newest_first[..., 4].contiguous()  # what is not contiguous is rounded otherwise
        past = _turned(as_moved(newest_first[..., :3], turned), -turned.cumsum(1))
        both = torch.stack([turn[:, 1], turned[:, 0]], 1)[..., None]
        keys = controls[:, -2:].flip(1)
        told = (past, keys * both.sin(), keys * both.cos())
        return torch.cat([part.flatten(1) for part in told], 1)


def _held(controls: Tensor, twists: Tensor) -> Tensor:
    """What turns a camera: the keys and for how long they have been held, and how it turned."""
    return torch.cat([controls.flatten(1), 10 * twists[..., 3:].flatten(1)], 1)


def as_moved(twist: Tensor, yaw: Tensor) -> Tensor:
    """Where a camera gets by translations [..., 3] while it turns by ``yaw`` [...], in its first frame."""
    sine, cosine = _mean_of_turn(yaw)
    right, down, forward = twist.unbind(-1)
    return torch.stack([sine * right + cosine * forward, down, sine * forward - cosine * right], -1)


def as_twist(moved: Tensor, yaw: Tensor) -> Tensor:
    """The inverse of ``as_moved``."""
    sine, cosine = _mean_of_turn(yaw)
    right, down, forward = moved.unbind(-1)
    size = sine.square() + cosine.square()
    return torch.stack(
        [(sine * right - cosine * forward) / size, down, (sine * forward + cosine * right) / size], -1
    )


def _mean_of_turn(yaw: Tensor) -> tuple[Tensor, Tensor]:
    """sin(yaw) / yaw and (1 - cos(yaw)) / yaw."""
    return torch.sinc(yaw / torch.pi), torch.sinc(yaw / (2 * torch.pi)) * (yaw / 2).sin()


def _turned(vector: Tensor, yaw: Tensor) -> Tensor:
    """Vectors [..., 3] of a camera turned by ``yaw`` [...] to the right, in the frame before the turn."""
    sine, cosine = yaw.sin(), yaw.cos()
    right, down, forward = vector.unbind(-1)
    return torch.stack([cosine * right + sine * forward, down, cosine * forward - sine * right], -1)


def _slowed(twist: Tensor, last: Tensor, share: float) -> Tensor:
    """``twist`` [B, 6]: translation and rotation, each no longer than ``share`` of that of ``last``."""
    both, before = twist.unflatten(-1, (2, 3)), last.unflatten(-1, (2, 3))
    limit = share * _length(before)
    return (both * (limit / _length(both).clamp(min=1e-9)).clamp(max=1)).flatten(-2)


def _length(vectors: Tensor) -> Tensor:
    """Of [..., 3], [..., 1], without gradient, which has no bounds at 0; the same bits in every batch."""
    x, y, z = vectors.detach().unbind(-1)
    return (x * x + y * y + z * z).sqrt()[..., None]


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    sizes = [inputs, hidden, hidden, hidden]
    parts: list[nn.Module] = []
    for before, after in pairwise(sizes):
        parts += [Alone(before, after), nn.SiLU()]
    return nn.Sequential(*parts, Alone(hidden, outputs))
