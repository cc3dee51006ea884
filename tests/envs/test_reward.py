from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from tests.envs.fake_world import FakeWorld
from worldsim.engine.step import Step
from worldsim.engine.world import World
from worldsim.envs.imagined import ImaginedEnv
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError

ID = "worldsim:WorldsimWorld-v0"
FORWARD, STAY = 1, 0


def walked_far(step: Step) -> tuple[float, bool]:
    """A reward function without a memory: -1 a frame, over at the third."""
    return -1.0, step.index >= 3


@dataclass
class Walk:
    """A reward function with a memory: metres walked since the start, over at ``goal``."""

    goal: float = 2.0
    resets: int = 0
    begun: list[int] = field(default_factory=list)

    def reset(self, step: Step) -> None:
        assert step.pose is not None
        self.origin, self.resets = step.pose[2, 3], self.resets + 1
        self.begun.append(step.index)

    def __call__(self, step: Step) -> tuple[float, bool]:
        assert step.pose is not None
        metres = float(step.pose[2, 3] - self.origin)
        return metres, metres >= self.goal


class Count:
    """A reward function that remembers, but cannot be reset: it is made anew for every episode."""

    def __init__(self) -> None:
        self.frames = 0

    def __call__(self, step: Step) -> tuple[float, bool]:
        self.frames += 1
        return self.frames, False


def test_a_function_rules_in_place_of_the_model() -> None:
    env = gymnasium.make(ID, world=FakeWorld(ends_at=2), reward_fn=walked_far)
    env.reset(seed=0)
    assert [env.step(FORWARD)[1:3] for _ in range(3)] == [(-1.0, False), (-1.0, False), (-1.0, True)]


def test_a_function_rules_over_a_vector(fake: FakeWorld) -> None:
    envs = gymnasium.make_vec(ID, num_envs=2, world=fake, reward_fn=walked_far, autoreset_mode="SameStep")
    envs.reset(seed=0)
    for _ in range(2):
        envs.step(np.array([1, 0]))
    observations, rewards, terminations, truncations, info = envs.step(np.array([1, 0]))
    assert (rewards.dtype, rewards.tolist()) == (torch.float32, [-1.0, -1.0])
    assert terminations.all()
    assert not truncations.any()
    assert info["final_info"]["frame_index"].tolist() == [3, 3]
    assert info["frame_index"].tolist() == [0, 0]
    assert not torch.equal(observations, info["final_obs"])


def test_the_model_may_be_asked(fake: FakeWorld) -> None:
    env = ImaginedEnv(FakeWorld(ends_at=2), reward_fn=lambda step: (10 * step.reward, not step.terminated))
    env.reset(seed=0)
    assert [env.step(action)[1:3] for action in (STAY, FORWARD)] == [(0.0, True), (10.0, False)]


WALKS: list[Any] = [
    Walk(),
    Walk,
    lambda: Walk(2.0),
    functools.partial(Walk, 2.0),
    functools.partial(Walk, goal=2.0),
]


@pytest.mark.parametrize("reward_fn", WALKS, ids=["object", "class", "factory", "partial", "keyword"])
def test_each_episode_has_a_memory_of_its_own(fake: FakeWorld, reward_fn: Any) -> None:
    envs = ImaginedVectorEnv(3, world=fake, reward_fn=reward_fn, autoreset_mode="SameStep")
    envs.reset(seed=0)
    assert envs.step([FORWARD, STAY, FORWARD])[1].tolist() == [1, 0, 1]
    _, rewards, terminations, _, _ = envs.step([FORWARD, FORWARD, STAY])
    assert (rewards.tolist(), terminations.tolist()) == ([2, 1, 1], [True, False, False])
    assert envs.step([FORWARD, FORWARD, STAY])[1].tolist() == [1, 2, 1]  # the first began anew
    assert [own.resets for own in envs.core.reward_fns.of] == [2, 2, 1]
    if isinstance(reward_fn, Walk):
        assert reward_fn.resets == 0  # it is a model for the others


def test_resets_go_to_whom_they_concern(fake: FakeWorld) -> None:
    envs = ImaginedVectorEnv(2, world=fake, reward_fn=Walk, autoreset_mode="Disabled")
    envs.reset(seed=0)
    envs.step([FORWARD, FORWARD])
    envs.reset(options={"reset_mask": torch.tensor([False, True])})
    _, rewards, terminations, _, _ = envs.step([FORWARD, FORWARD])
    assert (rewards.tolist(), terminations.tolist()) == ([2, 1], [True, False])
    envs.reset(options={"reset_mask": terminations})
    assert envs.step([STAY, FORWARD])[1].tolist() == [0, 2]


def test_what_cannot_be_reset_is_made_anew(fake: FakeWorld) -> None:
    env = ImaginedEnv(fake, reward_fn=Count)
    for _ in range(2):
        env.reset(seed=0)
        assert [env.step(STAY)[1] for _ in range(3)] == [1, 2, 3]


def test_a_factory_may_share_a_function(fake: FakeWorld) -> None:
    env = ImaginedEnv(fake, reward_fn=lambda: walked_far)
    env.reset(seed=0)
    assert env.step(STAY)[1] == -1.0


def test_a_reward_fn_sees_the_frame_that_an_episode_begins_with(tiny_loaded: World) -> None:
    """On a real world: what it is told is what the player sees."""
    seen: list[Step] = []

    class Watch:
        def reset(self, step: Step) -> None:
            seen.append(step)

        def __call__(self, step: Step) -> tuple[float, bool]:
            seen.append(step)
            return float(step.frame.mean()), False

    env = ImaginedEnv(tiny_loaded, denoising_steps=1, reward_fn=Watch)
    first, _ = env.reset(seed=0)
    second, reward, terminated, _, info = env.step(FORWARD)
    assert np.array_equal(seen[0].frame, first)
    assert np.array_equal(seen[1].frame, second)
    assert np.array_equal(seen[1].pose, info["pose"])
    assert (reward, terminated) == (second.mean(), False)
    assert seen[1].latent is not None


def test_a_network_may_rule(fake: FakeWorld) -> None:
    class Judge(torch.nn.Module):
        def forward(self, step: Step) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.tensor(0.5), torch.tensor(True)

    env = ImaginedEnv(fake, reward_fn=Judge())
    env.reset(seed=0)
    assert env.step(STAY)[1:3] == (0.5, True)


@pytest.mark.parametrize("result", [None, 1.0, (1.0,), (1.0, False, 2), ("a", False), (np.nan, False), {}])
def test_results_that_are_none(fake: FakeWorld, result: Any) -> None:
    env = ImaginedEnv(fake, reward_fn=lambda step: result)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="finite reward"):
        env.step(STAY)


def test_what_is_no_reward_fn(fake: FakeWorld) -> None:
    with pytest.raises(ConfigError, match="callable"):
        ImaginedEnv(fake, reward_fn="sparse")
    with pytest.raises(ConfigError, match="callable"):
        ImaginedEnv(fake, reward_fn=lambda: 3).reset()
    with pytest.raises(ConfigError, match="callable"):
        ImaginedVectorEnv(2, world=fake, reward_fn=lambda: 3).reset()
    assert not any(engine.open_sessions for engine in fake.engines)
