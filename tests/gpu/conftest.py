"""Worlds on the device that is tested: a GPU, or what WORLDSIM_TEST_DEVICE names."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tiny import lively_world, stir
from tests.training.test_latent_dynamics import TINY
from worldsim.checkpoint import load_world, save_world
from worldsim.engine.world import World, load
from worldsim.networks import Networks


@pytest.fixture(scope="session")
def device() -> torch.device:
    found = torch.device(os.environ.get("WORLDSIM_TEST_DEVICE", "cuda"))
    if found.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return found


@pytest.fixture(autouse=True)
def _all_graphs_are_recorded() -> Iterator[None]:
    """A graph that fails is only warned of, and would hide here behind steps that are launched one by one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="steps are launched one by one")
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with a place and poses."""
    return lively_world(tmp_path_factory.mktemp("worlds"), "tiny")


@pytest.fixture(scope="session")
def poseless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with a per-frame tokenizer and without poses."""
    return lively_world(tmp_path_factory.mktemp("worlds"), "poseless", tokenizer="frame", poses=False)


@pytest.fixture(scope="session")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world of the recipe "latent-dynamics": one latent vector a frame, a recurrent generator."""
    folder = lively_world(tmp_path_factory.mktemp("worlds"), "moving", tokenizer="frame", poses=False)
    stored = load_world(folder)
    source = stored.config.source
    networks = Networks(TINY.plan(source, None), source)
    stir(networks)
    config = replace(stored.config, networks=networks.config)
    save_world(folder, config, networks, stored.starts, stored.card)
    return folder


@pytest.fixture(params=["folder", "poseless", "moving"])
def any_folder(request: pytest.FixtureRequest) -> Path:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Path)
    return found


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def any_world(request: pytest.FixtureRequest, any_folder: Path, device: torch.device) -> World:
    return load(any_folder, device, request.param)


@pytest.fixture
def world(folder: Path, device: torch.device) -> World:
    return load(folder, device, torch.float32)
