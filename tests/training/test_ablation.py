"""Ablations: every variant trains, on the same place and motion, and goes on where it was interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import ablation
from tests.tiny import stir
from worldsim.checkpoint import WorldConfig, load_world, save_world
from worldsim.data.clips import ClipStore
from worldsim.networks import Networks
from worldsim.training.recipes import Recipe
from worldsim.training.starts import choose_starts

MOMENT = 1e-6
"""Minutes: a step of each simulator."""


@pytest.fixture
def init(recipe: Recipe, clips: ClipStore, held_out: ClipStore, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    networks = Networks(recipe.plan(clips.spec, clips.poses), clips.spec)
    stir(networks)
    config = WorldConfig(name="room", source=clips.spec, networks=networks.config)
    save_world(tmp_path / "room", config, networks, choose_starts(held_out), "# room\n")
    return tmp_path / "room"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ablation.VARIANTS) - {"context-32", "context-64", "context-16"}))
def test_a_variant_trains(name: str, recipe: Recipe, clips: ClipStore, init: Path, tmp_path: Path) -> None:
    told = ablation.train(name, recipe, clips, str(init), MOMENT, 0, tmp_path)
    assert told is not None
    assert told["changed"] == ablation.VARIANTS[name]
    made, held = load_world(tmp_path / name / "world").networks, load_world(init).networks
    assert (made.walkable_map is None) == (name == "keys-only")
    if made.walkable_map is not None:
        theirs = held.state_dict()
        for key, value in made.state_dict().items():
            if key.startswith(("tokenizer.scene.", "heads.", "walkable_map.")):
                assert torch.equal(value, theirs[key]), key


@pytest.mark.slow
def test_an_interrupted_variant_goes_on(
    recipe: Recipe, clips: ClipStore, init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ablation.Trainer._step
    calls = []

    def interrupted(self: ablation.Trainer, *args: object) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(ablation.Trainer, "_step", interrupted)
    assert ablation.train("all", recipe, clips, str(init), 1, 0, tmp_path) is None
    monkeypatch.setattr(ablation.Trainer, "_step", step)
    told = ablation.train("all", recipe, clips, str(init), MOMENT, 0, tmp_path)
    assert told is not None


def test_what_is_done_stays_done(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"changed": {}, "minutes": 1, "steps": {}, "metrics": {"next_psnr": [30.0, 29.0, 31.0]}}
    (tmp_path / "all.json").write_text(json.dumps(row), encoding="utf-8")
    assert ablation.main(["--data", str(data), "--out", str(tmp_path), "--only", "all"]) == 0
    assert json.loads(capsys.readouterr().out) == {"all": row}
