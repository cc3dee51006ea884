"""CMA-ES in dreams: the linear policy and its file, the search, its chance, the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.agents.test_dream_rounds import ctrl_c, interrupted, words
from tests.agents.toy_game import STONES
from tests.tiny_moving import moving_world
from worldsim.agents.dreamer import command, score
from worldsim.agents.dreamer.learners import EvolutionLearner
from worldsim.agents.dreamer.policy import LatentPolicy, PolicyMetadata, load_policy, save_policy
from worldsim.agents.dreamer.training import DreamSettings, dream_envs, train_policy
from worldsim.agents.learner.ppo_cleanrl import Settings
from worldsim.engine.world import World, load
from worldsim.envs.action_repeat import ActionRepeat
from worldsim.errors import ConfigError, DependencyError

LINEAR = PolicyMetadata(world="signs", features=6, actions=2, hidden=4, layers=0)
MOMENT = DreamSettings(
    dreams=8,
    hold=2,
    episode=6,
    hidden=5,
    layers=0,
    learner="cma-es",
    population=4,
    generation=3,
    frames=2 * 8 * 3 * 2,
    ppo=Settings(rollout=3),
)
"""Two generations."""


class SignVectorEnv:
    """Pays 1 where the action is 1 if and only if the third number of the observation is positive."""

    def __init__(self, count: int) -> None:
        self.num_envs = count
        self._rngs: list[np.random.Generator] = []
        self._seen = torch.zeros(count, LINEAR.features)

    def reset(self, *, seed: Sequence[int]) -> tuple[Tensor, dict[str, Any]]:
        self._rngs = [np.random.default_rng(one) for one in seed]
        assert len(self._rngs) == self.num_envs
        return self._look(), {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        rewards = (actions == (self._seen[:, 2] > 0)).float()
        never = torch.zeros(self.num_envs, dtype=torch.bool)
        return self._look(), rewards, never, never, {}

    def _look(self) -> Tensor:
        rows = [rng.standard_normal(LINEAR.features, dtype=np.float32) for rng in self._rngs]
        self._seen = torch.from_numpy(np.stack(rows))
        return self._seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_world(tmp_path_factory.mktemp("worlds"), "stones", spec=STONES)


@pytest.fixture(scope="module")
def world(folder: Path) -> World:
    return load(folder, device="cpu", dtype=torch.float32)


def linear_policy(metadata: PolicyMetadata, seen: Tensor) -> LatentPolicy:
    """A policy whose inputs are scaled and projected by observations [..., L]."""
    torch.manual_seed(0)
    policy = LatentPolicy(metadata)
    policy.normalise(seen)
    policy.project(seen)
    return policy.eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated() -> Tensor:
    """Observations [20, 10, L] of correlated features with scales of their own."""
    return noise(20, 10, 6) @ noise(6, 6, seed=2) * torch.arange(1, 7) + 5


def evolved(generations: int, seed: int = 0) -> LatentPolicy:
    policy = linear_policy(replace(LINEAR, hidden=6), noise(200, 6))
    rng = np.random.default_rng(seed)
    learner = EvolutionLearner(policy, rng, population=8, generation=20, sigma=0.5)
    envs = cast(ActionRepeat, SignVectorEnv(16))
    for _ in range(generations):
        learner.improve(envs, torch.zeros(16, 6), 0.0)
    return policy


@torch.no_grad()
def right_share(policy: LatentPolicy) -> float:
    """Mean probability of the action that is paid."""
    seen = noise(500, 6, seed=3)
    probs = policy(seen)[0].probs
    return float(torch.where(seen[:, 2] > 0, probs[:, 1], probs[:, 0]).mean())


def test_features_are_whitened_principal_components() -> None:
    policy, seen = linear_policy(LINEAR, correlated()), correlated().flatten(0, 1)
    components = policy.encode(seen).detach().double()
    torch.testing.assert_close(components.mean(0), torch.zeros(4).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(components.T), torch.eye(4).double(), atol=1e-3, rtol=0)
    scaled = ((seen - policy.mean) / policy.std).detach()
    *_, axes = torch.linalg.svd(scaled - scaled.mean(0), full_matrices=False)
    directions = torch.nn.functional.normalize(policy.features.weight.detach(), dim=1)
    torch.testing.assert_close((directions * axes[:4]).sum(1).abs(), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(policy(seen)[0].logits.exp().sum(-1), torch.ones(len(seen)))


def test_a_direction_without_variance_is_not_scaled_up() -> None:
    policy = linear_policy(LINEAR, noise(9, 1) * torch.ones(6))  # a single direction
    assert float(policy.features.weight.detach().norm(dim=1).max()) <= 100.001


def test_too_few_observations_or_features() -> None:
    with pytest.raises(ConfigError, match="4 principal components need more observations"):
        LatentPolicy(LINEAR).project(noise(2, 2, 6))
    with pytest.raises(ConfigError, match="no more principal components than features"):
        replace(LINEAR, hidden=7)
    with pytest.raises(ConfigError, match="a policy has"):
        replace(LINEAR, layers=-1)


def test_a_file_gives_the_linear_policy_back(tmp_path: Path) -> None:
    policy, path = linear_policy(LINEAR, correlated()), tmp_path / "linear.safetensors"
    save_policy(path, policy, LINEAR)
    again, seen = load_policy(path), noise(5, 6)
    assert again.metadata == LINEAR
    assert torch.equal(again(seen)[0].logits, policy(seen)[0].logits)


def test_evolution_finds_what_is_paid() -> None:
    assert right_share(evolved(0)) == pytest.approx(0.5, abs=0.05)
    assert right_share(evolved(25)) > 0.8


def test_the_same_seed_evolves_the_same_weights() -> None:
    np.random.seed(1)  # the global generator is neither used nor set
    first, state = evolved(3), np.random.get_state()[1]
    np.random.seed(2)
    again, other = evolved(3), evolved(3, seed=1)
    assert torch.equal(first.actor.weight, again.actor.weight)
    assert torch.equal(first.actor.bias, again.actor.bias)
    assert not torch.equal(first.actor.weight, other.actor.weight)
    np.random.seed(1)
    np.testing.assert_array_equal(state, np.random.get_state()[1])


def test_the_search_begins_at_the_policy() -> None:
    policy = linear_policy(LINEAR, correlated())
    before = policy.actor.weight.detach().clone()
    learner = EvolutionLearner(policy, np.random.default_rng(0), population=4, generation=2, sigma=1e-9)
    learner.improve(cast(ActionRepeat, SignVectorEnv(4)), torch.zeros(4, 6), 0.0)
    torch.testing.assert_close(policy.actor.weight.detach(), before, atol=1e-6, rtol=0)


def test_candidates_share_chance(world: World) -> None:
    """Equal candidates get equal fitness, in dreams that end and have temperatures of their own."""
    settings = replace(MOMENT, temperature=0.5, hottest=1.5, reward="survival", generation=8)
    envs = dream_envs(world, settings)
    seen, _ = envs.reset(seed=0)
    policy = LatentPolicy(PolicyMetadata(world="stones", features=seen.shape[1], actions=3, layers=0))
    learner = EvolutionLearner(policy, np.random.default_rng(0), population=4, generation=8, sigma=0.5)
    torch.manual_seed(0)
    same = np.tile(np.random.default_rng(1).standard_normal(3 * 65), (4, 1))
    with torch.no_grad():
        first, second = (learner._play(envs, same) for _ in range(2))
        other, _ = learner._play(envs, same * np.array([[1], [-1], [3], [-3]]))
    envs.close()
    for rewards, last in (first, second):
        assert len(set(rewards.tolist())) == 1
        assert torch.equal(last[:2], last[2:4])
        assert not torch.equal(last[0], last[1])  # a candidate's own dreams differ
    assert first[0][0] != second[0][0]  # each generation has new chance
    assert len(set(other.tolist())) > 1


def test_a_training_in_dreams_repeats_itself_and_goes_on(world: World) -> None:
    first, again = (train_policy(world, 10.0, MOMENT) for _ in range(2))
    assert first.finished
    assert first.metadata.frames == MOMENT.frames
    assert (first.metadata.layers, first.metadata.hidden) == (0, 5)
    for mine, other in zip(first.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(mine, other)
    on = train_policy(world, 10.0, MOMENT, begun=first)
    assert on.metadata.frames == 2 * first.metadata.frames
    assert torch.equal(on.policy.features.weight, first.policy.features.weight)  # the inputs stay
    assert not torch.equal(on.policy.actor.weight, first.policy.actor.weight)
    with pytest.raises(ConfigError, match="ppo learns a policy with layers"):
        train_policy(world, 1.0, replace(MOMENT, learner="ppo", layers=1), begun=first)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"dreams": 10, "population": 4}, r"multiple of the candidates, 4; got 10; use --dreams 12"),
        ({"dreams": 3}, "multiple of the candidates, 32"),
        ({"population": 3}, "--population: must be a whole number of at least 4"),
        ({"layers": 1}, "cma-es learns a policy without layers"),
        ({"layers": 0, "learner": "ppo"}, "ppo learns a policy with layers"),
    ],
)
def test_options_that_do_not_fit(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], rule: str
) -> None:
    out = tmp_path / "out"
    assert command.main(words(folder, out, **{"learner": "cma-es", **options})) == 2
    told = capsys.readouterr().err
    assert rule in told
    assert not out.exists()


def test_settings_that_are_none() -> None:
    for wrong in ({"population": 2}, {"generation": 0}, {"sigma": 0.0}, {"dreams": 0}):
        with pytest.raises(ConfigError):
            replace(MOMENT, **wrong)  # type: ignore[arg-type]


def test_a_missing_package_is_told_before_the_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cma", None)
    out = tmp_path / "out"
    assert command.main(words(folder, out, learner="cma-es", dreams=8, population=4)) == 2
    assert "[train]" in capsys.readouterr().err
    assert not out.exists()
    with pytest.raises(DependencyError, match="cma"):
        evolved(0)


@pytest.mark.slow
def test_the_command_evolves_scores_and_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    line = words(folder, out, learner="cma-es", dreams=8, population=4, minutes=0.02)
    interrupted(monkeypatch, EvolutionLearner, "improve", ctrl_c)
    assert command.main(line) == 130
    file = out / "round-0" / "policy.safetensors"
    begun = load_policy(file)
    assert (begun.metadata.frames, begun.metadata.layers, begun.metadata.hidden) == (0, 0, 8)
    ppo = [word if word != "cma-es" else "ppo" for word in line]
    capsys.readouterr()
    assert command.main([*ppo, "--resume"]) == 2
    assert "the same --learner" in capsys.readouterr().err
    assert command.main([*line, "--resume"]) == 0
    (row,) = json.loads((out / "rounds.json").read_text())
    assert row["frames"] % (8 * 64 * 2) == 0
    assert row["frames"] > 0
    assert torch.equal(load_policy(file).features.weight, begun.features.weight)
    told = [str(folder), "--agent", str(file), "--episodes", "2", "--games", "2", "--rivals", "0"]
    capsys.readouterr()
    assert score.main([*told, "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean"] > 0


def test_runs_of_before_go_on_with_ppo(tmp_path: Path, folder: Path) -> None:
    """Their settings say nothing of a learner."""
    args = command._parser().parse_args(words(folder, tmp_path))
    settings = command._settings(args, 0)
    command._check_settings(args, settings)
    path = tmp_path / "settings.json"
    kept = json.loads(path.read_text())
    assert kept.pop("learner") == "ppo"
    path.write_text(json.dumps(kept))
    command._check_settings(args, settings)
    assert json.loads(path.read_text())["learner"] == "ppo"


def test_each_learner_has_sizes_of_its_own(folder: Path, tmp_path: Path) -> None:
    def sizes(*more: str) -> tuple[int, int]:
        line = [str(folder), "--out", str(tmp_path), "--minutes", "1", *more]
        settings = command._settings(command._parser().parse_args(line), 0)
        return settings.hidden, settings.layers

    assert sizes() == (64, 1)
    assert sizes("--learner", "cma-es") == (32, 0)
    assert sizes("--learner", "cma-es", "--hidden", "8") == (8, 0)
    assert sizes("--layers", "2") == (64, 2)
