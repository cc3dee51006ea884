from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.testing import assert_array_equal

from tests.envs.fake_world import FakeWorld
from worldsim import camera
from worldsim.engine.world import World
from worldsim.envs.actions import KINDS
from worldsim.envs.imagined import ImaginedEnv
from worldsim.errors import CheckpointError, ConfigError, ControlError, DataError, EngineError

ID = "worldsim:WorldsimWorld-v0"


@pytest.mark.parametrize("kind", KINDS)
def test_gymnasium_has_nothing_to_complain_about(tiny_loaded: World, kind: str) -> None:
    env = gymnasium.make(ID, world=tiny_loaded, actions=kind, denoising_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()


def test_nor_about_a_world_that_is_loaded_by_name(tiny: Path) -> None:
    env = gymnasium.make(ID, world=str(tiny), denoising_steps=1, device="cpu", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", [FakeWorld(), FakeWorld(has_pose=False)], ids=["camera", "no camera"])
def test_the_passive_checker_stays_silent_while_playing(world: FakeWorld, kind: str) -> None:
    env = gymnasium.make(ID, world=world, actions=kind, render_mode="rgb_array")
    env.action_space.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.reset(seed=0)
        for _ in range(5):
            env.step(env.action_space.sample())
        env.render()
    env.close()


def play(env: ImaginedEnv, actions: list[int], **reset: Any) -> list[tuple[Any, ...]]:
    seen: list[tuple[Any, ...]] = [env.reset(**reset)]
    return seen + [env.step(action) for action in actions]


def test_same_seed_and_actions_same_frames(tiny_loaded: World) -> None:
    first, second = (ImaginedEnv(tiny_loaded, denoising_steps=1) for _ in range(2))
    for a, b in zip(play(first, [1, 1, 2], seed=7), play(second, [1, 1, 2], seed=7), strict=True):
        assert_array_equal(a[0], b[0])
        assert_array_equal(a[-1]["pose"], b[-1]["pose"])
    other = play(second, [1, 1, 3], seed=8)
    assert not np.array_equal(a[0], other[-1][0])


def test_an_env_shows_what_a_session_shows(tiny_loaded: World) -> None:
    session = tiny_loaded.engine(slots=1, denoising_steps=2).open(seed=3)
    env = ImaginedEnv(tiny_loaded)
    observation, info = env.reset(seed=3)
    assert_array_equal(observation, session.frame)
    assert info["seed"] == 3
    for action in (1, 0, 2):
        step = session.step(env.core.world.spec.control_space.from_discrete(action))
        observation, reward, terminated, truncated, info = env.step(action)
        assert_array_equal(observation, step.frame)
        assert_array_equal(info["pose"], step.pose)
        assert (reward, terminated, truncated) == (step.reward, step.terminated, False)
        assert (info["uncertainty"], info["frame_index"]) == (step.uncertainty, step.index)


def test_a_given_pose_is_obeyed_and_said_to_be_given(tiny_loaded: World) -> None:
    env = ImaginedEnv(tiny_loaded, actions="dict", denoising_steps=1)
    _, info = env.reset(seed=0)
    assert info["pose_given"]  # the start's frames came with theirs
    *_, info = env.step({"keys": np.zeros(6, np.int8), "pose": np.zeros((4, 4))})
    assert not info["pose_given"]
    pose = info["pose"] @ camera.exp(np.array([0, 0, 0.1, 0, 0.05, 0]))
    *_, info = env.step({"keys": np.zeros(6, np.int8), "pose": pose})
    assert info["pose_given"]
    np.testing.assert_allclose(info["pose"], pose, atol=1e-5)


def test_reset_to_given_frames(tiny_loaded: World) -> None:
    env = ImaginedEnv(tiny_loaded, denoising_steps=1)
    context = env.core.world.starts[1]
    parts = {"frames": context.frames, "controls": context.controls, "poses": context.poses}
    by_number = play(env, [1, 1], seed=5, options={"start": 1})
    for given in (context, parts):
        by_frames = play(env, [1, 1], seed=5, options={"context": given})
        for a, b in zip(by_number, by_frames, strict=True):
            assert_array_equal(a[0], b[0])


def test_keys_of_a_context_may_be_names_or_bits(fake: FakeWorld) -> None:
    env = ImaginedEnv(fake)
    frames = np.zeros((2, 12, 16, 3), np.uint8)
    for keys in ([(), {"forward", "turn_left"}], [[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0]]):
        env.reset(seed=0, options={"context": {"frames": frames, "keys": keys}})
        assert env.session is not None
        assert_array_equal(env.session.start.controls, [[0] * 7, [1, 0, 0, 0, 1, 0, 0]])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"startt": 1}, ConfigError),
        ({"start": 1, "context": {}}, ConfigError),
        ({"context": {"frames": np.zeros((1, 12, 16, 3), np.uint8)}}, DataError),
        ({"context": {"frames": np.zeros((1, 12, 16, 3), np.uint8), "keys": [(), ()]}}, DataError),
        ({"context": {"frames": np.zeros((1, 12, 16, 3), np.uint8), "keys": [("forwart",)]}}, ControlError),
        ({"context": {"frames": np.zeros((1, 12, 16, 3), np.uint8), "keys": [(7,)]}}, ControlError),
    ],
)
def test_options_that_mean_nothing(fake: FakeWorld, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ImaginedEnv(fake).reset(options=options)


def test_reward_and_termination_come_from_the_model() -> None:
    env = ImaginedEnv(FakeWorld(ends_at=3))
    env.reset(seed=0)
    results = [env.step(action)[1:4] for action in (1, 0, 1)]
    assert results == [(1.0, False, False), (0.0, False, False), (1.0, True, False)]


def test_drift_beyond_its_limit_truncates(fake: FakeWorld) -> None:
    env = ImaginedEnv(fake, max_uncertainty=0.25)
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


def test_the_time_limit_of_the_spec(fake: FakeWorld) -> None:
    env = gymnasium.make("worldsim:DoomMaze-v0", world=fake)
    assert env.spec is not None
    assert env.spec.max_episode_steps == 1050
    env = gymnasium.make(ID, world=fake, max_episode_steps=2)
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(2)] == [False, True]


def test_nothing_that_is_handed_out_is_shared(fake: FakeWorld) -> None:
    env = ImaginedEnv(fake, render_mode="rgb_array")
    seen, _ = env.reset(seed=0)
    seen[:] = 0
    drawn = env.render()
    assert drawn is not None
    assert drawn.any()
    *_, info = env.step(1)
    info["pose"][:] = 0
    assert env.step(1)[-1]["pose"].any()


def test_human_rendering_opens_a_window(fake: FakeWorld) -> None:
    pygame = pytest.importorskip("pygame")
    env = gymnasium.make(ID, world=fake, render_mode="human")
    env.reset(seed=0)
    env.step(1)
    assert env.render() is None
    assert pygame.display.get_surface().get_size() == (640, 480)
    env.close()
    assert not pygame.display.get_init()
    env.close()


def test_metadata_and_keyboard(fake: FakeWorld) -> None:
    env = ImaginedEnv(fake)
    assert env.metadata["render_fps"] == 18
    assert isinstance(env.metadata["render_fps"], int)
    assert env.get_keys_to_action()[(ord("w"),)] == 1


def test_sessions_are_closed(fake: FakeWorld) -> None:
    env = ImaginedEnv(fake)
    for _ in range(3):
        env.reset()
    env.close()
    env.close()
    assert not fake.engines[0].open_sessions
    with pytest.raises(EngineError, match="reset"):
        env.step(0)


def test_arguments_out_of_range(fake: FakeWorld) -> None:
    with pytest.raises(ConfigError, match="render_mode"):
        ImaginedEnv(fake, render_mode="ansi")
    with pytest.raises(ConfigError, match="max_uncertainty"):
        ImaginedEnv(fake, max_uncertainty=0)
    with pytest.raises(CheckpointError):
        ImaginedEnv("no-such-world")
