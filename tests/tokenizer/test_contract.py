"""What every tokenizer offers, held against each of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny import random_like, stir
from worldsim import camera
from worldsim.camera import Intrinsics
from worldsim.errors import ConfigError
from worldsim.scene.static_scene import StaticSceneConfig
from worldsim.tokenizer.bits import BitsConfig, BitsTokenizer
from worldsim.tokenizer.frame import FrameConfig, FrameTokenizer
from worldsim.tokenizer.history import HistoryConfig, HistoryTokenizer
from worldsim.tokenizer.layers import block_grid, crop, pad_blocks
from worldsim.tokenizer.protocol import MotionCondition, PreviousFrame, Prior, Tokenizer, TokenizerConfig
from worldsim.tokenizer.vae import VaeConfig, VaeTokenizer

Concrete = HistoryTokenizer | FrameTokenizer | VaeTokenizer | BitsTokenizer
SIZE, CONTROL, BATCH = (40, 60), 9, 2
SCENE = StaticSceneConfig(bounds=(0.0, 0.0, 4.0, 4.0), channels=4, hidden=8, samples=8)
CAMERA = Intrinsics(30.0, 30.0, 30.0, 20.0)
CONFIGS: dict[str, TokenizerConfig] = {
    "history": HistoryConfig(width=8, depth=1, channels=4),
    "history with a place": HistoryConfig(width=8, depth=1, channels=4, scene=SCENE),
    "frame": FrameConfig(width=8, depth=1, channels=4),
    "vae": VaeConfig(width=8, depth=1, channels=4, bottleneck=8),
    "vae that shows the past": VaeConfig(width=8, depth=1, channels=4, bottleneck=8, shows_past=True),
    "bits": BitsConfig(width=8, token_width=8, depth=1, channels=4),
    "bits of clips": BitsConfig(width=8, token_width=8, depth=1, channels=4, frames=3),
}


@pytest.fixture(params=CONFIGS)
def tokenizer(request: pytest.FixtureRequest) -> Concrete:
    torch.manual_seed(0)
    made = CONFIGS[request.param].build(SIZE, CONTROL, CAMERA)
    stir(made, scale=0.05)
    return made


def frames(seed: int) -> Tensor:
    return random_like((BATCH, 3, *SIZE), seed).tanh()


def motion(tokenizer: Tokenizer) -> MotionCondition:
    """A step forward and a turn."""
    before = camera.from_planar(2.0, 2.0, 1.3, np.array([0.0, 1.0]))
    after = camera.compose(before, camera.exp(np.array([0, 0, 0.1, 0, 0.1, 0])))
    control = random_like((BATCH, CONTROL), 5)
    planar = torch.from_numpy(camera.planar(after)).float()
    return MotionCondition(control, planar, torch.from_numpy(camera.relative(before, after)).float())


def seen(tokenizer: Tokenizer, past: PreviousFrame | None = None) -> Prior:
    past = past or PreviousFrame(frames(0), torch.full((BATCH, *SIZE), 2.0))
    return tokenizer.prior(past, motion(tokenizer))


def test_sizes_agree(tokenizer: Concrete) -> None:
    spec = tokenizer.latent_spec
    rows, columns = spec.grid
    assert spec.shape == (sum(high * wide for high, wide in spec.scales), 4)
    assert spec.scales[-1] == spec.grid
    assert SIZE[0] / rows == SIZE[1] / columns


def test_a_blank_past_is_grey_and_knows_no_depth(tokenizer: Concrete) -> None:
    past = tokenizer.blank(3, torch.device("cpu"))
    assert past.frame.shape == (3, 3, *SIZE)
    assert past.depth.shape == (3, *SIZE)
    assert not past.frame.any()
    assert not past.depth.any()


def test_a_view_says_what_is_known(tokenizer: Concrete) -> None:
    prior = seen(tokenizer)
    shapes = {field.name: tuple(getattr(prior, field.name).shape) for field in dataclasses.fields(prior)}
    assert shapes == {
        "scene_rgb": (BATCH, 3, *SIZE),
        "warped_rgb": (BATCH, 3, *SIZE),
        "warp_confidence": (BATCH, 1, *SIZE),
        "warp_grid": (BATCH, *SIZE, 2),
        "previous_rgb": (BATCH, 3, *SIZE),
        "depth": (BATCH, *SIZE),
        "tokens": (BATCH, tokenizer.latent_spec.tokens, tokenizer.prior_channels),
        "condition": (BATCH, CONTROL),
    }
    assert prior.scene_rgb.abs().max() <= 1
    assert (prior.warp_confidence >= 0).all()
    assert (prior.warp_confidence <= 1).all()
    for field in dataclasses.fields(prior):
        value = getattr(prior.detach(), field.name)
        assert value.isfinite().all()
        assert not value.requires_grad


def test_latents_are_bounded_and_frames_have_the_frame_s_shape(
    tokenizer: Concrete,
) -> None:
    prior = seen(tokenizer)
    for true in (frames(1), 100 * frames(1)):
        latent = tokenizer.encode(true, prior)
        assert latent.shape == (BATCH, tokenizer.latent_spec.tokens, tokenizer.latent_spec.channels)
        assert latent.dtype == torch.float32
        assert not tokenizer.latent_spec.bounded or latent.abs().max() <= 1
    made = tokenizer.decode(latent, prior)
    assert made.shape == (BATCH, 3, *SIZE)
    assert made.dtype == torch.float32


def test_the_first_frame_of_all_has_a_view_too(tokenizer: Concrete) -> None:
    prior = seen(tokenizer, tokenizer.blank(BATCH, torch.device("cpu")))
    assert tokenizer.decode(tokenizer.encode(frames(1), prior), prior).isfinite().all()


def test_gradients_flow_through_the_latent_to_every_weight_but_the_place_s(
    tokenizer: Concrete,
) -> None:
    prior = seen(tokenizer)
    tokenizer.decode(tokenizer.encode(frames(1), prior), prior).square().mean().backward()
    for name, weight in tokenizer.named_parameters():
        has_gradient = weight.grad is not None and bool(weight.grad.any())
        assert has_gradient != name.startswith("scene."), name


def test_the_latent_decides_what_is_decoded(tokenizer: Concrete) -> None:
    prior = seen(tokenizer)
    latent = tokenizer.encode(frames(1), prior)
    assert (tokenizer.decode(-latent, prior) - tokenizer.decode(latent, prior)).abs().max() > 1e-4


def test_rows_of_a_batch_do_not_meet(tokenizer: Concrete) -> None:
    prior = seen(tokenizer)
    second = Prior(*(getattr(prior, field.name)[1:] for field in dataclasses.fields(prior)))
    latent = tokenizer.encode(frames(1), prior)
    torch.testing.assert_close(tokenizer.encode(frames(1)[1:], second), latent[1:], atol=1e-5, rtol=1e-5)
    made = tokenizer.decode(latent, prior)
    torch.testing.assert_close(tokenizer.decode(latent[1:], second), made[1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(41, 60), (7, 9), (48, 48), (84, 84), (96, 96), (210, 160)])
@pytest.mark.parametrize("name", ["history", "frame"])
def test_frames_of_any_size_come_back_at_their_size(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    tokenizer = CONFIGS[name].build(size, CONTROL, None)
    assert isinstance(tokenizer, HistoryTokenizer | FrameTokenizer)
    stir(tokenizer, scale=0.05)
    spec, block = tokenizer.latent_spec, tokenizer.config.patch * tokenizer.config.pool
    assert spec.grid is not None
    for side, count in zip(size, spec.grid, strict=True):
        assert side <= count * block < side + block
    true = random_like((1, 3, *size), 1).tanh()
    prior = tokenizer.prior(
        tokenizer.blank(1, torch.device("cpu")), MotionCondition(torch.zeros(1, CONTROL), None, None)
    )
    assert prior.tokens.shape == (1, spec.tokens, tokenizer.prior_channels)
    latent = tokenizer.encode(true, prior)
    made = tokenizer.decode(latent, prior)
    assert (latent.shape[1], made.shape) == (spec.tokens, true.shape)
    made.square().mean().backward()
    assert all(weight.grad is not None for weight in tokenizer.parameters())


def test_a_place_is_seen_at_any_size() -> None:
    size = (41, 61)
    tokenizer = CONFIGS["history with a place"].build(size, CONTROL, CAMERA)
    assert isinstance(tokenizer, HistoryTokenizer)
    tokenizer.enable_kernels(decodes=True)  # there are no kernels for such frames
    previous = PreviousFrame(random_like((BATCH, 3, *size), 0).tanh(), torch.full((BATCH, *size), 2.0))
    prior = tokenizer.prior(previous, motion(tokenizer))
    with torch.inference_mode():
        made = tokenizer.decode(tokenizer.encode(previous.frame, prior), prior)
    assert made.shape == (BATCH, 3, *size)
    assert made.isfinite().all()


def test_padding_repeats_the_border_and_is_cut_off_again() -> None:
    image = random_like((2, 3, 5, 7), 0)
    whole = pad_blocks(image, 4)
    assert whole.shape == (2, 3, 8, 8)
    assert torch.equal(whole[..., 5:, :7], image[..., -1:, :].expand(2, 3, 3, 7))
    assert torch.equal(crop(whole, (5, 7)), image)
    assert pad_blocks(image[..., :4, :4], 4).shape == (2, 3, 4, 4)
    with pytest.raises(ConfigError, match="pixels"):
        block_grid((0, 5), 4)


def test_a_place_needs_a_camera() -> None:
    with pytest.raises(ConfigError, match="intrinsics"):
        HistoryConfig(scene=SCENE).build(SIZE, CONTROL, None)
