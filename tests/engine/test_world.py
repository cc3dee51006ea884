"""Worlds as loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import worldsim
from worldsim.engine.precision import best_dtype
from worldsim.engine.world import World, load
from worldsim.utils.cpu_info import CpuInfo


def test_a_world_tells_what_it_is(world: World) -> None:
    assert world.name == "tiny"
    assert world.spec.size == (60, 80)
    assert world.config.name == world.name
    assert world.params == sum(p.numel() for p in world.networks.parameters())
    assert world.card.startswith("# tiny")
    assert len(world.starts) == 2
    assert len(world.weights_sha256) == 64
    assert (world.device.type, world.dtype) == ("cpu", torch.float32)


def test_the_public_load_is_the_engine_s(folder: Path) -> None:
    assert worldsim.load is load
    world = load(str(folder), "cpu")
    assert world.dtype == best_dtype(world.networks)


@pytest.mark.parametrize(
    ("vendor", "flags", "dtype"),
    [
        ("GenuineIntel", {"avx512_bf16"}, torch.float32),
        ("GenuineIntel", {"avx512_bf16", "amx_bf16"}, torch.bfloat16),
        ("AuthenticAMD", {"avx512_bf16"}, torch.bfloat16),
        ("", {"bf16"}, torch.bfloat16),
        ("GenuineIntel", {"avx2"}, torch.float32),
        ("", set(), torch.float32),
    ],
)
def test_the_number_type_follows_the_processor_where_torch_makes_frames(
    world: World,
    poseless: World,
    monkeypatch: pytest.MonkeyPatch,
    vendor: str,
    flags: set[str],
    dtype: torch.dtype,
) -> None:
    by_kernels = world.networks.supports_kernels
    monkeypatch.setattr("worldsim.utils.cpu_info.cpu_info", lambda: CpuInfo("", vendor, frozenset(flags)))
    assert best_dtype(poseless.networks) == dtype
    assert best_dtype(world.networks) == (torch.float32 if by_kernels else dtype)


def test_nothing_is_trained_here(world: World) -> None:
    assert not world.networks.training
    assert not any(parameter.requires_grad for parameter in world.networks.parameters())


def test_in_half_precision_what_is_looked_up_stays_whole(half: World) -> None:
    scene = half.networks.tokenizer.scene
    assert scene.ground_plane.dtype == scene.occupancy.dtype == torch.float32
    # Kernels count in float32.
    assert scene.colour_mlp[1].weight.dtype == (torch.bfloat16 if scene.renderer is None else torch.float32)
    assert half.networks.generator.prior_in.weight.dtype == torch.bfloat16


def test_half_precision_shows_nearly_the_same_frame(world: World, half: World) -> None:
    frames = [w.engine(1).open(3, 0).step().frame.astype(float) for w in (world, half)]
    assert np.abs(frames[0] - frames[1]).mean() < 8
