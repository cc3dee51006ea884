"""Training on a GPU: every stage takes steps, the world that comes out can be played."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.rooms import write_walks
from tests.training.test_run import command
from worldsim.cli import main
from worldsim.engine.world import load

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("poses", [True, False])
def test_a_dataset_becomes_a_world(tmp_path: Path, device: torch.device, poses: bool) -> None:
    data = write_walks(tmp_path / "data", {1: 20, 2: 16, 20: 18}, poses=poses)
    out = tmp_path / "run"
    assert main(command(data, out, "--device", str(device), minutes=0.1)) == 0
    world = load(out / "toy", device)
    step = world.engine(1, denoising_steps=1).open(0, 0).step()
    assert step.frame.shape == (*world.spec.size, 3)
    assert torch.isfinite(torch.from_numpy(step.latent)).all()


def test_it_goes_on_from_where_it_was(tmp_path: Path, device: torch.device) -> None:
    data = write_walks(tmp_path / "data", {1: 20, 2: 16, 20: 18})
    assert main(command(data, tmp_path / "run", "--device", str(device))) == 0
    assert main(command(data, tmp_path / "run", "--device", str(device), "--resume")) == 0
