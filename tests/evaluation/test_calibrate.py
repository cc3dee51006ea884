"""The noise gain: fitted to lengths of recorded episodes, kept in the config, and applied to frames."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_moving import moving_world
from worldsim.controls import Control
from worldsim.engine.world import World, load
from worldsim.errors import ConfigError, StorageError
from worldsim.evaluation import calibrate
from worldsim.evaluation.episode_lengths import EpisodeStart


@pytest.fixture
def world(tmp_path: Path) -> World:
    return load(moving_world(tmp_path))


def start(length: int) -> EpisodeStart:
    return EpisodeStart(np.zeros((4, 60, 80, 3), np.uint8), None, np.zeros((600, 3), np.float32), length, 0)


def test_the_gain_that_makes_lengths_alike_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def lengths(world: World, given: list[EpisodeStart], steps: int, seed: int) -> dict[str, np.ndarray]:
        real = np.array([one.length for one in given], float)
        return {"real": real, "imagined": real * 1.25 / world.networks.config.noise_gain}

    monkeypatch.setattr(calibrate, "imagined_lengths", lengths)
    gain, ratio = calibrate.fit_noise_gain(world, [start(100), start(200)])
    assert gain == pytest.approx(1.25, rel=0.05)
    assert ratio == pytest.approx(1, rel=0.05)
    assert world.networks.config.noise_gain == gain


def calibrated(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line, with a fit that takes no time."""
    monkeypatch.setattr(calibrate, "ClipStore", lambda *_: None)
    monkeypatch.setattr(calibrate, "recorded_starts", lambda *_: [])
    monkeypatch.setattr(calibrate, "fit_noise_gain", lambda *_: (1.25, 1.0))
    assert world.origin is not None
    return [world.origin, "--data", "nowhere"]


def test_the_command_writes_the_gain(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    line = calibrated(world, monkeypatch)
    assert calibrate.main(line) == 0
    assert load(line[0]).networks.config.noise_gain == 1.25


def test_a_world_that_cannot_be_written_is_told_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    line = calibrated(world, monkeypatch)

    def refuse(path: Path) -> None:
        raise StorageError.of(OSError(errno.EROFS, "Read-only file system"), path)

    monkeypatch.setattr(calibrate, "check_writable", refuse)
    monkeypatch.setattr(calibrate, "fit_noise_gain", None)  # nothing is measured
    with pytest.raises(StorageError, match="Read-only"):
        calibrate.main(line)


def test_a_gain_is_told_even_if_it_cannot_be_saved(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = calibrated(world, monkeypatch)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(calibrate, "save_world", full)
    with pytest.raises(OSError, match="No space"):
        calibrate.main(line)
    assert "noise gain 1.250" in capsys.readouterr().out


def test_the_gain_changes_sampled_frames_and_nothing_given(world: World) -> None:
    frames = []
    for gain in (1.0, 1.5):
        world.networks.config = replace(world.networks.config, noise_gain=gain)
        session = world.engine(1).open(seed=3)
        frames.append((session.frame, session.step(Control()).frame))
    assert np.array_equal(frames[0][0], frames[1][0])
    assert not np.array_equal(frames[0][1], frames[1][1])


@pytest.mark.parametrize("gain", [0.0, -1.0, 5.0, float("nan")])
def test_a_gain_out_of_range_is_refused(world: World, gain: float) -> None:
    with pytest.raises(ConfigError, match="noise_gain"):
        replace(world.networks.config, noise_gain=gain)
