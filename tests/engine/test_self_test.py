"""The self-test of a world's arithmetic: it finds what depends on the batch, and small products do not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.tiny import lively_world, stir
from worldsim.batch_invariant import BatchInvariantLinear
from worldsim.checkpoint import load_world
from worldsim.engine import self_test, self_test_cache
from worldsim.engine.precision import best_dtype
from worldsim.engine.self_test import Invariance, measure_invariance
from worldsim.engine.world import World, load
from worldsim.kernels import library
from worldsim.model.recurrent import RecurrentConfig
from worldsim.networks import Networks
from worldsim.sampling.imagine import Imagined
from worldsim.sampling.remainder_flow import RemainderFlowConfig
from worldsim.tokenizer.vae import VaeConfig

OWN_LOOP = 4096
"""Multiply-adds up to which torch has a loop of its own for bfloat16."""

needs_kernels = pytest.mark.skipif(library.variant() is None, reason="no kernels were compiled")


@pytest.fixture(params=["scene", "frame"])
def half(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """A tiny world in bfloat16."""
    kind = {"scene": "history", "frame": "frame"}[request.param]
    return load(lively_world(tmp_path, tokenizer=kind, poses=request.param == "scene"), "cpu", torch.bfloat16)


def products(world: World) -> list[self_test._Product]:
    with torch.inference_mode():
        state = self_test._begun(world.networks, world.starts)
        return self_test._products_of(world.networks, state)


def test_no_small_product_of_a_step_is_torch_s_in_bfloat16(half: World) -> None:
    """A row's would go to another loop than its batch's."""
    with library.kernels_disabled():
        called = products(half)
    linear = [one for one in called if one.call is torch.ops.aten.linear.default]
    assert linear
    for product in linear:
        x, weight = product.arguments[:2]
        assert x.dtype != torch.bfloat16 or x[0].numel() * len(weight) > OWN_LOOP
    small = [one for one in called if one.call is torch.ops.aten.baddbmm.default]
    assert any(one.arguments[1][0].numel() * one.arguments[2].shape[2] <= OWN_LOOP for one in small)
    assert all(one.is_same_in_batches() for one in small)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 64, 64), (12, 64, 4), (16, 64, 4), (3, 8, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_small_layer_gives_a_row_the_same_in_every_batch(
    rows: int, inputs: int, outputs: int, bias: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias).requires_grad_(False)
    alone = BatchInvariantLinear.of(layer)
    assert alone.weight is layer.weight
    x = torch.randn(16, rows, inputs).bfloat16()
    with torch.no_grad():
        together = alone(x)
        torch.testing.assert_close(together, F.linear(x.float(), layer.weight, layer.bias))
        for size in range(1, 17):
            assert torch.equal(alone(x[:size]), together[:size])


def test_layers_are_parted_by_what_one_world_multiplies(half: World) -> None:
    generator = half.networks.generator
    for name in ("latent_in", "prior_in", "out"):
        layer = getattr(generator, name)
        assert isinstance(layer, BatchInvariantLinear) == (
            generator.tokens * layer.weight.numel() <= OWN_LOOP
        )
        assert layer.weight.dtype == (
            torch.float32 if isinstance(layer, BatchInvariantLinear) else torch.bfloat16
        )


def in_order(x: Tensor, weight: Tensor, order: Iterable[int]) -> Tensor:
    """x [..., K] times weight [outputs, K], term after term."""
    total = torch.zeros(*x.shape[:-1], len(weight))
    for k in order:
        total = total + x[..., None, k] * weight[:, k]
    return total


@pytest.mark.parametrize("culprit", ["batch", "threads", None])
def test_a_product_that_adds_in_another_order_is_found(
    monkeypatch: pytest.MonkeyPatch, culprit: str | None
) -> None:
    def multiply(x: Tensor, weight: Tensor) -> Tensor:
        many = {"batch": len(x) > 1, "threads": torch.get_num_threads() > 1, None: False}[culprit]
        order = range(x.shape[-1])
        return in_order(x, weight, reversed(order) if many else order)

    monkeypatch.setitem(self_test._PRODUCTS, multiply, self_test._PRODUCTS[torch.ops.aten.linear.default])
    product = self_test._Product(multiply, (torch.zeros(2, 4, 16), torch.zeros(4, 16)), {})
    with self_test.thread_limit(1):
        assert product.is_same_in_batches() == (culprit != "batch")
        assert product.is_same_on(2) == (culprit != "threads")


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize("culprit", ["batch", "threads", None])
def test_a_step_that_rounds_otherwise_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, culprit: str | None
) -> None:
    world, step = load(lively_world(tmp_path), "cpu", torch.float32), self_test.imagine_frame

    def off(networks: Any, state: Any, controls: Any, denoising_steps: int) -> Imagined:
        unit = step(networks, state, controls, denoising_steps)
        many = len(unit.frame) > 1 if culprit == "batch" else torch.get_num_threads() > 1
        return replace(unit, uncertainty=unit.uncertainty + 2.0**-20) if culprit and many else unit

    monkeypatch.setattr(self_test, "imagine_frame", off)
    found = measure_invariance(world.networks, world.starts, threads=2)
    assert found == Invariance(batch=culprit != "batch", threads=culprit != "threads")


@needs_kernels
def test_kernels_make_the_frames_of_a_world_with_a_scene_in_float32(tmp_path: Path) -> None:
    world = load(lively_world(tmp_path), "cpu")
    assert world.dtype == torch.float32
    assert world.batch_invariant
    assert best_dtype(world.networks) == torch.float32


@needs_kernels
def test_kernels_make_the_frames_of_a_recurrent_world_in_float32(tmp_path: Path) -> None:
    stored = load_world(lively_world(tmp_path, tokenizer="frame", poses=False))
    config = replace(
        stored.config.networks,
        tokenizer=VaeConfig(vector=True, width=16, bottleneck=16),
        generator=RecurrentConfig(width=32, embedding=16, head_width=32, agent=16),
        sampler=RemainderFlowConfig(),
    )
    networks = Networks(config, stored.config.source).eval().requires_grad_(False)
    stir(networks)
    networks.prepare(torch.float32)
    assert best_dtype(networks) == torch.float32
    assert measure_invariance(networks, stored.starts, threads=2) == Invariance(batch=True, threads=True)


def test_a_result_is_kept_by_what_it_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDSIM_CACHE", str(tmp_path / "cache"))
    asked: list[str] = []

    def test() -> Invariance:
        asked.append("once")
        return Invariance(batch=False, threads=True)

    for weights in ("a", "a", "b"):
        assert self_test_cache.cached({"weights": weights}, test) == Invariance(batch=False, threads=True)
    assert len(asked) == 2
    files = list((tmp_path / "cache").iterdir())
    assert {json.loads(path.read_text())["facts"]["weights"] for path in files} == {"a", "b"}
    for path in files:
        path.write_text(path.read_text()[:20])
    assert self_test_cache.cached({"weights": "a"}, test) == Invariance(batch=False, threads=True)
    assert len(asked) == 3


def test_a_result_that_cannot_be_kept_is_found_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("WORLDSIM_CACHE", str(tmp_path / "file"))
    asked: list[int] = []
    for _ in range(2):
        self_test_cache.cached({}, lambda: asked.append(1) or Invariance(batch=True, threads=True))
    assert len(asked) == 2
