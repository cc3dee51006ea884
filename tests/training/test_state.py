"""State of a training, saved and read again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import stir
from worldsim.checkpoint import StoredWorld, load_world
from worldsim.errors import CheckpointError
from worldsim.networks import Networks
from worldsim.testing import tiny_world
from worldsim.training.state import TrainProgress, load_state, save_state

PROGRESS = TrainProgress(stage=2, seconds=12.5, step=34, name="world_model")


@pytest.fixture
def stored(tmp_path: Path) -> StoredWorld:
    return load_world(tiny_world(tmp_path))


@pytest.fixture
def networks(stored: StoredWorld) -> Networks:
    return stored.networks


def trained(networks: Networks) -> torch.optim.Optimizer:
    """An optimizer over some weights that has taken two steps."""
    weights = list(networks.heads.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-3)
    for _ in range(2):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
    return optimizer


def test_weights_moments_and_progress_come_back(tmp_path: Path, stored: StoredWorld) -> None:
    networks = stored.networks
    optimizer = trained(networks.requires_grad_(True))
    save_state(tmp_path, networks, optimizer, PROGRESS)
    other = Networks(networks.config, stored.config.source)
    stir(other)
    progress, moments = load_state(tmp_path, other)
    assert progress == PROGRESS
    for name, weight in networks.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name
    saved = optimizer.state_dict()["state"]
    assert moments.keys() == saved.keys()
    for i, fields in saved.items():
        assert moments[i].keys() == fields.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(moments[i][name], fields[name]) for name in fields)
    assert [path.name for path in tmp_path.glob("state*")] == ["state.safetensors"]


def test_between_stages_there_are_no_moments(tmp_path: Path, networks: Networks) -> None:
    save_state(tmp_path, networks, None, PROGRESS)
    assert load_state(tmp_path, networks) == (PROGRESS, {})


def test_without_a_state_nothing_can_be_resumed(tmp_path: Path, networks: Networks) -> None:
    with pytest.raises(CheckpointError, match="without --resume"):
        load_state(tmp_path / "nowhere", networks)


def test_a_state_of_other_networks_is_refused(tmp_path: Path, networks: Networks) -> None:
    save_state(
        tmp_path, load_world(tiny_world(tmp_path, "other", tokenizer="frame")).networks, None, PROGRESS
    )
    with pytest.raises(CheckpointError, match="these networks"):
        load_state(tmp_path, networks)


@pytest.mark.parametrize("cut", [0, 6, 100, -1])
def test_a_cut_state_is_refused(tmp_path: Path, networks: Networks, cut: int) -> None:
    save_state(tmp_path, networks, None, PROGRESS)
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="whole"):
        load_state(tmp_path, networks)
