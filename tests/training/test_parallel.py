"""Two processes that train together take the steps of one with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.rooms import write_walks
from tests.training.test_run import command
from worldsim.checkpoint import load_world
from worldsim.errors import ConfigError
from worldsim.testing import tiny_world
from worldsim.training import trainer as trainer_module
from worldsim.training.parallel import SINGLE_PROCESS, Group, process_group
from worldsim.training.stage import Logs, ParamGroup, Stage
from worldsim.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
DENOISING_STEPS = 12


class TrainProgress:
    """A step takes a second in the first process, and half of one in the others."""

    def __init__(self, pace: float) -> None:
        self.now, self.pace = 0.0, pace

    def monotonic(self) -> float:
        return self.now


def train(world: Path, out: Path, ranks: Sequence[int], group: Group) -> dict[str, Any]:
    """Train on the batches of ``ranks``, and tell losses, what the trainer's chance drew, and the weights."""
    networks = load_world(world).networks
    weights, clock = list(networks.heads.outcome.parameters()), TrainProgress(1.0 if group.is_first else 0.5)
    told: dict[str, Any] = {"losses": [], "drawn": []}
    trainer_module.time = clock  # type: ignore[assignment]
    trainer_module.matmul_peak = lambda device: 1e12

    def objective(rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        told["drawn"].append(float(rng.normal()))
        step, losses = len(told["drawn"]), []
        for rank in ranks:
            chance = torch.Generator().manual_seed(10 * step + rank)
            losses += [(w - torch.randn(w.shape, generator=chance)).square().mean() for w in weights]
        clock.now += clock.pace
        return torch.stack(losses).mean(), {}

    out.mkdir(exist_ok=True)
    stage = Stage("toy", 1, [ParamGroup(weights, 1e-2)], objective)
    trainer = Trainer(networks, [stage], out, DENOISING_STEPS / 60, seed=5, group=group)
    step = trainer._step
    trainer._step = lambda *given: _noted(told, step(*given))  # type: ignore[method-assign]
    assert trainer.run()
    return told | {"weights": [weight.tolist() for weight in weights]}


def _noted(told: dict[str, Any], logs: Logs) -> Logs:
    told["losses"].append(float(logs["loss"]))
    return logs


def torchrun(*line: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *line]
    done = subprocess.run(start, env=env, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def _own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("time", "matmul_peak"):  # put back what ``train`` replaces
        monkeypatch.setattr(trainer_module, name, getattr(trainer_module, name))


@pytest.mark.slow
@pytest.mark.usefixtures("_own_clock")
def test_two_processes_learn_what_one_learns_from_twice_the_batch(tmp_path: Path) -> None:
    world = tiny_world(tmp_path)
    torchrun(__file__, str(world), str(tmp_path / "both"))
    first, second = (json.loads((tmp_path / f"both/{rank}.json").read_text()) for rank in (0, 1))
    one = train(world, tmp_path / "one", (0, 1), SINGLE_PROCESS)
    assert len(one["losses"]) == len(first["losses"]) == len(second["losses"]) == DENOISING_STEPS
    np.testing.assert_allclose(first["losses"], one["losses"], rtol=1e-6)
    assert first["losses"] == second["losses"]
    for mine, other, alone in zip(first["weights"], second["weights"], one["weights"], strict=True):
        np.testing.assert_array_equal(mine, other)
        np.testing.assert_allclose(mine, alone, atol=1e-6)
    assert first["drawn"] == one["drawn"]
    assert not set(second["drawn"]) & set(first["drawn"])


@pytest.mark.slow
def test_the_command_trains_in_two_processes(tmp_path: Path) -> None:
    data = write_walks(tmp_path / "data", {1: 20, 2: 16, 20: 18})
    torchrun("-m", "worldsim.cli", *command(data, tmp_path / "run", "--device", "cpu"))
    assert load_world(tmp_path / "run/toy").config.name == "toy"
    assert (tmp_path / "run/state.safetensors").exists()


def test_processes_choose_their_own_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="their own GPUs"), process_group("cuda:1"):
        pass


def test_one_process_needs_no_others() -> None:
    with process_group("cpu") as (group, device):
        assert (group, device) == (SINGLE_PROCESS, torch.device("cpu"))
    assert (group.broadcast_seconds(3.5), group.seed_suffix, group.is_first) == (3.5, [], True)


if __name__ == "__main__":
    with process_group("cpu") as (mine, _):
        result = train(Path(sys.argv[1]), Path(sys.argv[2]), (mine.rank,), mine)
    (Path(sys.argv[2]) / f"{mine.rank}.json").write_text(json.dumps(result))
