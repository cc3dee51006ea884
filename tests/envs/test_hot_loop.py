"""Stepping a vector environment asks the device for nothing: no value of a tensor is looked at on the host.

Here it is the CPU that is driven as a GPU would be; on a GPU torch itself watches over it (``tests/gpu``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from worldsim.engine.world import World
from worldsim.envs import reset_queue
from worldsim.envs.batched_actions import BatchedActions
from worldsim.envs.episode_statistics import EpisodeStatistics
from worldsim.envs.reward import BatchedRewardFn
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError
from worldsim.sampling import imagine, philox
from worldsim.scene import walkable_map

N = 4
WAITING = ("item", "numpy", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__")
OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")


class Watch(TorchDispatchMode):
    """Fails at an operation whose result the host would have to wait for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in OPERATIONS, func
        if name.startswith("index"):  # by a mask: as many rows as it has, which the host must know
            chosen = args[1] if isinstance(args[1], list | tuple) else []
            assert not any(isinstance(one, Tensor) and one.dtype == torch.bool for one in chosen), func
        return func(*args, **(kwargs or {}))


@contextmanager
def nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No tensor's value reaches the host, and none is made of the host's (a GPU would be waited for, too)."""

    def asked(name: str) -> Any:
        def fail(self: Tensor, *args: Any, **kwargs: Any) -> None:
            raise AssertionError(f"Tensor.{name} waits for the device")

        return fail

    with monkeypatch.context() as patch, Watch():
        for name in WAITING:
            patch.setattr(Tensor, name, asked(name))
        for name in ("tensor", "as_tensor", "from_numpy"):
            patch.setattr(torch, name, asked(name))
        yield


def one_lane(envs: ImaginedVectorEnv) -> None:
    """As a GPU has it: the whole batch in this thread, which is watched."""
    batch: Any = envs.batch
    batch._workers.run = lambda count, work: [(np.arange(count), work(np.arange(count)))]


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The host does not learn which episodes end, and noise is drawn where the networks are."""
    monkeypatch.setattr(ImaginedVectorEnv, "_waits", property(lambda self: False))

    def noise(state: Any, draw: int, shape: Any) -> Any:
        return philox.normal_rows(state.seeds, state.indices, draw, shape)

    monkeypatch.setattr(imagine, "normals", noise)
    monkeypatch.setattr(walkable_map, "may_read_values", lambda device: False)
    decode = lambda self, actions: imagine.ControlBatch(self.unchecked(actions))  # noqa: E731
    monkeypatch.setattr(BatchedActions, "controls", decode)
    return monkeypatch


@pytest.mark.parametrize(
    "read",
    [
        lambda one: one.item(),
        lambda one: one.tolist(),
        lambda one: one.numpy(),
        lambda one: one.cpu(),
        lambda one: 1 if one else 0,
        int,
        float,
        np.asarray,
        torch.nonzero,
        lambda one: one[one > 0],
        lambda one: torch.tensor(1.0),
    ],
)
def test_the_watch_sees_what_waits(monkeypatch: pytest.MonkeyPatch, read: Callable[[Tensor], Any]) -> None:
    one = torch.ones(1)
    with pytest.raises(AssertionError), nothing_is_asked(monkeypatch):
        read(one)
    with nothing_is_asked(monkeypatch):
        one.add(1)


def spoilt(steps: Any) -> tuple[Tensor, Tensor]:
    """A reward function by whom episodes end often, each at times of its own."""
    return steps.reward * 2, (steps.index + steps.seed) % 5 == 0


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
@pytest.mark.parametrize("kind", ["discrete", "multi_binary", "box"])
def test_nothing_is_asked(tiny_loaded: World, as_on_a_gpu: pytest.MonkeyPatch, mode: str, kind: str) -> None:
    envs = EpisodeStatistics(
        ImaginedVectorEnv(
            N, world=tiny_loaded, denoising_steps=1, actions=kind, max_episode_steps=5, autoreset_mode=mode,
            reward_fn=BatchedRewardFn(spoilt), max_uncertainty=0.9, starts=[0, 1],
        )
    )  # fmt: skip
    one_lane(envs.env)
    envs.reset(seed=0)
    actions = torch.from_numpy(envs.action_space.sample())
    envs.step(actions)  # what is made once is made now
    envs.reset(options={"reset_mask": torch.ones(N, dtype=torch.bool)})
    masks = lambda options, n, device: options["reset_mask"]  # noqa: E731  # as a tensor on a GPU is read
    as_on_a_gpu.setattr("worldsim.envs.vector.mask_on", masks)
    as_on_a_gpu.setattr("worldsim.envs.episode_statistics.mask_on", masks)
    with nothing_is_asked(as_on_a_gpu):
        for _ in range(reset_queue._PERIOD - 3):
            *_, terminated, truncated, _ = envs.step(actions)
            if mode == "Disabled":
                envs.reset(options={"reset_mask": terminated | truncated})


def dream(world: World, mode: str, frames: int) -> list[tuple[Any, ...]]:
    envs = ImaginedVectorEnv(
        N, world=world, denoising_steps=1, reward_fn=BatchedRewardFn(spoilt), autoreset_mode=mode
    )
    one_lane(envs)
    _, info = envs.reset(seed=3)
    told = [(info["seed"],)]
    for t in range(frames):
        observations, rewards, terminated, truncated, info = envs.step(torch.tensor([1, 2, t % 3, 0]))
        if mode == "Disabled" and terminated.any():
            observations, info = envs.reset(options={"reset_mask": terminated})
        if t == frames // 2:
            observations, info = envs.reset(seed=[None, 9, None, 10], options={"start": [None, None, 1, 0]})
        told.append((observations, rewards, terminated, truncated, info["seed"], info["frame_index"]))
    return told


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_the_host_need_not_know(tiny_loaded: World, mode: str) -> None:
    """Episodes that the device begins by itself are those that the host would have begun."""
    frames = 3 * reset_queue._PERIOD
    known = dream(tiny_loaded, mode, frames)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImaginedVectorEnv, "_waits", property(lambda self: False))
        unknown = dream(tiny_loaded, mode, frames)
    for here, there in zip(known, unknown, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert len({tuple(step[-2].tolist()) for step in known[1:]}) > 5  # many episodes


def test_episodes_of_a_frame_do_not_outrun_the_host() -> None:
    drawn = iter(range(10**6))
    queues = reset_queue.ResetQueue(2, torch.device("cpu"), lambda place: (next(drawn), place))
    mask, seen = torch.tensor([True, False]), []
    for _ in range(5 * reset_queue._DEPTH):
        seeds, starts = queues.take(mask)
        seen.append(int(seeds[0]))
        assert (int(seeds[1]), starts.tolist()) == (reset_queue._DEPTH, [0, 1])
    assert len(set(seen)) == len(seen)
    assert seen == sorted(seen)
    assert queues.draw([1]) == [reset_queue._DEPTH]
    before = int(queues.take(mask)[0][0])
    queues.forget([0])
    assert int(queues.take(mask)[0][0]) > before + 1


@pytest.mark.parametrize("result", [1, (torch.zeros(2), torch.zeros(2)), (torch.zeros(1), torch.ones(2) > 0)])
def test_a_batched_reward_fn_must_return_one_of_each(tiny_loaded: World, result: Any) -> None:
    envs = ImaginedVectorEnv(
        2, world=tiny_loaded, denoising_steps=1, reward_fn=BatchedRewardFn(lambda steps: result)
    )
    envs.reset(seed=0)
    with pytest.raises(ConfigError, match="reward_fn"):
        envs.step([0, 0])
