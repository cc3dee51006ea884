"""Any Gymnasium environment with pixels is a source."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.envs import pixel_env  # registers the environments
from worldsim.controls import ActionBox, Control
from worldsim.data.dataset import Dataset
from worldsim.data.recorder import RecordConfig, record
from worldsim.envs.episode_collector import EpisodeCollector
from worldsim.envs.sources import gym_packages, make_source
from worldsim.envs.sources.gym_actions import make_action_map
from worldsim.errors import ControlError, DependencyError, SourceError

DOTS = "gym:Dots-v0"


@pytest.mark.parametrize("name", [DOTS, "gym:RenderedDots-v0"])
def test_frames_come_from_observation_or_render(name: str) -> None:
    source = make_source(name)
    assert source.spec.size == (24, 32)
    assert source.spec.fps == 20
    assert not source.spec.has_pose
    assert source.walls() is None
    frame = source.reset(3).frame
    assert frame.dtype == np.uint8
    assert (frame == (255, 128, 0)).all(-1).sum() == 8
    source.close()


def test_same_seed_and_controls_give_the_same_frames() -> None:
    def play() -> np.ndarray:
        source = make_source(DOTS)
        frames = [source.reset(5).frame]
        frames += [source.step(Control({key})).frame for key in ("left", "right", "right")]
        return np.stack(frames)

    np.testing.assert_array_equal(play(), play())


def test_frames_are_averaged_over_areas() -> None:
    full, half = make_source(DOTS).reset(3).frame, make_source(DOTS, (12, 16)).reset(3).frame
    assert half.shape == (12, 16, 3)
    assert abs(full.mean() - half.mean()) < 0.5
    assert make_source(DOTS, (7, 9)).reset(3).frame.shape == (7, 9, 3)


def test_keys_move_the_dot_and_the_edge_ends_the_task() -> None:
    source = make_source(DOTS)
    assert source.spec.control_space.keys == ("left", "right")
    assert source.spec.control_space.discrete_actions == ((), ("left",), ("right",))
    start = column(source.reset(1).frame)
    assert column(source.step(Control({"right"})).frame) == start + 1
    assert column(source.step(Control()).frame) == start + 1
    assert column(source.step(Control({"left"})).frame) == start
    seen = source.step(Control({"right"}))
    while not seen.terminated:
        seen = source.step(Control({"right"}))
    assert not seen.truncated
    with pytest.raises(SourceError, match="reset"):
        source.step(Control())
    with pytest.raises(ControlError, match="right"):
        source.step(Control({"rihgt"}))


def column(frame: np.ndarray) -> int:
    return int(frame[8, :, 0].argmax())


def test_a_time_limit_truncates() -> None:
    source = make_source(DOTS)
    source.reset(0)
    flags = [source.step(Control({"left"})) for _ in range(40)]
    assert [f.truncated for f in flags] == [False] * 39 + [True]
    assert not flags[-1].terminated


def action_of(env_id: str, *keys: str) -> np.ndarray:
    return np.asarray(make_action_map(pixel_env.gymnasium.make(env_id), env_id).action(Control(keys)))


def test_actions_of_every_kind_of_space() -> None:
    assert action_of("ShiftedDots-v0", "right") == 7
    assert action_of("ShiftedDots-v0") == 6
    np.testing.assert_array_equal(action_of("Buttons-v0", "button_1"), [0, 1])
    np.testing.assert_allclose(action_of("Axes-v0"), [0, 0])
    np.testing.assert_allclose(action_of("Axes-v0", "axis0_minus", "axis1_plus"), [-1, 2])
    np.testing.assert_allclose(action_of("Axes-v0", "axis0_minus", "axis0_plus"), [0, 0])


def test_a_box_is_a_continuous_action_beside_the_keys() -> None:
    source = make_source("gym:Axes-v0")
    space = source.spec.control_space
    assert space.action == ActionBox(low=(-1.0, 0.0), high=(1.0, 2.0))
    action_map = make_action_map(pixel_env.gymnasium.make("Axes-v0"), "Axes-v0")
    for keys in ((), ("axis0_plus",)):
        action = action_map.action(Control(keys, action=[-0.5, 1.5]))
        assert action.dtype == np.float32
        np.testing.assert_array_equal(action, np.float32([-0.5, 1.5]))
    source.reset(0)
    source.step(Control(action=[-0.5, 1.5]))
    with pytest.raises(ControlError, match="2 numbers"):
        source.step(Control(action=[0.5]))
    with pytest.raises(ControlError, match=r"number 1 of an action must be in \[0, 2\]"):
        source.step(Control(action=[0.5, 3]))
    with pytest.raises(ControlError, match="takes no continuous action"):
        make_source(DOTS).spec.control_space.validate(Control(action=[0.5]))


def test_a_box_that_float32_does_not_tell_apart_has_keys_alone() -> None:
    Box = pixel_env.spaces.Box
    for space in (Box(0.0, 1e300, (1,), np.float64), Box(np.float32([0, 1]), np.float32([1, 1]))):
        env = pixel_env.DotsEnv(actions=space)
        assert make_action_map(env, "Dots-v0").space.action is None


@pytest.mark.slow
def test_a_recording_keeps_continuous_actions(tmp_path: Path) -> None:
    name = "gym:tests.envs.pixel_env:Axes-v0"  # found in the recorder's worker, too
    collector = partial(EpisodeCollector, name, None, 30)
    record(collector, tmp_path, RecordConfig(source=name, seed=1, codec="raw"), frames=300)
    dataset = Dataset(tmp_path)
    space = dataset.spec.control_space
    rows = np.concatenate([dataset.rows(i).controls for i in range(len(dataset))])
    known, numbers = np.split(rows[:, space.channels["action"]], [1], 1)
    assert 0.2 < known.mean() < 0.9
    played = numbers[known[:, 0] == 1]
    assert (played.min(0) >= (-1, 0)).all()
    assert (played.max(0) <= (1, 2)).all()
    assert (played.std(0) > 0.3).all()
    assert not numbers[known[:, 0] == 0].any()
    source = make_source("gym:Axes-v0")
    source.reset(dataset.episodes[0].seed)
    for row in dataset.rows(0).controls:
        source.step(space.from_vector(row))


def test_several_discrete_actions_at_once() -> None:
    np.testing.assert_array_equal(action_of("Levers-v0"), [0, 5])
    np.testing.assert_array_equal(action_of("Levers-v0", "axis0_action2", "axis1_action1"), [2, 6])
    np.testing.assert_array_equal(action_of("Grid-v0", "axis0_action1", "axis3_action1"), [[1, 0], [0, 1]])
    space = make_source("gym:Levers-v0").spec.control_space
    assert space.keys == ("axis0_action1", "axis0_action2", "axis1_action1")
    assert ("axis0_action2", "axis1_action1") in space.discrete_actions


@pytest.mark.parametrize("name", ["gym:GreyDots-v0", "gym:FlatDots-v0"])
def test_grey_frames_are_shown_as_rgb(name: str) -> None:
    for size in (None, (12, 16)):
        source = make_source(name, size)
        frame = source.reset(3).frame
        assert frame.shape == (*(size or (24, 32)), 3)
        assert frame.dtype == np.uint8
        assert (frame == frame[..., :1]).all()
        assert frame.max() == 255 or size


@pytest.mark.parametrize("name", ["Mute", "Strict", "ColoursFirst", "Alpha"])
def test_pixels_are_found_however_they_are_shown(name: str) -> None:
    source, plain = make_source(f"gym:{name}-v0"), make_source(DOTS)
    assert source.spec.size == (24, 32)
    np.testing.assert_array_equal(source.reset(3).frame, plain.reset(3).frame)


@pytest.mark.parametrize("name", pixel_env.ACTIONS)
def test_every_combination_of_joint_and_shaped_spaces_is_an_action(name: str) -> None:
    source = make_source(f"gym:{name}-v0")
    space = source.spec.control_space
    assert len(set(space.discrete_actions)) == len(space.discrete_actions) > len(space.keys) > 1
    source.reset(0)
    for number in range(len(space.discrete_actions)):
        source.step(space.from_discrete(number))
    if space.action is not None:
        source.step(Control(action=space.action.sample(np.random.default_rng(0))))


def test_parts_of_an_action_have_their_own_keys() -> None:
    pair = make_action_map(pixel_env.gymnasium.make("Pair-v0"), "Pair-v0")
    number, box = pair.action(Control({"0_action_2", "1_axis0_plus"}))
    assert (number, box.tolist()) == (2, [1])
    field = action_of("Field-v0", "axis2_minus")
    np.testing.assert_array_equal(field, [[0, 0], [-1, 0]])
    keys = make_source("gym:Named-v0").spec.control_space.keys
    assert keys == ("move_action_0", "move_action_1", "arm_0_button_0", "arm_0_button_1")


MODULE = """
import gymnasium
from tests.envs.pixel_env import DotsEnv
gymnasium.register("{name}", DotsEnv, disable_env_checker=True)
"""


def test_a_module_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(Path.cwd()))])
    (tmp_path / "my_dots_here.py").write_text(MODULE.format(name="MyDots-v0"))
    assert make_source("gym:my_dots_here:MyDots-v0").spec.size == (24, 32)
    (tmp_path / "my_dots_broken.py").write_text("import no_such_package_at_all")
    with pytest.raises(SourceError, match=r"must import.*no_such_package_at_all"):
        make_source("gym:my_dots_broken:MyDots-v0")
    with pytest.raises(SourceError, match=r"no_such_module.*start where its file lies"):
        make_source("gym:no_such_module:X-v0")


def test_a_namespace_finds_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "gym_dotland.py").write_text(MODULE.format(name="DotLand/Dots-v0"))
    assert make_source("gym:DotLand/Dots-v0").spec.size == (24, 32)


@pytest.mark.parametrize("known", ["_PACKAGES", "_OTHERS"])
def test_a_name_without_a_namespace_finds_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    package = f"dots_pack{known.lower()}"
    (tmp_path / f"{package}.py").write_text(MODULE.format(name=f"PlainDots{known}-v0"))
    listed = {"x": (package, "x")} if known == "_PACKAGES" else ("no_such.part", package)
    monkeypatch.setattr(gym_packages, known, listed)
    if known == "_OTHERS":
        monkeypatch.setattr(gym_packages, "_PACKAGES", {})
    assert make_source(f"gym:PlainDots{known}-v0").spec.size == (24, 32)


def test_a_known_namespace_without_its_package_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym_packages._PACKAGES, "Nowhere", ("no_such_package", "no-such-package"))
    for env_id in ("Nowhere/Thing-v0", "Nowhere-Thing-v0"):
        with pytest.raises(DependencyError, match="pip install no-such-package"):
            make_source(f"gym:{env_id}")


@pytest.mark.parametrize(
    ("module", "name", "size"),
    [
        ("ale_py", "gym:ALE/Pong-v5", (210, 160)),
        ("ale_py", "gym:PongNoFrameskip-v4", (210, 160)),
        ("ale_py", "gym:Breakout-v4", (210, 160)),
        ("vizdoom", "gym:VizdoomBasic-v1", (240, 320)),
        ("minigrid", "gym:MiniGrid-Empty-5x5-v0", (160, 160)),
        ("minigrid", "gym:BabyAI-GoToRedBall-v0", (256, 256)),
    ],
)
def test_installed_packages_are_imported(module: str, name: str, size: tuple[int, int]) -> None:
    pytest.importorskip(module)
    source = make_source(name)
    assert source.spec.size == size
    assert source.reset(0).frame.shape == (*size, 3)
    assert source.step(Control(source.spec.control_space.keys[:1])).frame.shape == (*size, 3)
    source.close()


def test_an_axis_that_starts_at_its_rest_has_one_key() -> None:
    space = make_source("gym:Axes-v0").spec.control_space
    assert space.keys == ("axis0_minus", "axis0_plus", "axis1_plus")
    assert ("axis0_minus", "axis1_plus") in space.discrete_actions


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("gym:Words-v0", "Discrete, MultiBinary"),
        ("gym:Boundless-v0", "bounds"),
        ("gym:NoSuchThing-v0", "known to Gymnasium"),
        ("gym:FrozenDots-v0", "known to Gymnasium"),
        ("gym:Dark-v0", "must render pixels"),
        ("doom-mace", "did you mean 'doom-maze'"),
    ],
)
def test_what_cannot_be_a_source_is_an_error(name: str, rule: str) -> None:
    with pytest.raises(SourceError, match=rule):
        make_source(name)
