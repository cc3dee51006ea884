"""Keys: sensible defaults for any world, changed by a TOML file whose mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldsim.agents.human.commands import COMMANDS
from worldsim.agents.human.keymap import default_keymap, load_keymap, user_keymap_file
from worldsim.envs.sources.doom import DOOM_KEYS
from worldsim.errors import ConfigError

TWO_AXES = ("axis0_minus", "axis0_plus", "axis1_minus", "axis1_plus")


@pytest.fixture(autouse=True)
def nobodys_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("APPDATA", raising=False)
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "keys.toml"
    path.write_text(text)
    return path


def test_doom_is_walked_with_wasd_and_arrows() -> None:
    keymap = default_keymap(DOOM_KEYS)
    assert keymap.held({"w"}) == keymap.held({"up"}) == {"forward"}
    assert keymap.held({"a", "d", "left", "s"}) == {"strafe_left", "strafe_right", "turn_left", "backward"}
    assert keymap.held({"f1", "x", "nonsense"}) == frozenset()


def test_every_command_has_a_key_and_no_key_does_two_things() -> None:
    keymap = default_keymap(DOOM_KEYS)
    assert {command.name for command in COMMANDS} == set(keymap.commands.values())
    assert not keymap.keys.keys() & keymap.commands.keys()
    assert len({key for command in COMMANDS for key in command.keys}) == sum(len(c.keys) for c in COMMANDS)


def test_keys_with_unknown_names_get_spare_letters() -> None:
    keymap = default_keymap(("gas", "brake", "left", "right", "handbrake", "horn"))
    assert set(keymap.keys.values()) == {"gas", "brake", "left", "right", "handbrake", "horn"}
    assert keymap.keys["w"] == "gas"


@pytest.mark.parametrize(
    ("names", "pressed", "held"),
    [
        (("axis0_minus", "axis0_plus"), {"left"}, {"axis0_minus"}),
        (("axis0_minus", "axis0_plus"), {"d"}, {"axis0_plus"}),
        (TWO_AXES, {"up", "a"}, {"axis1_plus", "axis0_minus"}),
        (TWO_AXES, {"s"}, {"axis1_minus"}),
        ((*TWO_AXES[:2], "axis1_plus", "axis2_plus"), {"w", "down"}, {"axis1_plus", "axis2_plus"}),
        (("steer_left", "steer_right", "gas", "brake"), {"left", "w"}, {"steer_left", "gas"}),
        (("steer_right", "steer_left", "gas", "brake"), {"d", "s"}, {"steer_right", "brake"}),
        (("main_engine", "left_engine", "right_engine"), {"up", "a"}, {"main_engine", "left_engine"}),
        (("torque_minus", "torque_plus"), {"left"}, {"torque_minus"}),
        (("torque_clockwise", "torque_anticlockwise"), {"right"}, {"torque_clockwise"}),
        (("action_0", "action_1", "action_2"), {"up", "left", "s"}, {"action_0", "action_1", "action_2"}),
        (("button_0", "button_1"), {"w", "a"}, {"button_0", "button_1"}),
        (("key_x", "key_j"), {"x", "j"}, {"key_x", "key_j"}),
        (("right", "up", "left", "down", "upright"), {"right"}, {"right"}),
    ],
)
def test_arrows_and_wasd_steer_any_world(names: tuple[str, ...], pressed: set[str], held: set[str]) -> None:
    keymap = default_keymap(names)
    assert keymap.held(pressed) == held
    assert set(keymap.keys.values()) == set(names)
    assert not keymap.keys.keys() & keymap.commands.keys()


def test_many_axes_find_keys_each_of_their_own() -> None:
    names = [f"axis{i}_{end}" for i in range(7) for end in ("minus", "plus")]
    keymap = default_keymap(names)
    assert set(keymap.keys.values()) == set(names)
    assert keymap.keys_for("axis2_minus") == ["q"]


def test_a_file_replaces_what_it_names_and_takes_keys_away(nobodys_home: Path) -> None:
    text = '[keys]\nforward = "p"\n[commands]\npause = ["a", "F6"]\n[mouse]\nsensitivity = -0.01\n'
    keymap = load_keymap(DOOM_KEYS, written(nobodys_home, text))
    assert keymap.keys_for("forward") == ["p"]
    assert keymap.keys_for("pause") == ["a", "f6"]
    assert keymap.keys_for("strafe_left") == []
    assert keymap.keys_for("backward") == ["s", "down"]
    assert keymap.sensitivity == -0.01


def test_ones_own_file_is_found_and_another_wins(nobodys_home: Path) -> None:
    own = user_keymap_file()
    own.parent.mkdir(parents=True)
    own.write_text('[commands]\nhelp = "f4"\n')
    assert load_keymap(DOOM_KEYS).keys_for("help") == ["f4"]
    other = written(nobodys_home, '[commands]\nhelp = "f6"\n')
    assert load_keymap(DOOM_KEYS, other).keys_for("help") == ["f6"]


def test_where_ones_own_file_lies() -> None:
    assert user_keymap_file({"HOME": "/h"}, "linux") == Path("/h/.config/worldsim/keys.toml")
    assert user_keymap_file({"APPDATA": "/a"}, "win32") == Path("/a/worldsim/keys.toml")


def test_keys_of_another_world_are_no_mistake(nobodys_home: Path) -> None:
    keymap = load_keymap(DOOM_KEYS, written(nobodys_home, '[keys]\ngas = "w"\n'))
    assert keymap.keys["w"] == "forward"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[keys]\nforwrad = "w"', "did you mean 'forward'"),
        ('[commands]\npuase = "w"', "did you mean 'pause'"),
        ('[key]\nforward = "w"', "did you mean 'keys'"),
        ("[keys]\nforward = 3", "a key or a list of keys"),
        ('keys = "w"', "is a table"),
        ('[keys]\nforward = "z"\nbackward = "z"', "one thing only"),
        ('[keys]\nforward = "z"\n[commands]\npause = "z"', "one thing only"),
        ('[mouse]\nsensitivity = "fast"', "radians per pixel"),
        ("[mouse]\nsensitivity = nan", "radians per pixel"),
        ("[keys", "valid TOML"),
    ],
)
def test_mistakes_are_named(nobodys_home: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_keymap(DOOM_KEYS, written(nobodys_home, text))


def test_a_file_that_is_not_there_is_named(nobodys_home: Path) -> None:
    with pytest.raises(ConfigError, match="gone"):
        load_keymap(DOOM_KEYS, nobodys_home / "gone.toml")
