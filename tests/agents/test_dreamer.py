"""A policy that learns in a dream: its training, its file, its real games, rounds, the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_moving import SPEC, moving_world
from worldsim.agents.dreamer import command, games, score, training
from worldsim.agents.dreamer.batch_agents import PeriodicBatchAgent, PolicyBatchAgent, RandomBatchAgent
from worldsim.agents.dreamer.games import Games
from worldsim.agents.dreamer.policy import LatentPolicy, PolicyMetadata, find_policy, load_policy, save_policy
from worldsim.agents.dreamer.training import DreamSettings, train_policy
from worldsim.agents.learner.ppo_cleanrl import Settings
from worldsim.controls import Control
from worldsim.engine.world import World, load
from worldsim.envs.sources import Observation
from worldsim.errors import CheckpointError, ConfigError, StorageError

METADATA = PolicyMetadata(world="take-cover", features=6 + 256, actions=3, hold=2)


class Corridor:
    """A source that ends after 3 frames to the left in a row, and after 12 frames at the latest."""

    spec = SPEC

    def __init__(self) -> None:
        self._left = self._frames = 0
        self._rng = np.random.default_rng(0)

    def reset(self, seed: int) -> Observation:
        self._left = self._frames = 0
        self._rng = np.random.default_rng(seed)
        return self._seen(False)

    def step(self, control: Control) -> Observation:
        self._frames += 1
        self._left = self._left + 1 if "strafe_left" in control.keys else 0
        return self._seen(self._left >= 3)

    def walls(self) -> None:
        return None

    def close(self) -> None:
        pass

    def _seen(self, ended: bool) -> Observation:
        frame = self._rng.integers(0, 256, (*SPEC.size, 3), dtype=np.uint8)
        return Observation(frame, None, 1.0, terminated=ended, truncated=self._frames >= 12)


@pytest.fixture
def corridor(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (games, training):
        monkeypatch.setattr(module, "make_source", lambda name, size=None: Corridor())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_world(tmp_path_factory.mktemp("worlds"))


@pytest.fixture(scope="module")
def world(folder: Path) -> World:
    return load(folder, device="cpu", dtype=torch.float32)


@pytest.fixture
def three(corridor: None) -> Iterator[Games]:
    with Games("take-cover", SPEC.size, 3) as opened:
        yield opened


def stirred(seed: int = 0) -> LatentPolicy:
    torch.manual_seed(seed)
    policy = LatentPolicy(METADATA)
    torch.nn.init.normal_(policy.actor.weight, std=3.0)
    return policy.eval()


def test_a_file_gives_the_policy_back(tmp_path: Path) -> None:
    policy, path = stirred(), tmp_path / "new" / "policy.safetensors"
    policy.normalise(torch.randn(7, 3, METADATA.features))
    save_policy(path, policy, METADATA)
    again, seen = load_policy(path), torch.randn(4, METADATA.features)
    assert again.metadata == METADATA
    torch.testing.assert_close(again(seen)[0].logits, policy(seen)[0].logits)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    path.write_bytes(b"x" * 40)
    for wrong in (path, tmp_path / "missing.safetensors"):
        with pytest.raises(CheckpointError, match="dream-train"):
            load_policy(wrong)
    with pytest.raises(CheckpointError, match="no policy is shipped"):
        find_policy("nowhere")


def test_a_policy_learns_for_a_moment(world: World) -> None:
    settings = DreamSettings(
        dreams=4, hold=2, episode=6, ppo=Settings(rollout=3, epochs=1, minibatches=2, gamma=0.9)
    )
    outcome = train_policy(world, 1 / 60, settings)
    assert outcome.metadata.frames >= 4 * 3 * 2
    assert 1 <= outcome.dream_frames <= 6
    assert (outcome.policy.std != 1).any()
    assert outcome.policy.actor.weight.abs().sum() > 0


def test_a_blind_rhythm_turns(three: Games) -> None:
    space = SPEC.control_space
    lengths = three.lengths(PeriodicBatchAgent(3, space, 2), range(5))
    assert lengths.tolist() == [12] * 5
    assert three.lengths(PeriodicBatchAgent(3, space, 4), range(4)).tolist() == [3] * 4
    assert score.best_rhythm(three, 0, 2, (4, 2)) == 2


def test_chance_depends_on_its_seed_alone(three: Games) -> None:
    played = [
        three.lengths(RandomBatchAgent(3, SPEC.control_space, seed), range(6)).tolist() for seed in (1, 1)
    ]
    assert played[0] == played[1]


def test_a_game_does_not_depend_on_its_neighbours(world: World, three: Games, corridor: None) -> None:
    """One game alone, and the same among others: the same keys."""
    whole = three.episodes(PolicyBatchAgent(world, stirred(), 3), [7, 8, 9, 10])
    with Games("take-cover", SPEC.size, 1) as one:
        alone = one.episodes(PolicyBatchAgent(world, stirred(), 1), [10, 8])
    for mine, other in ((whole[3], alone[0]), (whole[1], alone[1])):
        np.testing.assert_array_equal(mine.controls, other.controls)
        np.testing.assert_array_equal(mine.frames, other.frames)
    held = whole[0].controls[: len(whole[0]) // 2 * 2].reshape(-1, 2, 3)
    assert (held[:, 0] == held[:, 1]).all()


def test_swapped_frames_are_another_games(world: World, three: Games) -> None:
    seeing, swapped = (
        three.episodes(PolicyBatchAgent(world, stirred(), 3, swapped=flag), [1, 2, 3])
        for flag in (False, True)
    )
    assert any(
        len(one) != len(other) or (one.controls != other.controls).any()
        for one, other in zip(seeing, swapped, strict=True)
    )
    with pytest.raises(ConfigError, match="several games"):
        PolicyBatchAgent(world, stirred(), 1, swapped=True)


def test_a_policy_of_another_world_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="features"):
        PolicyBatchAgent(world, LatentPolicy(PolicyMetadata(world="other", features=9, actions=3)), 2)


def test_scores(folder: Path, tmp_path: Path, corridor: None, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "policy.safetensors"
    save_policy(path, stirred(), METADATA)
    words = [str(folder), "--agent", str(path), "--episodes", "4", "--games", "2", "--rivals", "2"]
    assert score.main([*words, "--swapped", "--json", "--device", "cpu"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 6 <= told["mean"] <= 24  # in tics, two a frame
    assert told["blind_mean"] == 6  # every period that is searched runs into the end
    assert told["swapped_mean"] is not None
    assert told["random_mean"] > 6
    assert told["episodes"] == 4
    assert score.main([*words, "--device", "cpu", "--rivals", "0"]) == 0
    assert "tics over 4 episodes" in capsys.readouterr().out


def test_fresh_episodes_lie_above_all_recordings() -> None:
    assert min(score.fresh_seeds(0, 3)) > 3998 * 1_000_003 + 10**6
    assert not set(score.fresh_seeds(0, 10_000)) & set(score.fresh_seeds(1, 10_000))


def test_a_round_is_not_made_twice(
    folder: Path, tmp_path: Path, corridor: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(folder), "--minutes", "0.02", "--out", str(tmp_path), "--dreams", "3", "--hold", "2"]
    words += ["--starts", "2", "--episodes", "3", "--games", "2", "--episode", "8", "--device", "cpu"]
    assert command.main(words) == 0
    row = json.loads((tmp_path / "rounds.json").read_text())[0]
    assert row["round"] == 0
    assert 6 <= row["real_mean"] <= 24
    before = (tmp_path / "round-0" / "policy.safetensors").read_bytes()
    assert command.main(words) == 2  # results are not overwritten unasked
    assert command.main([*words, "--resume"]) == 0
    assert (tmp_path / "round-0" / "policy.safetensors").read_bytes() == before
    assert json.loads((tmp_path / "rounds.json").read_text()) == [row]
    capsys.readouterr()
    with pytest.raises(StorageError):
        command._run(command._parser().parse_args(words))
