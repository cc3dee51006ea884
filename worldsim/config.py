"""Frozen dataclasses to JSON and back. An unknown key raises and names the nearest one.

Fields may be bool, int, finite float, str, None, Literal, tuples (fixed or ``tuple[T, ...]``),
``dict[str, T]``, unions of these, nested dataclasses, and registered parts: a field annotated
``Annotated[Any, Part(kind)]`` holds the config of any part of that kind, and JSON names it by ``"type"``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

from worldsim.errors import ConfigError, nearest
from worldsim.registry import Part, config_class, name_of

__all__ = ["from_dict", "load", "override", "save", "to_dict"]

T = TypeVar("T")

_TYPE = "type"
"""The key under which JSON names a registered part."""


def to_dict(cfg: Any) -> dict[str, Any]:
    """The dataclass ``cfg`` as plain JSON values: dicts, lists, numbers, strings, bools and None."""
    if not dataclasses.is_dataclass(cfg) or isinstance(cfg, type):
        raise ConfigError("a config must be a dataclass instance", type(cfg).__name__)
    registered = name_of(type(cfg))
    tag = {} if registered is None else {_TYPE: registered[1]}
    return tag | {f.name: _plain(getattr(cfg, f.name), f.name) for f in dataclasses.fields(cfg) if f.init}


def from_dict(cls: type[T], d: Mapping[str, Any]) -> T:
    """Build the dataclass ``cls`` from plain JSON values, nested ones included.

    A class may have ``retired``, keys of older files with a value each: an entry of that value is left out.

    Raises:
        ConfigError: an unknown key (the nearest is named), a missing one, or a value of the wrong type.
    """
    return _build(cls, d, "")


def override(cfg: T, changes: Mapping[str, Any]) -> T:
    """A copy of ``cfg`` with fields replaced; keys are dotted paths, values JSON values or their text.

    ``override(cfg, {"model.width": "256", "name": "maze"})`` reads the text by the field's type.

    Raises:
        ConfigError: an unknown path (the nearest name is given) or a value that does not fit the field.
    """
    for path, value in changes.items():
        cfg = _replace(cfg, path.split("."), value, path)
    return cfg


def save(cfg: Any, path: str | Path) -> None:
    """Write ``cfg`` as JSON, atomically: a reader sees the old file or the new one, never half of it."""
    path = Path(path)
    text = json.dumps(to_dict(cfg), indent=2, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(cls: type[T], path: str | Path) -> T:
    """Read the dataclass ``cls`` from a JSON file.

    Raises:
        ConfigError: the file is missing, is not a JSON object, or does not fit ``cls``.
    """
    try:
        d = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("a config file must be readable", str(path), error.strerror or "") from error
    except ValueError as error:
        raise ConfigError("a config file must hold JSON", str(path), str(error)) from error
    if not isinstance(d, dict):
        raise ConfigError("a config file must hold one JSON object", type(d).__name__, f"look at {path}")
    return from_dict(cls, d)


def _plain(value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{path}.{k}") for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v, path) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{path} must be a JSON value", type(value).__name__)


def _fields(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def _build(cls: type[T], d: Any, path: str) -> T:
    where = path or cls.__name__
    if not isinstance(d, Mapping):
        raise ConfigError(f"{where} must be an object", d)
    hints = _fields(cls)
    registered = name_of(cls)
    if registered is not None and d.get(_TYPE, registered[1]) == registered[1]:
        d = {key: value for key, value in d.items() if key != _TYPE}
    retired: Mapping[str, Any] = getattr(cls, "retired", {})
    d = {key: value for key, value in d.items() if key not in retired or value != retired[key]}
    for key in d:
        if key not in hints:
            raise ConfigError(f"{where} has no such key", key, nearest(str(key), hints))
    values = {k: _read(hints[k], v, f"{path}.{k}".lstrip(".")) for k, v in d.items()}
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    missing = [field.name for field in fields if _is_required(field) and field.name not in values]
    if missing:
        raise ConfigError(f"{where} needs {', '.join(missing)}", sorted(d), "add the missing keys")
    return cls(**values)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    absent = dataclasses.MISSING
    return field.init and field.default is absent and field.default_factory is absent


def _read(hint: Any, value: Any, path: str) -> Any:
    """``value``, a JSON value, as the type ``hint`` asks for."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        kinds = [extra.kind for extra in hint.__metadata__ if isinstance(extra, Part)]
        return _read_part(kinds[0], value, path) if kinds else _read(args[0], value, path)
    if origin in (Union, types.UnionType):
        return _read_union(args, value, path)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{path} must be one of {', '.join(map(repr, args))}", value)
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return _read_tuple(args, value, path)
    if origin is dict and isinstance(value, Mapping):
        return {str(k): _read(args[1], v, f"{path}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else _build(hint, value, path)
    return _read_scalar(hint, value, path)


def _read_part(kind: str, value: Any, path: str) -> Any:
    """The config of a part: one that is built already, or an object that names its ``type``."""
    if not isinstance(value, Mapping):
        registered = name_of(type(value))
        if registered is not None and registered[0] == kind:
            return value
        raise ConfigError(f"{path} must be an object with a {kind}'s type", value)
    if not isinstance(value.get(_TYPE), str):
        raise ConfigError(f"{path} must name its {_TYPE}, a registered {kind}", sorted(value))
    return _build(config_class(kind, value[_TYPE]), value, path)


def _read_union(args: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in args:
        return None
    options = [a for a in args if a is not type(None)]
    for option in options:
        try:
            return _read(option, value, path)
        except ConfigError:
            if option is options[-1]:
                raise
    raise ConfigError(f"{path} must be null", value)


def _read_tuple(args: tuple[Any, ...], value: list[Any] | tuple[Any, ...], path: str) -> tuple[Any, ...]:
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_read(args[0], v, path) for v in value)
    if len(args) != len(value):
        raise ConfigError(f"{path} must have {len(args)} entries", list(value))
    return tuple(_read(a, v, path) for a, v in zip(args, value, strict=True))


def _read_scalar(hint: Any, value: Any, path: str) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and value == int(value):
        return int(value)
    if hint in (str, bool, type(None)) and isinstance(value, hint):
        return value
    raise ConfigError(f"{path} must be {getattr(hint, '__name__', str(hint))}", value)


def _replace(cfg: Any, names: list[str], value: Any, path: str) -> Any:
    if not dataclasses.is_dataclass(cfg) or isinstance(cfg, type):
        raise ConfigError(f"{path} leads into a field that has no fields", type(cfg).__name__)
    hints = _fields(type(cfg))
    name, *rest = names
    if name not in hints:
        raise ConfigError(f"there is no field {path}", name, nearest(name, hints))
    if rest:
        new = _replace(getattr(cfg, name), rest, value, path)
    else:
        read = _read_text if isinstance(value, str) else _read
        new = read(hints[name], value, path)
    return dataclasses.replace(cfg, **{name: new})


def _read_text(hint: Any, text: str, path: str) -> Any:
    """``text`` as typed on a command line: JSON where that fits the field, else the text itself."""
    try:
        value = json.loads(text)
    except ValueError:
        value = {"True": True, "False": False, "None": None}.get(text, _number(text))
    try:
        return _read(hint, value, path)
    except ConfigError:
        if value is text:
            raise
    return _read(hint, text, path)


def _number(text: str) -> float | str:
    """A number that JSON does not write so, e.g. ".5" or "1."; else the text."""
    try:
        value = float(text)
    except ValueError:
        return text
    return value if math.isfinite(value) else text
