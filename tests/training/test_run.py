"""``worldsim train`` from a dataset to a world that can be walked through."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from tests.training.rooms import write_walks
from worldsim.cli import main
from worldsim.engine.world import load
from worldsim.training import run as run_module
from worldsim.training import trainer as trainer_module
from worldsim.training.stage import Stage
from worldsim.training.trainer import Trainer

SMALL = {
    "width": 16,
    "layers": 2,
    "heads": 2,
    "context": 3,
    "tokenizer_width": 8,
    "tokenizer_depth": 1,
    "channels": 4,
    "scene_channels": 4,
    "batch": 2,
    "length": 4,
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "matmul_peak", lambda device: 1e12)


def command(data: Path, out: Path, *more: str, minutes: float = 0.02) -> list[str]:
    sizes = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    return ["train", "toy", "--data", str(data), "--out", str(out), "--minutes", str(minutes), *sizes, *more]


@pytest.mark.slow
def test_a_dataset_becomes_a_world(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(command(data, out)) == 0
    told = capsys.readouterr()
    assert told.out == f"trained: {out / 'toy'}\n"
    assert "training " in told.err
    assert {path.name.split("-")[1] for path in out.glob("samples-*.png")} == {
        "scene",
        "motion",
        "world_model",
        "self_rollout",
    }
    assert list((out / "tensorboard").iterdir())
    world = load(out / "toy", "cpu", torch.float32)
    assert (world.name, world.spec.name, len(world.starts)) == ("toy", "doom-maze", 32)
    assert world.config.networks.generator.width == 16
    step = world.engine(1).open().step()
    assert step.frame.shape == (60, 80, 3)
    state = out / "state.safetensors"
    before = state.stat().st_mtime_ns
    assert main(command(data, out, "--resume")) == 0  # nothing is left to do; the world is written again
    assert state.stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_a_kill_leaves_a_world_and_a_way_on(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    out, taken = tmp_path / "run", []
    true_step = Trainer._step

    def step(self: Trainer, stage: Stage, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        if len(taken) == 3:
            signal.raise_signal(number)
        taken.append(stage.name)
        return true_step(self, stage, optimizer)

    monkeypatch.setattr(Trainer, "_step", step)
    assert main(command(data, out, "--stages", "motion", minutes=1)) == 130
    assert "interrupted; --resume goes on" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert load(out / "toy", "cpu").engine(1).open().step().index == 3
    monkeypatch.setattr(Trainer, "_step", true_step)
    assert main(command(data, out, "--stages", "scene", "--resume")) == 2
    assert "--stages" in capsys.readouterr().err
    assert main(command(data, out, "--stages", "motion", "--resume")) == 0


@pytest.mark.slow
def test_training_goes_on_from_a_world(data: Path, tmp_path: Path) -> None:
    assert main(command(data, tmp_path / "first", "--stages", "motion", minutes=0.002)) == 0
    first = tmp_path / "first/toy"
    args = ("--stages", "motion", "--init", str(first))
    assert main(command(data, tmp_path / "second", *args, minutes=0.002)) == 0
    kept, config = (
        json.loads((folder / "config.json").read_text()) for folder in (first, tmp_path / "second/toy")
    )
    assert config == kept
    weights = [
        load(folder, "cpu", torch.float32).networks.state_dict()
        for folder in (first, tmp_path / "second/toy")
    ]
    for name, weight in weights[0].items():
        if not name.startswith("heads.motion"):  # walks, which teach most of it, come later
            assert torch.equal(weight, weights[1][name]) != name.startswith("heads."), name


@pytest.mark.slow
def test_a_world_of_another_source_is_no_beginning(
    data: Path, poseless_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(data, tmp_path / "first", "--stages", "motion", minutes=0.001)) == 0
    assert main(command(poseless_data, tmp_path / "second", "--init", str(tmp_path / "first/toy"))) == 2
    assert "--init needs a world of the data's control_space" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--stages", "dreams"), "a stage must be one of"),
        (("--set", "widht=3"), "width"),
        (("--size", "60"), "HxW"),
        (("--size", "7x80"), "must divide"),
        (("--device", "cuda:99"), "device must exist"),
        (("--init", "nowhere"), "shipped name or a folder"),
        (("--resume",), "without --resume"),
    ],
)
def test_mistakes_are_one_line(
    data: Path, tmp_path: Path, more: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(data, tmp_path / "run", *more)) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("worldsim: ")
    assert words in told


def test_decoding_tells_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_walks(tmp_path, {1: 5, 2: 5}, codec="lossless")
    run_module._decode(root, None, "train")
    assert "decoding train 100%" in capsys.readouterr().err
    run_module._decode(root, None, "train")
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_several_datasets_are_learnt_from(data: Path, tmp_path: Path) -> None:
    """One of them may have no held-out episode."""
    more = write_walks(tmp_path / "more", {5: 16})
    words = command(data, tmp_path / "run", "--stages", "motion", minutes=0.002)
    at = words.index(str(data))
    assert main([*words[: at + 1], str(more), *words[at + 1 :]]) == 0
    assert (tmp_path / "run/toy/weights.safetensors").exists()
