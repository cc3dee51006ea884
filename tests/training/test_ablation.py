"""Ablations: every variant trains, on the same place and motion, and goes on where it was interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import ablation
from tests.tiny import stir
from tests.training.rooms import write_walks
from tests.training.test_next_scale import TINY
from worldsim.checkpoint import WorldConfig, load_world, save_world
from worldsim.data.clips import ClipStore
from worldsim.errors import ConfigError
from worldsim.networks import Networks
from worldsim.training.recipes import Recipe
from worldsim.training.starts import choose_starts

STATIC, NEXT_SCALE = ablation.STUDIES["static scene"], ablation.STUDIES["next-scale"]
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
@pytest.mark.parametrize("name", sorted(set(STATIC.variants) - {"context-32", "context-64", "context-16"}))
def test_a_variant_trains(name: str, recipe: Recipe, clips: ClipStore, init: Path, tmp_path: Path) -> None:
    told = ablation.train(STATIC, name, recipe, clips, str(init), MOMENT, 0, tmp_path)
    assert told is not None
    assert told["changed"] == STATIC.variants[name]
    made, held = load_world(tmp_path / name / "world").networks, load_world(init).networks
    assert (made.walkable_map is None) == (name == "keys-only")
    if made.walkable_map is not None:
        theirs = held.state_dict()
        for key, value in made.state_dict().items():
            if key.startswith(("tokenizer.scene.", "heads.", "walkable_map.")):
                assert torch.equal(value, theirs[key]), key


@pytest.mark.slow
def test_next_scale_variants_share_a_tokenizer(tmp_path: Path) -> None:
    clips = ClipStore(write_walks(tmp_path / "walks", {1: 60, 3: 40, 20: 40}, poses=False))
    torch.manual_seed(0)
    networks = Networks(TINY.plan(clips.spec, None), clips.spec)
    config = WorldConfig(name="walks", source=clips.spec, networks=networks.config)
    held_out = ClipStore(tmp_path / "walks", split="held_out")
    save_world(tmp_path / "init", config, networks, choose_starts(held_out), "# walks\n")
    init = str(tmp_path / "init")
    held = load_world(tmp_path / "init").networks.state_dict()
    for name in NEXT_SCALE.variants:
        made = ablation.retune if name in NEXT_SCALE.same_weights else ablation.train
        assert made(NEXT_SCALE, name, TINY, clips, init, MOMENT, 0, tmp_path) is not None
        weights = load_world(tmp_path / name / "world").networks.state_dict()
        for key, value in held.items():
            if key.startswith("tokenizer."):
                assert torch.equal(value, weights[key]), key
    guided, plain = (load_world(tmp_path / name / "world") for name in ("guidance-4", "staged"))
    assert guided.config.networks.sampler.guidance == (4.0, 4.0)
    theirs = plain.networks.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in guided.networks.state_dict().items())
    factors = ablation.STUDIES["temporal factor"]
    for name, frames in (("frames-1", 1), ("frames-4", 4)):
        assert ablation.train(factors, name, TINY, clips, init, MOMENT, 0, tmp_path) is not None
        stored = load_world(tmp_path / name / "world")
        assert stored.networks.unit.frames == frames


def test_a_study_has_its_own_variants() -> None:
    with pytest.raises(ConfigError, match="plain"):
        ablation.main(["--data", "none", "--out", "none", "--recipe", "next-scale", "--only", "keys-only"])


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
    assert ablation.train(STATIC, "all", recipe, clips, str(init), 1, 0, tmp_path) is None
    monkeypatch.setattr(ablation.Trainer, "_step", step)
    told = ablation.train(STATIC, "all", recipe, clips, str(init), MOMENT, 0, tmp_path)
    assert told is not None


def test_what_is_done_stays_done(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"changed": {}, "minutes": 1, "steps": {}, "metrics": {"next_psnr": [30.0, 29.0, 31.0]}}
    (tmp_path / "all.json").write_text(json.dumps(row), encoding="utf-8")
    assert ablation.main(["--data", str(data), "--out", str(tmp_path), "--only", "all"]) == 0
    assert json.loads(capsys.readouterr().out) == {"all": row}
