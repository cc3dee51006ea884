"""The bitwise tokenizer and its pyramid of scales."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.tiny import random_like, stir
from worldsim.errors import ConfigError
from worldsim.tokenizer.bits import BitsConfig, BitsTokenizer
from worldsim.tokenizer.protocol import MotionCondition, PreviousFrame, Prior
from worldsim.tokenizer.pyramid import BitPyramid, halved

SCALES, CHANNELS = ((1, 1), (2, 2), (4, 6)), 5
CONFIG = BitsConfig(width=8, token_width=8, depth=1, channels=4)


def planes(seed: int, batch: int = 3) -> Tensor:
    return random_like((batch, CHANNELS, *SCALES[-1]), seed)


def made(size: tuple[int, int], config: BitsConfig = CONFIG) -> BitsTokenizer:
    torch.manual_seed(0)
    tokenizer = config.build(size, 3, None)
    stir(tokenizer)
    return tokenizer


def prior_of(tokenizer: BitsTokenizer, frame: Tensor) -> Prior:
    depth = torch.zeros(len(frame), *tokenizer.size)
    motion = MotionCondition(torch.zeros(len(frame), 3), None, None)
    return tokenizer.prior(PreviousFrame(frame, depth), motion)


def test_scales_are_halved_to_one_token() -> None:
    assert halved((6, 8)) == ((1, 1), (2, 2), (3, 4), (6, 8))
    assert halved((1, 5)) == ((1, 1), (1, 2), (1, 3), (1, 5))
    assert halved((1, 1)) == ((1, 1),)


def test_encoder_and_decoder_agree_to_the_bit() -> None:
    pyramid = BitPyramid(SCALES, CHANNELS)
    quantised = pyramid(planes(0))
    assert quantised.bits.shape == (3, 1 + 4 + 24, CHANNELS)
    assert set(quantised.bits.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(pyramid.features(quantised.bits), quantised.features)
    assert torch.equal(pyramid(planes(0)).bits, quantised.bits)


def test_finer_scales_bring_the_features_closer() -> None:
    pyramid, given = BitPyramid(SCALES, CHANNELS).requires_grad_(False), planes(1)
    target = given * given.square().mean(1, keepdim=True).rsqrt()
    bits, errors = pyramid(given).bits, []
    for kept in (0, 5, 29):
        part = torch.zeros_like(bits)
        part[:, :kept] = bits[:, :kept]
        errors.append(float((pyramid.features(part) - target).square().mean()))
    assert errors[0] > errors[2]
    assert errors[1] > errors[2]


def test_finer_scales_answer_to_flips() -> None:
    pyramid, given = BitPyramid(SCALES, CHANNELS).requires_grad_(False), planes(2)
    target = given * given.square().mean(1, keepdim=True).rsqrt()
    clean, flips = pyramid(given), torch.zeros(3, 29, CHANNELS, dtype=torch.bool)
    flips[:, :1] = True
    wrong = pyramid(given, flips)
    assert torch.equal(wrong.seen[:, :1], -clean.bits[:, :1])
    assert torch.equal(wrong.seen[:, 1:], wrong.bits[:, 1:])
    assert torch.equal(wrong.bits[:, :1], clean.bits[:, :1])
    assert (wrong.bits[:, 1:] != clean.bits[:, 1:]).any()
    ignored = pyramid.features(torch.where(flips, -clean.bits, clean.bits))
    error, blind = ((part - target).square().mean() for part in (wrong.features, ignored))
    assert error < blind


def test_gradients_pass_the_signs() -> None:
    pyramid, given = BitPyramid(SCALES, CHANNELS), planes(3).requires_grad_()
    quantised = pyramid(given)
    quantised.features.sum().backward()
    assert given.grad is not None
    assert given.grad.abs().sum() > 0
    assert pyramid.gain.grad is not None
    assert (pyramid.gain.grad != 0).all()
    assert 0 < float(quantised.commitment.detach()) < 1
    assert float(quantised.entropy.detach()) < 0


def test_bits_of_other_scales_are_refused() -> None:
    pyramid = BitPyramid(SCALES, CHANNELS)
    for shape in ((1, 28, CHANNELS), (1, 29, CHANNELS + 1)):
        with pytest.raises(ConfigError, match="29 tokens of 5 bits"):
            pyramid.features(torch.ones(shape))


def test_a_finest_scale_that_is_not_the_grid_is_refused() -> None:
    config = replace(CONFIG, scales=((1, 1), (3, 4)))
    assert config.build((30, 40), 3, None).latent_spec.tokens == 13
    with pytest.raises(ConfigError, match=r"must be \(6, 8\)"):
        config.build((60, 80), 3, None)


@pytest.mark.parametrize("size", [(20, 40), (33, 47), (84, 84)])
def test_frames_of_any_size_have_their_bits(size: tuple[int, int]) -> None:
    tokenizer, frame = made(size), random_like((2, 3, *size), 0).tanh()
    prior = prior_of(tokenizer, random_like((2, 3, *size), 1).tanh())
    with torch.no_grad():
        bits = tokenizer.encode(frame, prior)
        shown = tokenizer.decode(bits, prior)
    assert bits.shape == (2, *tokenizer.latent_spec.shape)
    assert shown.shape == frame.shape
    assert tokenizer.latent_spec.scales[0] == (1, 1)
    assert tokenizer.latent_spec.scales[-1] == tokenizer.latent_spec.grid


def test_bits_do_not_hang_on_the_past_but_the_picture_does() -> None:
    size = (20, 40)
    tokenizer, frame = made(size), random_like((2, 3, *size), 0).tanh()
    priors = [prior_of(tokenizer, random_like((2, 3, *size), seed).tanh()) for seed in (1, 2)]
    with torch.no_grad():
        bits = [tokenizer.encode(frame, prior) for prior in priors]
        shown = [tokenizer.decode(bits[0], prior) for prior in priors]
    assert torch.equal(*bits)
    assert not torch.equal(*shown)


def test_a_clip_is_decoded_frame_by_frame_on_the_one_before() -> None:
    tokenizer = made((20, 40), replace(CONFIG, frames=3))
    clip = random_like((2, 3, 3, 20, 40), 0).tanh()
    assert tokenizer.latent_spec.frames == 3
    bits = tokenizer.encode_clip(clip)
    assert bits.shape == (2, *tokenizer.latent_spec.shape)
    still = clip[:, :1].expand(-1, 3, -1, -1, -1)
    prior = prior_of(tokenizer, clip[:, 0])
    assert torch.equal(tokenizer.encode(clip[:, 0], prior), tokenizer.encode_clip(still))
    assert not torch.equal(bits, tokenizer.encode_clip(clip.flip(1))), "the order of frames is told"
    shown = [tokenizer.decode_frame(bits, prior, slot) for slot in range(3)]
    assert torch.equal(shown[0], tokenizer.decode(bits, prior))
    assert not torch.equal(shown[0], shown[1]), "each frame has its part of the bits"
    other = tokenizer.decode_frame(bits, prior_of(tokenizer, shown[0]), 1)
    assert not torch.equal(shown[1], other), "a frame is decoded on the one before it"


def test_a_clip_needs_a_frame() -> None:
    with pytest.raises(ConfigError, match="positive"):
        replace(CONFIG, frames=0)
