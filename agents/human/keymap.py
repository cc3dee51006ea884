"""Which key of the keyboard does what.

Keys are named as pygame names them on a US layout ("w", "left", "f5"), whatever layout is in force; no pygame
needed here.
"""

from __future__ import annotations

import difflib
import os
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from worldsim.agents.human.bindings import USUAL, bind
from worldsim.agents.human.commands import COMMANDS, NAMES
from worldsim.errors import ConfigError

RADIANS_PER_PIXEL = 0.004


@dataclass(frozen=True)
class Keymap:
    """``keys``: keyboard key -> the world's key.

    ``commands``: keyboard key -> command. ``sensitivity``: radians of turn per pixel of mouse movement.
    """

    keys: Mapping[str, str]
    commands: Mapping[str, str]
    sensitivity: float = RADIANS_PER_PIXEL

    def held(self, pressed: Iterable[str]) -> frozenset[str]:
        """The world's keys that these keyboard keys hold down."""
        return frozenset(self.keys[name] for name in pressed if name in self.keys)

    def __contains__(self, key: object) -> bool:
        """Return True if a keyboard key is bound."""
        return key in self.keys or key in self.commands

    def without(self, commands: Collection[str]) -> Keymap:
        """The same without the keys of some commands."""
        kept = {key: name for key, name in self.commands.items() if name not in commands}
        return replace(self, commands=kept)

    def keys_for(self, name: str) -> list[str]:
        """The keyboard keys of a world's key or of a command."""
        return [key for table in (self.keys, self.commands) for key, to in table.items() if to == name]


def default_keymap(world_keys: Iterable[str]) -> Keymap:
    """WASD, arrows and what the names suggest; see ``bindings``."""
    commands = {key: command.name for command in COMMANDS for key in command.keys}
    keys = bind(tuple(world_keys), commands)
    return Keymap(keys, {key: name for key, name in commands.items() if key not in keys})


def user_keymap_file(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Path of the user's own keymap, which may not exist."""
    if platform == "win32" and environ.get("APPDATA"):
        return Path(environ["APPDATA"]) / "worldsim" / "keys.toml"
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or Path.home()) / ".config")
    return home / "worldsim" / "keys.toml"


def load_keymap(world_keys: Iterable[str], path: Path | None = None) -> Keymap:
    """The defaults, changed by ``path`` or else by the person's own file if there is one.

    The file may have ``[keys]`` (the world's keys), ``[commands]`` and ``[mouse]`` with ``sensitivity``. Each
    name gets a key or a list of keys, which replace its default ones; a key taken here is taken away from
    whatever had it by default. Raises ConfigError for a file that cannot be read, unknown names, or a key
    given twice.
    """
    world_keys = tuple(world_keys)
    keymap = default_keymap(world_keys)
    if path is None:
        path = user_keymap_file()
        if not path.is_file():
            return keymap
    table = _read(path)
    _check_names(table, ("keys", "commands", "mouse"), path)
    keys, commands = _section(table, "keys", path), _section(table, "commands", path)
    _check_names(commands, NAMES, path)
    # A keymap serves several worlds: keys that only another world knows are no fault, but a misspelt one is.
    _check_names(keys, (*world_keys, *USUAL), path)
    wanted = _wanted({name: keys[name] for name in keys if name in world_keys}, path)
    commanded = _wanted(commands, path)
    for key in wanted.keys() & commanded.keys():
        raise ConfigError(f"a key does one thing only in {path}", key, f"give {commanded[key]!r} another key")
    return Keymap(
        _replaced(keymap.keys, wanted, commanded),
        _replaced(keymap.commands, commanded, wanted),
        _sensitivity(table, path),
    )


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError("a keymap is a TOML file that can be read", str(path), str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("a keymap is valid TOML", str(path), f"mend it: {error}") from error


def _section(table: dict[str, object], name: str, path: Path) -> dict[str, object]:
    section = table.get(name, {})
    if not isinstance(section, dict):
        raise ConfigError(
            f"[{name}] in {path} is a table", section, f'write [{name}] and below it name = "key"'
        )
    return section


def _check_names(names: Iterable[str], known: Iterable[str], path: Path) -> None:
    known = tuple(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(known)
            raise ConfigError(f"a keymap names what is there ({path})", name, hint)


def _wanted(section: Mapping[str, object], path: Path) -> dict[str, str]:
    """Keyboard key -> name, from name = "key" or name = ["key", ...]."""
    wanted: dict[str, str] = {}
    for name, given in section.items():
        keys = [given] if isinstance(given, str) else given
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ConfigError(
                f"{name} in {path} is a key or a list of keys", given, 'write for example ["w", "up"]'
            )
        for key in keys:
            if wanted.setdefault(key.lower(), name) != name:
                raise ConfigError(
                    f"a key does one thing only in {path}", key, f"{wanted[key.lower()]!r} has it already"
                )
    return wanted


def _replaced(old: Mapping[str, str], new: Mapping[str, str], taken: Mapping[str, str]) -> dict[str, str]:
    named = set(new.values())
    kept = {
        key: name for key, name in old.items() if name not in named and key not in new and key not in taken
    }
    return kept | dict(new)


def _sensitivity(table: dict[str, object], path: Path) -> float:
    mouse = _section(table, "mouse", path)
    _check_names(mouse, ("sensitivity",), path)
    value = mouse.get("sensitivity", RADIANS_PER_PIXEL)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1.0:
        raise ConfigError(
            "the mouse's sensitivity is in radians per pixel, between -1 and 1", value, "try 0.004"
        )
    return float(value)
