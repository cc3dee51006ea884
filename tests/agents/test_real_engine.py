"""The window's player over the real engine, with a tiny world of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import worldsim
from worldsim.agents.human import play
from worldsim.agents.human.player import WorldPlayer
from worldsim.agents.human.reference_run import ReferenceRun
from worldsim.controls import Control
from worldsim.errors import DependencyError, install
from worldsim.testing import tiny_world

KEYS = [Control(keys={"forward"}), Control(keys={"forward", "turn_left"}, yaw=0.1), Control()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world(tmp_path_factory.mktemp("worlds"))


@pytest.fixture(scope="module")
def world(folder: Path) -> worldsim.World:
    return worldsim.load(folder, device="cpu")


@pytest.fixture
def player(world: worldsim.World) -> WorldPlayer:
    return WorldPlayer(world, world.engine(slots=4, denoising_steps=1))


def no_engine(spec: object) -> ReferenceRun:
    raise DependencyError("Doom is played by vizdoom", None, install("doom"))


def walk(player: WorldPlayer, controls: list[Control]) -> list[np.ndarray]:
    frames = []
    for control in controls:
        player.paused = False  # random weights end episodes at random
        assert player.tick(control)
        frames.append(player.branch.session.frame.copy())
    return frames


def test_going_back_and_walking_again_is_the_same_walk(player: WorldPlayer) -> None:
    walk(player, KEYS)
    first = walk(player, KEYS)
    assert player.rewind(3)
    np.testing.assert_array_equal(walk(player, KEYS), first)


def test_a_saved_moment_goes_on_as_it_did(player: WorldPlayer) -> None:
    walk(player, KEYS)
    player.do("save")
    first = walk(player, KEYS)
    player.do("next_start")
    player.do("restore")
    np.testing.assert_array_equal(walk(player, KEYS), first)
    assert player.branch.start == 0


def test_two_futures_are_dreamt_at_once(player: WorldPlayer) -> None:
    walk(player, KEYS)
    player.do("fork")
    before = [branch.session.index for branch in player.branches]
    walk(player, KEYS)
    assert [branch.session.index for branch in player.branches] == [index + 3 for index in before]
    player.do("fork")
    assert player.engine.free == 3
    player.close()
    assert player.engine.free == 4


def test_every_command_is_obeyed(player: WorldPlayer) -> None:
    for command in ("reseed", "restart", "previous_start", "more_steps", "fewer_steps", "driver", "step"):
        player.do(command)
        walk(player, KEYS[:1])
    assert not [notice for notice in player.notices if notice.kind == "bad"]


def test_the_command_walks_through_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(play, "open_reference", no_engine)
    line = ["--headless", "--frames", "5", "--json", "--denoising-steps", "1", "--device", "cpu"]
    assert play.main(["--world", str(folder), *line]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["frames"], figures["world"], figures["device"]) == (5, "tiny", "cpu")
    assert figures["params"] > 0
    assert Image.open(tmp_path / "play.png").width > 100
    assert (tmp_path / "play.mp4").stat().st_size > 500


def test_an_unknown_world_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert play.main(["--world", "no-such-world", "--headless"]) == 2
    assert "no-such-world" in capsys.readouterr().err
