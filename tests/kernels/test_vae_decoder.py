"""The frame VAE's decoder by kernels and by torch gives the same frames, whichever lie beside a frame."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.compare import both, built, same, threads
from tests.tiny import random_like, stir
from worldsim.kernels.vae_decoder import supports
from worldsim.tokenizer.vae import VaeConfig, VaeTokenizer

pytestmark = built

SIZES: dict[str, Any] = {"width": 32, "depth": 2, "bottleneck": 16, "channels": 6, "vector": True}


def make(size: tuple[int, int] = (30, 42), **sizes: Any) -> VaeTokenizer:
    torch.manual_seed(0)
    tokenizer = VaeConfig(**(SIZES | sizes)).build(size, 5, None).eval().requires_grad_(False)
    stir(tokenizer)
    tokenizer.normalise_by(random_like(tokenizer.latent_spec.shape, 3), torch.full_like(tokenizer.std, 0.7))
    tokenizer.prepare(torch.float32)
    return tokenizer


def latents(tokenizer: VaeTokenizer, rows: int) -> Tensor:
    return random_like((16, *tokenizer.latent_spec.shape), 1)[:rows]


def check(tokenizer: VaeTokenizer, rows: int = 2) -> None:
    raw = latents(tokenizer, rows)
    quick, slow = both(lambda: tokenizer.reconstruct(raw))
    assert quick.shape == slow.shape
    assert slow.std() > 0.05
    largest = max(1.0, slow.abs().max().item())
    torch.testing.assert_close(quick, slow, atol=5e-5 * largest, rtol=1e-4)


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize("size", [(60, 80), (20, 20), (7, 45), (64, 64), (1, 1)])
@pytest.mark.parametrize(("patch", "pool"), [(4, 5), (5, 2), (3, 3)])
def test_frames_of_any_size_are_torch_s(size: tuple[int, int], patch: int, pool: int) -> None:
    check(make(size, patch=patch, pool=pool))


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize(
    ("width", "depth", "bottleneck", "channels", "patch"),
    [(16, 1, 1, 1, 1), (64, 3, 128, 192, 4), (80, 2, 70, 65, 8), (128, 8, 16, 6, 2)],
)
def test_any_width_is_taken(width: int, depth: int, bottleneck: int, channels: int, patch: int) -> None:
    sizes = {"width": width, "depth": depth, "bottleneck": bottleneck, "channels": channels, "patch": patch}
    check(make(**sizes))


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize("rows", [1, 3, 4, 13])
def test_any_number_of_frames_is_taken(rows: int) -> None:
    check(make(), rows)


@pytest.mark.usefixtures("each_variant")
def test_a_frame_is_the_same_among_others() -> None:
    tokenizer = make()
    raw = latents(tokenizer, 16)
    whole = tokenizer.reconstruct(raw)
    for count in (1, 2, 3, 5, 8):
        same(tokenizer.reconstruct(raw[:count]), whole[:count])
    raw[::2] = torch.nan
    same(tokenizer.reconstruct(raw)[1::2], whole[1::2])


@pytest.mark.usefixtures("each_variant")
@pytest.mark.parametrize("rows", [1, 5])
def test_a_frame_is_the_same_on_two_threads(rows: int) -> None:
    tokenizer = make()
    raw = latents(tokenizer, rows)
    with threads(1):
        alone = tokenizer.reconstruct(raw)
    with threads(2):
        for _ in range(3):
            same(tokenizer.reconstruct(raw), alone)


def test_what_is_taught_gets_its_gradients() -> None:
    tokenizer = make().requires_grad_(True)
    with torch.enable_grad():
        tokenizer.reconstruct(latents(tokenizer, 1)).square().mean().backward()
    weight = tokenizer.from_latent.weight
    assert weight.grad is not None
    assert weight.grad.any()


@pytest.mark.parametrize("sizes", [{"vector": False}, {"width": 24}, {"depth": 9}, {"patch": 9}])
def test_what_kernels_are_not_written_for_goes_torch_s_way(sizes: dict[str, Any]) -> None:
    tokenizer = make(**sizes)
    assert not tokenizer.supports_kernels
    quick, slow = both(lambda: tokenizer.reconstruct(latents(tokenizer, 2)))
    same(quick, slow)


def test_sizes_are_held_against_what_kernels_take() -> None:
    assert supports(64, 3, 4)
    assert supports(16, 8, 8)
    assert not supports(60, 3, 4)
    assert not supports(64, 9, 4)
    assert not supports(64, 3, 9)
