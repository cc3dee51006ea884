from __future__ import annotations

from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.vector import AutoresetMode

from tests.envs.fake_world import FakeWorld
from worldsim.engine.world import World
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError

pytest.importorskip("torchrl")
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper, RewardSum, StepCounter, ToTensorImage, TransformedEnv, check_env_specs

from worldsim.envs.torchrl import TorchRLEnv

ID = "worldsim:WorldsimWorld-v0"


def make_envs(world: Any = None, n: int = 2, **kwargs: Any) -> TorchRLEnv:
    world = world or FakeWorld(ends_at=3)
    vector = gymnasium.make_vec(ID, num_envs=n, world=world, autoreset_mode="Disabled", **kwargs)
    assert isinstance(vector, ImaginedVectorEnv)
    return TorchRLEnv(vector)


def actions_of(*actions: int) -> TensorDict:
    return TensorDict({"action": torch.tensor(actions)}, [len(actions)])


@pytest.mark.parametrize("kind", ["discrete", "multi_binary", "box"])
@pytest.mark.parametrize("world", [FakeWorld(ends_at=3), FakeWorld(has_pose=False)], ids=["camera", "none"])
def test_torchrl_has_nothing_to_complain_about(world: FakeWorld, kind: str) -> None:
    check_env_specs(make_envs(world, actions=kind), seed=0)


def test_nor_about_a_real_world(tiny_loaded: World) -> None:
    envs = make_envs(tiny_loaded, denoising_steps=1)
    check_env_specs(envs, seed=0)
    envs.close()


def test_it_answers_as_the_vector_does() -> None:
    """TorchRL resets what is over by itself; the same by hand gives the same in every entry."""
    envs = make_envs(max_episode_steps=5)
    vector = ImaginedVectorEnv(
        2, world=FakeWorld(ends_at=3), autoreset_mode=AutoresetMode.DISABLED, max_episode_steps=5
    )
    envs.set_seed(6)
    state = envs.reset()
    first, _ = vector.reset(seed=6)
    assert torch.equal(state["pixels"], first)
    for actions in ((1, 0), (1, 1), (0, 1), (2, 1), (1, 0)):
        both, state = envs.step_and_maybe_reset(state.update(actions_of(*actions)))
        frames, rewards, terminated, truncated, info = vector.step(torch.tensor(actions))
        expected = {"pixels": frames, "pose": info["pose"], "reward": rewards[:, None]}
        expected |= {"terminated": terminated[:, None], "truncated": truncated[:, None]}
        for name, value in expected.items():
            assert torch.equal(both["next", name], value), name
        if terminated.any():
            frames, info = vector.reset(options={"reset_mask": terminated})
        assert torch.equal(state["pixels"], frames)
        assert torch.equal(state["pose"], info["pose"])


def test_one_episode_is_reset_and_not_the_other(fake: FakeWorld) -> None:
    envs = make_envs(fake)
    envs.reset()
    after = envs.step(actions_of(1, 1))["next"]
    before = after["pixels"].clone()
    again = envs.reset(TensorDict({"_reset": torch.tensor([[False], [True]])}, [2]).update(after))
    assert torch.equal(again["pixels"][0], before[0])
    assert not torch.equal(again["pixels"][1], before[1])


def test_seeds_and_starts(fake: FakeWorld) -> None:
    envs = make_envs(fake)
    seen = []
    for _ in range(2):
        envs.set_seed(3)
        seen.append(envs.reset(options={"start": [4, 5]})["pixels"])
    assert torch.equal(*seen)
    assert not torch.equal(envs.reset()["pixels"], seen[0])


def test_its_transforms_and_its_collector() -> None:
    envs = TransformedEnv(make_envs(max_episode_steps=4), ToTensorImage(in_keys=["pixels"]))
    envs = envs.append_transform(RewardSum()).append_transform(StepCounter())
    collector = Collector(envs, None, frames_per_batch=12, total_frames=24)
    batches = list(collector)
    collector.shutdown()
    assert [tuple(batch.shape) for batch in batches] == [(2, 6), (2, 6)]
    assert batches[0]["pixels"].shape == (2, 6, 3, 12, 16)
    assert batches[0]["next", "terminated"][:, :, 0].tolist() == [[False, False, True] * 2] * 2
    assert batches[0]["next", "step_count"].max() == 3
    per_episode = batches[0]["next", "reward"][:, :3].sum(1)
    assert torch.equal(batches[0]["next", "episode_reward"][:, 2], per_episode)


def test_a_reward_fn_counts_here_too(fake: FakeWorld) -> None:
    envs = make_envs(fake, reward_fn=lambda step: (5.0, step.index == 2))
    rolled = envs.rollout(6)
    assert rolled["next", "reward"].unique().tolist() == [5.0]
    assert rolled["next", "terminated"][:, -1].all()
    assert rolled.shape == (2, 2)


@pytest.mark.parametrize("mode", ["Disabled", "SameStep"])
def test_torchrls_own_wrapper_works_on_the_vector(mode: str) -> None:
    envs = GymWrapper(ImaginedVectorEnv(2, world=FakeWorld(ends_at=3), autoreset_mode=mode))
    check_env_specs(envs)
    rolled = envs.rollout(6, break_when_any_done=False)
    assert rolled["next", "done"][0, :, 0].tolist() == [False, False, True] * 2
    ends = rolled["next", "observation"][:, 2]
    assert not torch.equal(ends, rolled["observation"][:, 3])  # the last frame, not the first of the next


def test_what_it_cannot_take(fake: FakeWorld) -> None:
    with pytest.raises(ConfigError, match="resets by itself"):
        TorchRLEnv(ImaginedVectorEnv(2, world=fake, autoreset_mode="NextStep"))
    with pytest.raises(ConfigError, match="flat"):
        make_envs(fake, actions="dict")


def test_closing_ends_the_episodes(fake: FakeWorld) -> None:
    envs = make_envs(fake)
    envs.reset()
    envs.close()
    assert not fake.engines[0].open_sessions
