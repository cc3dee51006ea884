from __future__ import annotations

from collections import Counter
from typing import Any

import gymnasium
import numpy as np
import pytest

from tests.envs.fake_world import FakeWorld
from worldsim.context import Context
from worldsim.engine.world import World
from worldsim.envs.imagined import ImaginedEnv
from worldsim.envs.start_distribution import StartDistribution
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError, EngineError

ID = "worldsim:WorldsimWorld-v0"
GIVEN = Context(np.full((1, 12, 16, 3), 7, np.uint8), np.zeros((1, 7), np.float32))


def counts(starts: Any, draws: int = 2000) -> Counter[Any]:
    states = StartDistribution(starts, 8)
    return Counter(states.draw(seed) for seed in range(draws))


@pytest.mark.parametrize("starts", [[1, 4], (1, 4), np.array([1, 4]), range(1, 5, 3), {1: 3, 4: 3.0}])
def test_all_as_likely(starts: Any) -> None:
    drawn = counts(starts)
    assert drawn.keys() == {1, 4}
    assert abs(drawn[1] - 1000) < 120


def test_weights() -> None:
    drawn = counts({0: 1, 2: 3, 5: 0})
    assert drawn.keys() == {0, 2}
    assert abs(drawn[2] - 1500) < 110


def test_a_callable_draws() -> None:
    drawn = counts(lambda rng: rng.integers(6, 8))
    assert drawn.keys() == {6, 7}
    assert all(isinstance(start, int) for start in drawn)


def test_none_leaves_it_to_the_engine() -> None:
    assert counts(None).keys() == {None}


@pytest.mark.parametrize("seed", [0, 2**31, 2**70, -5])
def test_the_seed_decides(seed: int) -> None:
    states = StartDistribution(range(8), 8)
    assert len({states.draw(seed) for _ in range(5)}) == 1


def test_every_episode_of_a_vector_begins_so(fake: FakeWorld) -> None:
    envs = gymnasium.make_vec(ID, num_envs=3, world=fake, starts=[2, 6], max_episode_steps=1)
    envs.reset(seed=0)
    began = set()
    for _ in range(8):
        began |= {session.start for session in fake.engines[0].open_sessions}
        envs.step(np.zeros(3, np.int64))
    assert began == {2, 6}


def test_given_frames_among_them(fake: FakeWorld) -> None:
    env = gymnasium.make(ID, world=fake, starts=lambda rng: GIVEN)
    assert (env.reset(seed=0)[0] == 7).all()
    assert (ImaginedEnv(fake, starts=[GIVEN]).reset(seed=0)[0] == 7).all()


def test_single_and_vector_begin_alike(tiny_loaded: World) -> None:
    envs = ImaginedVectorEnv(2, world=tiny_loaded, denoising_steps=1, starts={0: 1, 1: 1})
    first, info = envs.reset(seed=4)
    single = ImaginedEnv(tiny_loaded, denoising_steps=1, starts=[0, 1])
    for i, seed in enumerate(info["seed"].tolist()):
        assert np.array_equal(first[i], single.reset(seed=seed)[0])


def test_options_come_first(fake: FakeWorld) -> None:
    env = ImaginedEnv(fake, starts=[2])
    env.reset(options={"start": 3})
    assert env.session is not None
    assert env.session.start == 3
    env.reset()
    assert env.session.start == 2


@pytest.mark.parametrize(
    "starts", [[], {}, "0", 3, [8], [-1], [0.5], ["0"], {0: -1}, {0: 0}, {0: np.nan}, {9: 1}]
)
def test_what_is_no_distribution(fake: FakeWorld, starts: Any) -> None:
    with pytest.raises(ConfigError, match="start"):
        ImaginedEnv(fake, starts=starts)


def test_draws_that_are_none(tiny_loaded: World) -> None:
    with pytest.raises(ConfigError, match="start"):
        ImaginedEnv(tiny_loaded, starts=lambda rng: "here").reset()
    with pytest.raises(EngineError, match="start"):
        ImaginedEnv(tiny_loaded, starts=lambda rng: 99).reset()
