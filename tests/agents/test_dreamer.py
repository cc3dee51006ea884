"""A policy that learns in a dream: its training, its file, its real games, rounds, the commands."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.tiny_moving import SPEC, moving_world
from worldsim.agents.dreamer import beginnings, games, round_videos, score, training
from worldsim.agents.dreamer.batch_agents import (
    ExploringBatchAgent,
    PeriodicBatchAgent,
    PolicyBatchAgent,
    RandomBatchAgent,
)
from worldsim.agents.dreamer.dream_batch import DreamBatch
from worldsim.agents.dreamer.games import Games
from worldsim.agents.dreamer.policy import (
    POLICY,
    LatentPolicy,
    PolicyMetadata,
    find_policy,
    load_policy,
    save_policy,
    ship_policy,
)
from worldsim.agents.dreamer.rhythms import best_rhythm, rhythm_patterns
from worldsim.agents.dreamer.training import DreamSettings, TrainingResult, train_policy
from worldsim.agents.learner import ppo_cleanrl
from worldsim.agents.learner.ppo_cleanrl import Settings
from worldsim.controls import Control, ControlSpace
from worldsim.engine.world import World, load
from worldsim.envs.action_repeat import ActionRepeat
from worldsim.envs.sources import Observation
from worldsim.errors import CheckpointError, ConfigError
from worldsim.utils.threads import thread_limit

METADATA = PolicyMetadata(world="take-cover", features=6 + 256, actions=3, hold=2)
MOMENT = DreamSettings(
    dreams=4, hold=2, episode=6, ppo=Settings(rollout=3, epochs=1, minibatches=2, gamma=0.9)
)


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
    for module in (games, beginnings):
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


def test_files_of_before_have_one_layer(tmp_path: Path) -> None:
    """Their metadata say nothing of layers."""
    fields = {name: value for name, value in asdict(METADATA).items() if name != "layers"}
    policy, path = stirred(), tmp_path / "old.safetensors"
    save_file(policy.state_dict(), path, {"policy": json.dumps(fields)})
    assert load_policy(path).metadata == METADATA


def test_two_layers(tmp_path: Path) -> None:
    metadata = replace(METADATA, hidden=5, layers=2)
    policy, path = LatentPolicy(metadata).eval(), tmp_path / "deep.safetensors"
    save_policy(path, policy, metadata)
    again, seen = load_policy(path), torch.randn(4, METADATA.features)
    assert [part.shape for part in again.deeper.parameters()] == [(5, 5), (5,)]
    torch.testing.assert_close(again(seen)[1], policy(seen)[1])
    for sizes in ({"layers": 3}, {"hidden": 0}, {"hold": 0}):
        with pytest.raises(ConfigError, match="a policy has"):
            replace(METADATA, **sizes)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    path.write_bytes(b"x" * 40)
    for wrong in (path, tmp_path / "missing.safetensors"):
        with pytest.raises(CheckpointError, match="dream-train"):
            load_policy(wrong)
    with pytest.raises(CheckpointError, match="must be a shipped name"):
        find_policy("nowhere")
    with pytest.raises(CheckpointError, match="no policy is shipped"):
        find_policy("doom-maze")


def test_a_world_with_a_policy_still_loads(tmp_path: Path) -> None:
    folder, file = moving_world(tmp_path), tmp_path / "mine.safetensors"
    save_policy(file, stirred(), METADATA)
    for _ in range(2):  # a second one replaces the first
        assert ship_policy(folder, file) == folder / POLICY == find_policy(folder)
        assert load(folder, "cpu").name == "take-cover"
    (folder / POLICY).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"policy\.safetensors is damaged"):
        load(folder, "cpu")


@pytest.mark.slow
def test_a_policy_learns_for_a_moment(world: World) -> None:
    outcome = train_policy(world, 1 / 60, MOMENT)
    assert outcome.metadata.frames >= 4 * 3 * 2
    assert 1 <= outcome.dream_frames <= 6
    assert (outcome.policy.std != 1).any()
    assert outcome.policy.actor.weight.abs().sum() > 0
    assert outcome.finished


def test_dreams_have_all_threads_of_the_caller(world: World) -> None:
    counts = []

    def make(world: World, settings: DreamSettings) -> ActionRepeat:
        counts.append(torch.get_num_threads())
        return training.dream_envs(world, settings)

    with thread_limit(2):
        for reward in ("survival", "auto"):
            train_policy(world, 0.001, replace(MOMENT, reward=reward), make_envs=make)
        assert torch.get_num_threads() == 2
    assert set(counts) == {2}


def test_a_training_that_was_interrupted_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    improve, states = ppo_cleanrl.improve, list[TrainingResult]()

    def interrupted(*args: object) -> float:
        monkeypatch.setattr(ppo_cleanrl, "improve", improve)
        raise KeyboardInterrupt

    monkeypatch.setattr(ppo_cleanrl, "improve", interrupted)
    settings = replace(MOMENT, hidden=7, layers=2)
    begun = train_policy(world, 0.01, settings, keep=states.append)
    assert not begun.finished
    assert begun.metadata.hidden == 7
    done = train_policy(world, begun.minutes + 1e-6, settings, begun=begun, keep=states.append)
    assert done.finished
    assert done.minutes > begun.minutes
    assert done.metadata.frames == begun.metadata.frames + 4 * 3 * 2
    assert torch.equal(done.policy.mean, begun.policy.mean)  # inputs stay scaled as they were


def test_a_world_without_ends_is_learnt_by_its_reward(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def learn(settings: DreamSettings, begun: TrainingResult | None = None) -> tuple[TrainingResult, bool]:
        told = list[str]()
        result = train_policy(world, 1e-6, settings, told.append, begun=begun)
        return result, any("no ends" in line for line in told)

    ended, warned = learn(MOMENT)
    assert (ended.reward, warned) == ("survival", False)
    monkeypatch.setattr(training, "_FEWEST_ENDS", 1e9)
    endless, warned = learn(MOMENT)
    assert (endless.reward, warned) == ("world", True)
    for settings, begun in ((replace(MOMENT, reward="survival"), None), (MOMENT, ended)):
        result, warned = learn(settings, begun)  # what was chosen is not asked again
        assert (result.reward, warned) == ("survival", False)


def test_dreams_depend_on_their_seeds_alone(world: World) -> None:
    batch = DreamBatch(world, 4, most=9)
    lengths = [batch.lengths(batch.agent(stirred()), range(6)).tolist() for _ in range(2)]
    assert lengths[0] == lengths[1]
    assert all(1 <= length <= 9 for length in lengths[0])
    single = DreamBatch(world, 1, most=9, decode=True)
    frames = single.frames(single.agent(stirred()), 5, world.starts[1])
    assert frames.shape[1:] == (*SPEC.size, 3)
    assert len(frames) - 1 == lengths[0][5]


def test_a_blind_rhythm_turns(three: Games) -> None:
    patterns = rhythm_patterns(SPEC.control_space)
    left_right = patterns["left-right"]
    assert three.lengths(PeriodicBatchAgent(3, left_right, 2), range(5)).tolist() == [12] * 5
    assert three.lengths(PeriodicBatchAgent(3, left_right, 4), range(4)).tolist() == [3] * 4
    assert three.lengths(PeriodicBatchAgent(3, patterns["right-left"], 4), range(4)).tolist() == [7] * 4
    best = best_rhythm(three, range(2), (4, 2))
    assert (best.name, best.period) == ("left-right", 2)
    for wrong in (((), 2), ((1,), 0)):
        with pytest.raises(ConfigError, match="rhythm"):
            PeriodicBatchAgent(3, *wrong)


def test_patterns_of_games_without_a_sidestep() -> None:
    keys = ("gas", "brake")
    space = ControlSpace(keys=keys, yaw=False, pose=False, discrete_actions=((), *((key,) for key in keys)))
    patterns = rhythm_patterns(space)
    assert patterns["rest-gas"] == (0, 1)
    assert len(patterns) == 6
    single = ControlSpace(keys=(), yaw=True, pose=False, discrete_actions=((),))
    with pytest.raises(ConfigError, match="two actions"):
        rhythm_patterns(single)


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


def test_an_explorer_disturbs_some_episodes_as_their_seeds_say(three: Games) -> None:
    seeds, rhythm = range(40), (1, 2)

    def played(share: float, games: Games = three) -> list[np.ndarray]:
        count = len(games)
        agent = ExploringBatchAgent(PeriodicBatchAgent(count, rhythm, 2), count, 3, share)
        return [one.controls for one in games.episodes(agent, seeds)]

    plain = [one.controls for one in three.episodes(PeriodicBatchAgent(3, rhythm, 2), seeds)]
    untouched, half, whole = played(0.0), played(0.5), played(1.0)
    assert all(map(np.array_equal, plain, untouched))
    same = [sum(map(np.array_equal, plain, found)) for found in (half, whole)]
    assert same[1] < same[0] < 40
    assert same[1] < 25
    with Games("take-cover", SPEC.size, 1) as one:
        assert all(map(np.array_equal, played(1.0, one), whole)), "whatever its neighbours"
    holds = [len(list(run)) for row in whole for _, run in itertools.groupby(map(tuple, row.tolist()))]
    assert min(holds) == 1
    assert max(holds) > 4


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
    assert told["blind_mean"] == 24  # to the right until the end
    assert (told["blind_pattern"], told["blind_period"]) == ("right-left", 24)
    assert all(told[f"{name}se"] is not None for name in ("", "blind_", "random_", "swapped_"))
    assert told["median"] >= 6
    assert score.main([*words, "--swapped", "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out) == told  # the same seed, the same score
    assert told["swapped_mean"] is not None
    assert told["random_mean"] > 6
    assert told["episodes"] == 4
    assert score.main([*words, "--device", "cpu", "--rivals", "0"]) == 0
    assert "tics over 4 episodes" in capsys.readouterr().out


def test_fresh_episodes_lie_above_all_recordings() -> None:
    assert min(score.fresh_seeds(0, 3)) > 3998 * 1_000_003 + 10**6
    assert not set(score.fresh_seeds(0, 10_000)) & set(score.fresh_seeds(1, 10_000))


def test_the_seeds_of_real_episodes_are_apart_and_within_what_games_take() -> None:
    firsts = [beginnings._FIRST_SEED, training._FIRST_REAL_SEED, score._SEARCHED_SEED, score._FIRST_SEED]
    firsts.append(round_videos._SEED)
    assert firsts == sorted(firsts)
    assert max(firsts) + 4_000 < 2**32
    assert all(later - first >= 10**8 for first, later in itertools.pairwise(firsts))
