"""Pictures are moved along with the camera, and put together, by kernels as by torch."""

from __future__ import annotations

import dataclasses
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.kernels.compare import SCENE, both, built, same, threads
from tests.tiny import random_like, stir
from worldsim import camera
from worldsim.camera import Intrinsics
from worldsim.kernels.warp import Warp
from worldsim.scene.static_scene import StaticSceneConfig
from worldsim.tokenizer.history import HistoryConfig, HistoryTokenizer
from worldsim.tokenizer.protocol import MotionCondition, PreviousFrame, Prior

pytestmark = built

TOLERANCE = 3e-4
"""Pictures are noise, so that a coordinate's rounding, a millionth of a frame, is multiplied by some 60."""
OTHER_PLACE = dataclasses.replace(SCENE, channels=6, hidden=16)
"""Kernels do not look at it, so that both ways see the very same depth."""
SIZES = {"usual": (40, 60, 5, 4), "narrow": (20, 16, 1, 4), "odd": (30, 50, 5, 2), "cells": (24, 32, 2, 1)}
"""Height, width, patch and pool."""
COUNT = 6


def make(size: str = "usual", scene: StaticSceneConfig = SCENE) -> HistoryTokenizer:
    height, width, patch, pool = SIZES[size]
    middle = Intrinsics(0.5 * width, 0.7 * height, 0.48 * width, 0.54 * height)
    torch.manual_seed(0)
    shape = {"patch": patch, "pool": pool, "width": 16, "depth": 2, "channels": 4}
    tokenizer = HistoryTokenizer(HistoryConfig(**shape, scene=scene), (height, width), 9, middle)
    stir(tokenizer)
    return tokenizer.eval().requires_grad_(False)


def past_of(tokenizer: HistoryTokenizer, count: int = COUNT) -> PreviousFrame:
    """Noise, whose depth is unknown to the left."""
    height, width = tokenizer.size
    reach = (2.0 + random_like((count, height, width), 1)).clamp(min=0)
    reach[:, :, : width // 3] = 0
    return PreviousFrame(random_like((count, 3, height, width), 0).clamp(-1, 1), reach)


def motion_of(count: int = COUNT) -> MotionCondition:
    """Steps from short to long, turns, and at last the way back over the shoulder."""
    rng = np.random.default_rng(0)
    after = [camera.from_planar(0.5, -0.25, 1.0, angle) for angle in rng.uniform(-3, 3, count)]
    steps = rng.normal(size=(count, 6)) * np.geomspace(0.01, 1, count)[:, None]
    before = [camera.compose(pose, camera.exp(step)) for pose, step in zip(after, steps, strict=True)]
    before[-1] = camera.compose(after[-1], camera.exp(np.array([0, 0, 0, 0, 3.0, 0])))
    back = [camera.relative(old, new) for old, new in zip(before, after, strict=True)]
    planar = camera.planar(np.stack(after))
    return MotionCondition(
        random_like((count, 9), 2), torch.from_numpy(planar).float(), torch.from_numpy(np.stack(back)).float()
    )


def prior_of(tokenizer: HistoryTokenizer, count: int = COUNT) -> Prior:
    """Of noise in every part."""
    height, width = tokenizer.size
    picture = (count, 3, height, width)
    return Prior(
        scene_rgb=random_like(picture, 3).clamp(-1, 1),
        warped_rgb=random_like(picture, 4).clamp(-1, 1),
        warp_confidence=random_like((count, 1, height, width), 5).sigmoid(),
        warp_grid=random_like((count, height, width, 2), 6).clamp(-2, 2),
        previous_rgb=random_like(picture, 7).clamp(-1, 1),
        depth=random_like((count, height, width), 8).exp(),
        tokens=random_like((count, tokenizer.latent_spec.tokens, tokenizer.prior_channels), 9),
        condition=random_like((count, 9), 10),
    )


def latent_of(tokenizer: HistoryTokenizer, count: int = COUNT) -> Tensor:
    return random_like((count, tokenizer.latent_spec.tokens, tokenizer.latent_spec.channels), 11).tanh()


def pictures_of(tokenizer: HistoryTokenizer) -> Warp:
    config, rays = tokenizer.config, tokenizer.rays
    assert tokenizer.intrinsics is not None
    return Warp(tokenizer.intrinsics, rays.right, rays.down, config.patch, config.pool)


def pick(prior: Prior, rows: slice) -> Prior:
    return Prior(*(getattr(prior, field.name)[rows] for field in fields(prior)))


def check_close(quick: Prior, slow: Prior, tolerance: float = TOLERANCE) -> None:
    """Whether a pixel was in sight is a matter of yes or no: on the very edge ways may differ."""
    for field in fields(Prior):
        made, wanted = getattr(quick, field.name), getattr(slow, field.name)
        assert made.shape == wanted.shape
        assert made.dtype == wanted.dtype
        if field.name == "warp_confidence":
            assert ((made - wanted).abs() > tolerance).float().mean() < 1e-3
        else:
            torch.testing.assert_close(made, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize("size", SIZES)
def test_the_past_is_moved_as_torch_moves_it(size: str) -> None:
    tokenizer = make(size, OTHER_PLACE)
    tokenizer.enable_kernels(decodes=True)
    quick, slow = both(lambda: tokenizer.prior(past_of(tokenizer), motion_of()))
    check_close(quick, slow)
    assert 0.05 < slow.warp_confidence.mean() < 0.9
    assert slow.warp_confidence[-1].max() == 0


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize("size", SIZES)
def test_a_view_is_torch_s(size: str) -> None:
    tokenizer = make(size)
    tokenizer.enable_kernels(decodes=True)
    quick, slow = both(lambda: tokenizer.prior(past_of(tokenizer), motion_of()))
    check_close(quick, slow, 1e-3)


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize("decodes", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_a_frame_is_torch_s_as_far_as_it_can_be_shown(size: str, decodes: bool) -> None:
    tokenizer = make(size)
    tokenizer.enable_kernels(decodes=decodes)
    assert tokenizer.uses_kernels == (decodes and size != "odd")
    latent, prior = latent_of(tokenizer), prior_of(tokenizer)
    quick, slow = both(lambda: tokenizer.decode(latent, prior))
    assert quick.shape == slow.shape
    assert quick.dtype == torch.float32
    torch.testing.assert_close(quick, slow.clamp(-1, 1), atol=TOLERANCE, rtol=0)
    assert (slow.abs() < 1).float().mean() > 0.5
    assert slow.std() > 0.5


def test_a_network_in_half_precision_says_what_it_says_to_torch() -> None:
    tokenizer = make()
    tokenizer.enable_kernels(decodes=False)
    for part in (
        tokenizer.prior_in,
        tokenizer.from_latent,
        tokenizer.latent_to_block,
        tokenizer.out_norm,
        tokenizer.out,
    ):
        part.to(torch.bfloat16)
    for block in tokenizer.decoder.blocks:
        for part in (block.norm1, block.conv1, block.norm2, block.conv2):
            part.to(torch.bfloat16)
    latent, prior = latent_of(tokenizer), prior_of(tokenizer)
    quick, slow = both(lambda: tokenizer.decode(latent, prior))
    assert quick.dtype == torch.float32
    torch.testing.assert_close(quick, slow.clamp(-1, 1), atol=TOLERANCE, rtol=0)


def test_a_fresh_decoder_shows_what_is_known_to_kernels_too() -> None:
    like = make()
    fresh = HistoryTokenizer(like.config, like.size, 9, like.intrinsics).eval().requires_grad_(False)
    fresh.enable_kernels(decodes=True)
    latent, prior = torch.zeros_like(latent_of(fresh)), prior_of(fresh)
    quick, slow = both(lambda: fresh.decode(latent, prior))
    torch.testing.assert_close(quick, slow.clamp(-1, 1), atol=TOLERANCE, rtol=0)


@pytest.mark.usefixtures("each_variant")
@pytest.mark.parametrize("size", ["usual", "narrow"])
def test_a_world_is_the_same_among_others(size: str) -> None:
    tokenizer = make(size)
    tokenizer.enable_kernels(decodes=True)
    past, motion, latent = past_of(tokenizer), motion_of(), latent_of(tokenizer)
    prior = tokenizer.prior(past, motion)
    frame = tokenizer.decode(latent, prior)
    for i in range(COUNT):
        one = slice(i, i + 1)
        assert motion.planar is not None
        assert motion.to_previous is not None
        led = MotionCondition(motion.condition[one], motion.planar[one], motion.to_previous[one])
        alone = tokenizer.prior(PreviousFrame(past.frame[one], past.depth[one]), led)
        for field in fields(Prior):
            same(getattr(alone, field.name), getattr(prior, field.name)[one])
        same(tokenizer.decode(latent[one], alone), frame[one])


@pytest.mark.usefixtures("each_variant")
def test_a_picture_is_the_same_on_two_threads() -> None:
    tokenizer = make()
    pictures, past = pictures_of(tokenizer), past_of(tokenizer)
    prior, motion = prior_of(tokenizer), motion_of()
    out = random_like((COUNT, *pictures.cells, 2 + 4 * 25), 12)
    sent = random_like((COUNT, tokenizer.latent_spec.tokens, 3 * 20**2), 13)

    def work() -> tuple[Tensor, ...]:
        seen = pictures.warp(motion.to_previous, prior.depth, prior.scene_rgb, past.frame, past.depth)
        return *seen, pictures.blend(
            out, sent, prior.scene_rgb, prior.warp_confidence, prior.warp_grid, prior.previous_rgb
        )

    alone = work()
    with threads(2):
        same(work(), alone)


@pytest.mark.usefixtures("each_variant", "fenced")
def test_no_motion_and_no_depth_is_too_odd() -> None:
    """What is no number stays in its own world."""
    tokenizer = make()
    pictures, past = pictures_of(tokenizer), past_of(tokenizer)
    prior, motion = prior_of(tokenizer), motion_of()
    assert motion.to_previous is not None
    for i, value in enumerate((torch.nan, torch.inf, -torch.inf, 3e38)):
        motion.to_previous[i] = value
        prior.depth[i], past.depth[i], prior.warp_grid[i] = value, value, value
    out = random_like((COUNT, *pictures.cells, 2 + 4 * 25), 12)
    out[:4] = torch.nan
    sent = random_like((COUNT, tokenizer.latent_spec.tokens, 3 * 20**2), 13)
    seen = pictures.warp(motion.to_previous, prior.depth, prior.scene_rgb, past.frame, past.depth)
    frame = pictures.blend(
        out, sent, prior.scene_rgb, prior.warp_confidence, prior.warp_grid, prior.previous_rgb
    )
    assert all(part[4:].isfinite().all() for part in (*seen, frame))
    rest = pick(prior, slice(4, None))
    same(
        pictures.warp(motion.to_previous[4:], rest.depth, rest.scene_rgb, past.frame[4:], past.depth[4:])[0],
        seen[0][4:],
    )
    same(
        pictures.blend(
            out[4:], sent[4:], rest.scene_rgb, rest.warp_confidence, rest.warp_grid, rest.previous_rgb
        ),
        frame[4:],
    )


def test_a_frame_lies_within_what_can_be_shown() -> None:
    tokenizer = make()
    tokenizer.enable_kernels(decodes=True)
    frame = tokenizer.decode(10 * latent_of(tokenizer), prior_of(tokenizer))
    assert frame.min() == -1
    assert frame.max() == 1


def test_a_tokenizer_without_a_place_stays_as_it_is() -> None:
    like = make()
    config = dataclasses.replace(like.config, scene=None)
    tokenizer = HistoryTokenizer(config, like.size, 9).eval().requires_grad_(False)
    tokenizer.enable_kernels(decodes=True)
    assert not tokenizer.uses_kernels
    past, motion = past_of(tokenizer), MotionCondition(random_like((COUNT, 9), 2), None, None)
    quick, slow = both(lambda: tokenizer.decode(latent_of(tokenizer), tokenizer.prior(past, motion)))
    same(quick, slow)
