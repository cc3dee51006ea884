"""Reprojection: where the new frame's points were in the frame before, held against geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny import random_like
from worldsim import camera
from worldsim.camera import Intrinsics
from worldsim.scene.rays import Rays
from worldsim.scene.static_scene import StaticScene, StaticSceneConfig
from worldsim.tokenizer.history import HistoryConfig, HistoryTokenizer
from worldsim.tokenizer.protocol import MotionCondition, PreviousFrame

HEIGHT, WIDTH = 40, 60
CAMERA = Intrinsics(30.0, 30.0, 30.0, 20.0)
WALL = 4.0
"""x of a wall that the cameras look at, along +x."""


class Wall(StaticScene):
    """A place of one textured plane, known exactly."""

    def forward(self, planar: Tensor, rays: Rays, columns: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, y, z, yaw = (value[:, None, None] for value in planar.unbind(-1))
        right, down = rays.right[None, None], rays.down[None, :, None]
        reach = (WALL - x) / (yaw.cos() + right * yaw.sin()) + 0 * down
        along = y + (yaw.sin() - right * yaw.cos()) * reach
        return texture(along, z - down * reach), reach


def texture(along: Tensor, height: Tensor) -> Tensor:
    """Smooth waves on the wall [..., 3] in [-1, 1]."""
    return torch.stack([(2 * along).sin(), (3 * height).cos(), (along + 2 * height).sin()], -1)


@pytest.fixture
def tokenizer() -> HistoryTokenizer:
    scene = StaticSceneConfig(bounds=(0.0, -4.0, 5.0, 4.0), channels=1, hidden=1, samples=2)
    config = HistoryConfig(width=8, depth=1, scene=scene)
    made = HistoryTokenizer(config, (HEIGHT, WIDTH), 9, CAMERA)
    made.scene = Wall(scene)
    return made


def look(tokenizer: HistoryTokenizer, pose: np.ndarray) -> PreviousFrame:
    """The wall as seen from ``pose`` [4, 4]."""
    assert tokenizer.scene is not None
    colour, reach = tokenizer.scene(torch.from_numpy(camera.planar(pose[None])).float(), tokenizer.rays)
    return PreviousFrame(colour.permute(0, 3, 1, 2), reach)


def move(before: np.ndarray, after: np.ndarray) -> MotionCondition:
    planar = torch.from_numpy(camera.planar(after[None])).float()
    back = torch.from_numpy(camera.relative(before, after)[None]).float()
    return MotionCondition(torch.zeros(1, 9), planar, back)


START = camera.from_planar(1.0, 0.0, 1.3, 0.1)


def test_without_motion_the_warp_is_the_past_frame(tokenizer: HistoryTokenizer) -> None:
    past = look(tokenizer, START)
    noise = PreviousFrame(random_like(tuple(past.frame.shape), 0), past.depth)
    prior = tokenizer.prior(noise, move(START, START))
    torch.testing.assert_close(prior.warped_rgb, noise.frame, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(prior.warp_grid, tokenizer.pixel_grid, atol=1e-5, rtol=1e-5)
    assert prior.warp_confidence[:, :, 1:-1, 1:-1].min() > 0.99


@pytest.mark.parametrize(
    "twist",
    [(0, 0, 0.3, 0, 0, 0), (0.2, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0.15, 0), (0.1, 0, 0.2, 0, -0.1, 0)],
    ids=["forward", "sideways", "turn", "all"],
)
def test_moving_before_a_wall_warps_as_geometry_says(
    tokenizer: HistoryTokenizer, twist: tuple[float, ...]
) -> None:
    after = camera.compose(START, camera.exp(np.array(twist)))
    past, true = look(tokenizer, START), look(tokenizer, after)
    prior = tokenizer.prior(past, move(START, after))
    torch.testing.assert_close(prior.depth, true.depth, atol=1e-5, rtol=1e-5)
    inside = (prior.warp_grid.abs().amax(-1) < 0.95).expand(3, -1, -1)
    assert inside.float().mean() > 0.5
    error = (prior.warped_rgb - true.frame)[0][inside]
    assert error.abs().max() < 0.05
    assert prior.warp_confidence[0][inside[:1]].min() > 0.99
    assert (prior.warped_rgb - true.frame).abs().mean() < 0.5 * (past.frame - true.frame).abs().mean()


def test_the_grid_is_the_pinhole_s(tokenizer: HistoryTokenizer) -> None:
    """A step forward by 0.5 m at 3 m: a pixel's distance from the centre shrinks by (3 - 0.5) / 3."""
    start = camera.from_planar(1.0, 0.0, 1.3, 0.0)
    after = camera.from_planar(1.5, 0.0, 1.3, 0.0)
    prior = tokenizer.prior(look(tokenizer, start), move(start, after))
    torch.testing.assert_close(prior.warp_grid, tokenizer.pixel_grid * 2.5 / 3, atol=1e-5, rtol=1e-5)


def test_what_was_out_of_sight_or_hidden_is_not_believed(tokenizer: HistoryTokenizer) -> None:
    turned = camera.compose(START, camera.exp(np.array([0, 0, 0, 0, 0.5, 0])))
    prior = tokenizer.prior(look(tokenizer, START), move(START, turned))
    outside = prior.warp_grid.abs().amax(-1) > 1
    assert outside.any()
    assert prior.warp_confidence[:, 0][outside].max() == 0
    past = look(tokenizer, START)
    nearer = PreviousFrame(past.frame, past.depth * 0.5)  # something stood before the wall
    assert tokenizer.prior(nearer, move(START, START)).warp_confidence.max() < 0.2
    assert (
        tokenizer.prior(tokenizer.blank(1, torch.device("cpu")), move(START, START)).warp_confidence.max()
        == 0
    )


def test_behind_the_camera_is_nothing(tokenizer: HistoryTokenizer) -> None:
    away = camera.from_planar(3.0, 0.0, 1.3, 0.0)
    back = camera.from_planar(3.0, 0.0, 1.3, 3.0)
    prior = tokenizer.prior(look(tokenizer, away), move(back, away))
    assert prior.warp_grid.isfinite().all()
    assert prior.warp_confidence.max() == 0


def test_a_fresh_decoder_shows_what_is_known(tokenizer: HistoryTokenizer) -> None:
    """Its last layer starts at zero: a mixture of warp and place, so training starts from motion alone."""
    after = camera.compose(START, camera.exp(np.array([0, 0, 0.1, 0, 0, 0])))
    prior = tokenizer.prior(look(tokenizer, START), move(START, after))
    made = tokenizer.decode(torch.zeros(1, *tokenizer.latent_spec.shape), prior)
    sample = torch.nn.functional.grid_sample
    warped = sample(prior.previous_rgb, prior.warp_grid, "bicubic", "border", align_corners=False)
    low, high = torch.minimum(warped, prior.scene_rgb), torch.maximum(warped, prior.scene_rgb)
    assert (made >= low - 1e-4).all()
    assert (made <= high + 1e-4).all()
