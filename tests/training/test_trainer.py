"""The trainer on toy objectives, under a clock that counts steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.checkpoint import load_world
from worldsim.errors import CheckpointError, ConfigError
from worldsim.networks import Networks
from worldsim.testing import tiny_world
from worldsim.training import trainer as trainer_module
from worldsim.training.stage import Logs, ParamGroup, Stage
from worldsim.training.trainer import Trainer


class Toy:
    """Objectives that pull the reward head towards noise; each step takes a second and notes what it drew."""

    def __init__(self, networks: Networks, interrupt_at: int | None = None) -> None:
        self.networks, self.interrupt_at = networks, interrupt_at
        self.now = 0.0
        self.drawn: list[tuple[str, float, float]] = []
        self.started: list[str] = []

    def monotonic(self) -> float:
        return self.now

    def stage(self, name: str, share: float, weights: list[torch.nn.Parameter]) -> Stage:
        def objective(rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
            if len(self.drawn) == self.interrupt_at:
                raise KeyboardInterrupt
            self.now += 1
            target = float(rng.normal())
            self.drawn.append((name, target, progress))
            loss = sum((weight - target).square().mean() for weight in weights)
            assert isinstance(loss, Tensor)
            return loss, {"target": target}

        return Stage(name, share, [ParamGroup(weights, 1e-2)], objective, lambda: self.started.append(name))

    def stages(self) -> list[Stage]:
        reward, motion = self.networks.heads.outcome, self.networks.heads.motion
        assert motion is not None
        return [
            self.stage("one", 1, list(reward.parameters())),
            self.stage("two", 3, list(motion.parameters())),
        ]


@pytest.fixture(autouse=True)
def _known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "matmul_peak", lambda device: 1e12)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return tiny_world(tmp_path)


def toy_trainer(
    world: Path, out: Path, monkeypatch: pytest.MonkeyPatch, interrupt_at: int | None = None
) -> tuple[Trainer, Toy]:
    """Twelve seconds, that is twelve steps: three of "one", nine of "two"."""
    toy = Toy(load_world(world).networks, interrupt_at)
    monkeypatch.setattr(trainer_module, "time", toy)
    out.mkdir(exist_ok=True)
    return Trainer(toy.networks, toy.stages(), out, minutes=0.2, seed=5), toy


def test_stages_share_the_clock(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, toy = toy_trainer(world, tmp_path / "run", monkeypatch)
    assert trainer.run()
    assert [name for name, _, _ in toy.drawn] == ["one"] * 3 + ["two"] * 9
    assert toy.started == ["one", "two"]
    assert len({target for _, target, _ in toy.drawn}) == 12  # every step of every stage draws anew
    assert [progress for _, _, progress in toy.drawn[3:6]] == pytest.approx([0, 1 / 9, 2 / 9])
    assert trainer.progress.done


@pytest.mark.parametrize("seconds", [5, 12, 31])
def test_it_ends_within_the_minutes(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    toy = Toy(load_world(world).networks)
    monkeypatch.setattr(trainer_module, "time", toy)
    (tmp_path / "run").mkdir()
    assert Trainer(toy.networks, toy.stages(), tmp_path / "run", minutes=seconds / 60, seed=0).run()
    assert seconds <= toy.now <= seconds + 1  # a step takes a second
    assert len(toy.drawn) > 2


def test_only_the_stage_s_weights_learn(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, toy = toy_trainer(world, tmp_path / "run", monkeypatch, interrupt_at=3)
    before = {name: weight.clone() for name, weight in toy.networks.named_parameters()}
    assert not trainer.run()
    for name, weight in toy.networks.named_parameters():
        assert torch.equal(weight, before[name]) != name.startswith("heads.outcome"), name
        assert weight.requires_grad == name.startswith("heads.motion"), name  # the stage that was interrupted


@pytest.mark.parametrize("interrupt_at", [0, 2, 3, 7, 11])
def test_an_interrupted_training_goes_on_as_if_it_never_was(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt_at: int
) -> None:
    whole, true = toy_trainer(world, tmp_path / "whole", monkeypatch)
    assert whole.run()
    first, before = toy_trainer(world, tmp_path / "run", monkeypatch, interrupt_at)
    assert not first.run()
    second, after = toy_trainer(world, tmp_path / "run", monkeypatch)
    second.resume()
    assert second.run()
    assert before.drawn + after.drawn == true.drawn
    assert after.started == (["one", "two"] if interrupt_at == 0 else ["two"] if interrupt_at <= 3 else [])
    for name, weight in true.networks.state_dict().items():
        assert torch.equal(after.networks.state_dict()[name], weight), name


def test_interrupted_again_before_it_goes_on_loses_nothing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = toy_trainer(world, tmp_path / "run", monkeypatch, interrupt_at=7)
    first.run()
    state = (tmp_path / "run/state.safetensors").read_bytes()
    second, _ = toy_trainer(world, tmp_path / "run", monkeypatch)
    second.resume()

    def interrupt(stage: Stage) -> torch.optim.Optimizer:
        raise KeyboardInterrupt

    monkeypatch.setattr(second, "_make_optimizer", interrupt)
    assert not second.run()
    assert (tmp_path / "run/state.safetensors").read_bytes() == state


def test_a_finished_training_has_nothing_to_resume(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, _ = toy_trainer(world, tmp_path / "run", monkeypatch)
    trainer.run()
    again, toy = toy_trainer(world, tmp_path / "run", monkeypatch)
    again.resume()
    assert again.run()
    assert not toy.drawn


def test_other_stages_are_not_resumed(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = toy_trainer(world, tmp_path / "run", monkeypatch, interrupt_at=7)
    first.run()
    second, toy = toy_trainer(world, tmp_path / "run", monkeypatch)
    second.stages = [toy.stage("one", 1, []), toy.stage("three", 1, [])]
    with pytest.raises(CheckpointError, match="--stages"):
        second.resume()


def test_stages_without_a_share_are_an_error(world: Path, tmp_path: Path) -> None:
    toy = Toy(load_world(world).networks)
    with pytest.raises(ConfigError, match="share"):
        Trainer(toy.networks, [toy.stage("none", 0, [])], tmp_path, 1, 0)


def test_metrics_and_checkpoints_come_out(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, toy = toy_trainer(world, tmp_path / "run", monkeypatch)
    metrics: dict[str, list[int]] = {}
    checkpoints: list[tuple[str, int]] = []

    class Metrics:
        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            assert np.isfinite(scalar_value)
            metrics.setdefault(tag, []).append(global_step)

    trainer.writer, trainer.save_every = Metrics(), 3.5

    def on_checkpoint(stage: str, step: int) -> Logs:
        checkpoints.append((stage, step))
        return {"gap": 1.5}

    trainer.on_checkpoint = on_checkpoint
    trainer.budgets = [3, 20]
    trainer.run()
    assert checkpoints == [
        ("one", 3),
        ("two", 4),
        ("two", 8),
        ("two", 12),
        ("two", 16),
        ("two", 20),
        ("two", 20),
    ]
    names = ("loss", "target", "steps_per_s", "mfu")
    assert {name: steps for name, steps in metrics.items() if not name.endswith("/gap")} == {
        f"{stage}/{name}": list(range(1, last + 1))  # every one here takes longer than metrics wait
        for stage, last in (("one", 3), ("two", 20))
        for name in names
    }
    assert (metrics["one/gap"], metrics["two/gap"]) == ([3], [4, 8, 12, 16, 20, 20])
    assert len(toy.drawn) == 23


def test_companions_are_saved_with_the_state_and_a_stage_can_end_early(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    _, toy = toy_trainer(world, out, monkeypatch)
    beside = torch.nn.Linear(2, 2)
    stages = [replace(stage, companions=beside) for stage in toy.stages()]
    stages[0] = replace(stages[0], should_end=lambda: "enough" if len(toy.drawn) == 2 else None)
    assert Trainer(toy.networks, stages, out, minutes=0.2, seed=5).run()
    assert [name for name, _, _ in toy.drawn] == ["one"] * 2 + ["two"] * 9
    assert "one ended early: enough" in capsys.readouterr().err
    again = torch.nn.Linear(2, 2)
    resumed = Trainer(
        toy.networks, [replace(stage, companions=again) for stage in stages], out, minutes=0.2, seed=5
    )
    resumed.resume()
    assert torch.equal(again.weight, beside.weight)
    other = [replace(stage, companions=torch.nn.Linear(3, 2)) for stage in stages]
    misfit = Trainer(toy.networks, other, out, minutes=0.2, seed=5)
    with pytest.raises(CheckpointError, match="of these networks"):
        misfit.resume()
