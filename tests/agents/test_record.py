"""``worldsim record``, as it is called."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.collectors import assert_same
from tests.waiting import members, wait_until
from worldsim.agents.record import main
from worldsim.data.dataset import Dataset
from worldsim.envs.episode_collector import EpisodeCollector
from worldsim.errors import DataError, SourceError, WorldsimError

ROOT = Path(__file__).parents[2]
DOTS = "gym:tests.envs.pixel_env:Dots-v0"


@pytest.mark.slow
def test_any_gymnasium_environment_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "dots"
    assert (
        main([DOTS, "--frames", "100", "--workers", "1", "--seed", "2", "--size", "12x16", "--out", str(out)])
        == 0
    )
    summary = capsys.readouterr().out.splitlines()[-1]
    dataset = Dataset(out)
    assert f"in {len(dataset)} episodes" in summary
    assert dataset.spec.size == (12, 16)
    assert dataset.spec.control_space.keys == ("left", "right")
    assert sum(e.length for e in dataset.episodes) >= 100
    assert not (out / "coverage.png").exists()
    first = dataset.episode(0)
    assert first.seed == 2 * 1_000_003
    assert first.poses is None
    assert first.terminated[-1] != first.truncated[-1]
    assert not first.terminated[:-1].any()


@pytest.mark.slow
def test_agents_play_their_shares_of_a_recording(tmp_path: Path) -> None:
    """Whoever plays, an episode follows from its seed: two workers record what one records."""
    words = [DOTS, "--frames", "200", "--seed", "2", "--size", "12x16", "--codec", "raw"]
    words += ["--agent", "behaviours,rhythms", "--explore", "0.3"]
    for workers in ("1", "2"):
        assert main([*words, "--workers", workers, "--out", str(tmp_path / workers)]) == 0
    one, two = Dataset(tmp_path / "1"), Dataset(tmp_path / "2")
    assert len(one) == len(two) > 4
    for number in range(len(one)):
        assert (one.rows(number).controls == two.rows(number).controls).all()
    assert main([*words, "--workers", "1", "--resume", "--out", str(tmp_path / "1")]) == 0
    with pytest.raises(DataError, match="same settings"):
        main([*words[:-1], "0.4", "--workers", "1", "--resume", "--out", str(tmp_path / "1")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--agent", "rhytms"), "an agent must be one of behaviours, rhythms, dream"),
        (("--explore", "0.5"), "behaviours explore already"),
        (("--agent", "dream", "--world", "nowhere"), "nowhere"),
        (("--agent", "dream", "--world", "take-cover"), "needs a world of it"),
    ],
)
def test_agents_that_cannot_play_are_refused(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(WorldsimError, match=message):
        main([DOTS, "--out", str(tmp_path / "x"), *words])
    assert not (tmp_path / "x").exists()


def test_an_unknown_source_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="doom-maze"):
        main(["doom-mace", "--out", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists()


def test_a_player_cuts_long_episodes() -> None:
    player = EpisodeCollector(DOTS, max_frames=3)
    episode = player.play(4)
    assert len(episode) == 3
    assert episode.truncated.tolist() == [False, False, True]
    assert not episode.terminated.any()
    player.close()


@pytest.mark.slow
@pytest.mark.parametrize("episodes", [0, 1])
def test_doom_survives_kill_minus_9(tmp_path: Path, episodes: int) -> None:
    """Killed after some episodes and resumed, the recording is the one that was never killed."""
    pytest.importorskip("vizdoom")
    out, here = tmp_path / "maze", tmp_path / "here"
    here.mkdir()
    process = subprocess.Popen(command(out), cwd=here, start_new_session=True, stdout=subprocess.DEVNULL)
    wait_until((out / "recording.json").exists)
    wait_until(lambda: len(list(out.glob("shards/*.parquet"))) >= episodes, "episodes are recorded")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    wait_until(lambda: not members(process.pid), "the workers go")
    subprocess.run([*command(out), "--resume"], cwd=here, check=True, stdout=subprocess.DEVNULL)
    assert not list(here.iterdir())
    assert (out / "coverage.png").exists()
    dataset = Dataset(out)
    assert sum(e.length for e in dataset.episodes) >= 600
    player = EpisodeCollector("doom-maze")
    for episode in dataset.episodes:
        assert_same(dataset.episode(episode.index), player.play(episode.seed))
    player.close()
    poses = dataset.poses()
    assert np.ptp(poses[:, :2, 3], axis=0).max() > 2


def command(out: Path) -> list[str]:
    script = "import sys; from worldsim.cli import main; sys.exit(main())"
    arguments = ["record", "doom-maze", "--frames", "600", "--workers", "2", "--seed", "1", "--out", str(out)]
    return [sys.executable, "-c", script, *arguments]
