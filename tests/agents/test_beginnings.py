"""Contexts that dreams begin with, taken from recordings."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.agents.test_dream_rounds import words
from tests.agents.toy_game import STONES
from tests.tiny_moving import moving_world
from worldsim.agents.dreamer import command
from worldsim.agents.dreamer.beginnings import recorded_beginnings
from worldsim.agents.dreamer.policy import load_policy
from worldsim.data.clips import ClipStore
from worldsim.data.recorder import RecordConfig, record
from worldsim.engine.world import World, load
from worldsim.envs.episode_collector import EpisodeCollector
from worldsim.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_world(tmp_path_factory.mktemp("worlds"), "stones", spec=STONES)


@pytest.fixture(scope="module")
def world(folder: Path) -> World:
    return load(folder, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data")
    config = RecordConfig(source=STONES.name, seed=0, size=STONES.size, codec="raw")
    play = partial(EpisodeCollector, STONES.name, STONES.size, 40)
    record(play, out, config, frames=400, workers=1)
    return out


def test_beginnings_lie_anywhere_in_episodes(world: World, data: Path) -> None:
    clips = ClipStore(data)
    found = recorded_beginnings([clips], world, 60, seed=1)
    assert all(one.frames.shape == (8, *STONES.size, 3) for one in found)
    assert all(len(one.controls) == 8 for one in found)
    again = recorded_beginnings([clips], world, 60, seed=1)
    assert all((mine.frames == other.frames).all() for mine, other in zip(found, again, strict=True))
    firsts = {clips.window(number, 0, 1).frames.tobytes() for number in range(len(clips.episodes))}
    assert any(one.frames[:1].tobytes() not in firsts for one in found)
    assert world.with_starts(found).batch(60, decode=False).count == 60


def test_stores_have_equally_many(world: World, data: Path) -> None:
    clips = ClipStore(data)
    one, two = (recorded_beginnings([clips], world, count, seed=0) for count in (3, 6))
    assert len(one) == 3
    assert len(recorded_beginnings([clips, clips], world, 6, seed=0)) == len(two)


def test_recordings_of_another_size_or_too_short_are_refused(
    world: World, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    height, width = STONES.size
    with pytest.raises(DataError, match=f"recordings of {height}x{width}"):
        recorded_beginnings([ClipStore(data, (height // 2, width // 2))], world, 1, seed=0)
    monkeypatch.setattr("worldsim.agents.dreamer.beginnings._LEFT", 10_000)
    with pytest.raises(DataError, match="episode of 10008 frames"):
        recorded_beginnings([ClipStore(data)], world, 1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_policy_learns_from_places_in_recordings(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    seen: list[World] = []
    whole = command.train_policy

    def spy(world: World, *args: object, **options: object) -> object:
        seen.append(world)
        return whole(world, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "train_policy", spy)
    options = {"dtype": dtype, "temperature": 1.0, "hottest": 1.5}
    line = [*words(folder, tmp_path / "run", **options), "--begin-in", str(data)]
    assert command.main(line) == 0
    assert len(seen[0].starts) == 2 + 3 * 2
    assert str(seen[0].dtype) == f"torch.{dtype}"
    policy = load_policy(tmp_path / "run/round-0/policy.safetensors")
    assert policy.metadata.frames > 0
    assert all(np.isfinite(weight.numpy()).all() for weight in policy.state_dict().values())
