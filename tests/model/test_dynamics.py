"""Dynamics: displacements in the right frame, rows that do not depend on each other, coasting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim import camera
from worldsim.model.dynamics import Dynamics, displacement_from_twist, twist_from_displacement

M, P, AROUND = 3, 4, 7


def build(idle_damping: float | None = None) -> Dynamics:
    torch.manual_seed(0)
    dynamics = Dynamics(M, AROUND, P, camera_height=1.3, idle_damping=idle_damping)
    weight: Any = dynamics.residual[-1].weight  # typed as any module's
    torch.nn.init.normal_(weight, std=0.05)
    return dynamics


def state(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    around, controls = (
        torch.randn(count, AROUND, generator=generator),
        torch.rand(count, P + 1, M, generator=generator),
    )
    twists, height = (
        0.2 * torch.randn(count, P, 6, generator=generator),
        torch.rand(count, generator=generator),
    )
    return around, controls, twists, height


def test_a_row_moves_alike_in_every_batch() -> None:
    dynamics, given = build(), state(16)
    with torch.inference_mode():
        whole = dynamics(*given).twist
        for size in (1, 2, 3, 5, 16):
            for first in range(0, 16, size):
                part = dynamics(*(value[first : first + size] for value in given)).twist
                assert torch.equal(part, whole[first : first + size])


def test_what_is_not_taught_is_what_was_taught() -> None:
    dynamics, given = build(), state(5)
    with torch.inference_mode():
        alone = dynamics(*given).twist
    torch.testing.assert_close(dynamics(*given).twist, alone, atol=1e-6, rtol=1e-5)


def test_displacements_are_told_in_the_frame_before_the_step() -> None:
    twists = np.zeros((1, P, 6))
    twists[0, :, [0, 2, 4]] = np.random.default_rng(0).uniform(-0.4, 0.4, (3, P))
    poses = [camera.from_planar(0.0, 0.0, 0.0, 0.3)]
    for twist in twists[0]:
        poses.append(poses[-1] @ camera.exp(twist))
    dynamics, controls = build().double(), torch.zeros(1, P + 1, M).double()
    told = dynamics.linear_inputs(controls, torch.from_numpy(twists), torch.zeros(1, 3).double())[0].numpy()
    for i in range(P):
        way = (poses[-1 - i] - poses[-2 - i])[:3, 3]
        np.testing.assert_allclose(told[3 * i : 3 * i + 3], poses[-1][:3, :3].T @ way, atol=1e-9)


def test_a_twist_and_where_it_leads_are_inverse() -> None:
    twist, yaw = torch.randn(50, 3).double(), torch.linspace(-1.5, 1.5, 50).double()
    torch.testing.assert_close(twist_from_displacement(displacement_from_twist(twist, yaw), yaw), twist)


def test_the_linear_part_follows_a_body_with_friction() -> None:
    dynamics = build()
    with torch.no_grad():
        for weight in (
            *dynamics.linear.parameters(),
            *dynamics.residual[-1].parameters(),
            *dynamics.rotation[-1].parameters(),
        ):
            weight.zero_()
        dynamics.linear.weight[:, :3] = 0.9 * torch.eye(3)
    around, controls, twists, height = state(4)
    twists[..., 3:] = 0
    moved = dynamics(around, controls, twists, height).twist
    torch.testing.assert_close(moved[:, :3], 0.9 * twists[:, -1, :3])


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_what_nobody_pushes_slows_down(share: float) -> None:
    slow, free, (around, controls, twists, height) = build(share), build(), state(4)
    given = (around, controls, twists, height)
    torch.testing.assert_close(slow(*given).twist, free(*given).twist)
    controls[:, -1] = 0
    twists[:, -1] *= 1e-3
    still, last = slow(around, controls, twists, height).twist, twists[:, -1]
    for part in (slice(0, 3), slice(3, 6)):
        assert (still[:, part].norm(dim=-1) <= share * last[:, part].norm(dim=-1) * 1.001).all()
    twists[:, -1] = 0
    assert not slow(around, controls, twists, height).twist.any()
