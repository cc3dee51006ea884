"""The table of registered parts: a kind and a name lead to a config class.

A part is a unit, a tokenizer, a generator, a sampler and so on. Its frozen config dataclass registers itself
when its module is imported; other configs refer to it by name::

    @register("tokenizer", "mine")
    @dataclass(frozen=True, kw_only=True)
    class MineConfig: ...

    @dataclass(frozen=True)
    class Networks:
        tokenizer: Annotated[Any, Part("tokenizer")]

``config.from_dict`` then reads the field from ``{"type": "mine", ...}``, and ``config.to_dict`` writes it.

Parts of other packages: a module is imported by its name ("module:mine", ``worldsim --import module``), or
found as an entry point of the group ``worldsim.parts``. A config file never names a module.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

from worldsim.errors import ConfigError, nearest

__all__ = [
    "KINDS",
    "Part",
    "config_class",
    "find_part",
    "import_parts",
    "name_of",
    "names",
    "register",
]

KINDS = ("unit", "tokenizer", "generator", "sampler", "condition", "objective", "source", "reward", "recipe")

_GROUP = "worldsim.parts"
"""Group of entry points whose modules register parts."""
_VARIABLE = "WORLDSIM_IMPORT"
"""Environment variable with the modules that were imported by ``--import``, for processes started later."""

C = TypeVar("C", bound=type)

_classes: dict[tuple[str, str], type] = {}
_names: dict[type, tuple[str, str]] = {}
_searched: list[bool] = []
"""Not empty once the entry points and the environment variable were read."""


@dataclass(frozen=True, slots=True)
class Part:
    """Annotation of a config field that holds a registered part of one kind."""

    kind: str


def register(kind: str, name: str) -> Callable[[C], C]:
    """Register a config dataclass under ``name``.

    Raises:
        ConfigError: an unknown kind, a class that is no dataclass, or a name that another class has.
    """
    if kind not in KINDS:
        raise ConfigError(f"a part's kind must be one of {', '.join(KINDS)}", kind, nearest(kind, KINDS))

    def decorate(cls: C) -> C:
        if not is_dataclass(cls):
            raise ConfigError("a part must be registered by its config dataclass", cls.__name__)
        other = _classes.get((kind, name))
        if other is not None and _home(other) != _home(cls):
            raise ConfigError(f"a {kind}'s name must be free", name, f"{_home(other)} has it")
        _classes[kind, name] = cls
        _names[cls] = (kind, name)
        return cls

    return decorate


def names(kind: str) -> tuple[str, ...]:
    """The registered names of a kind, sorted; those of installed packages included.

    Raises:
        ConfigError: a module of such a package cannot be imported.
    """
    _import_installed()
    return tuple(sorted(name for other, name in _classes if other == kind))


def config_class(kind: str, name: str) -> type:
    """The config class of a registered part.

    Raises:
        ConfigError: no part of this kind has this name; the nearest is given.
    """
    if (kind, name) not in _classes:
        known = names(kind)
        if name not in known:
            rule = f"a {kind} must be one of {', '.join(known)}"
            remedy = "import the module that registers it, e.g. by worldsim --import MODULE"
            raise ConfigError(rule, name, nearest(str(name), known) or remedy)
    return _classes[kind, name]


def find_part(kind: str, name: str) -> type:
    """The config class of a part that a person names: "name", or "module:name" to import its module first.

    Raises:
        ConfigError: the module cannot be imported, or no part of this kind has this name.
    """
    module, colon, plain = name.rpartition(":")
    if colon:
        import_parts(module)
    return config_class(kind, plain)


def import_parts(module: str) -> None:
    """Import a module that registers parts, here and in processes started later.

    It may lie in the current folder.

    Raises:
        ConfigError: there is no such module, or importing it fails.
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # last: it shadows nothing that is installed
    try:
        importlib.import_module(module)
    except ConfigError:
        raise
    except Exception as error:  # a stranger's module: whatever it does is told as its own fault
        rule = "a module of parts must import"
        remedy = "install its package, or start where its file lies"
        raise ConfigError(rule, f"{module}: {type(error).__name__}: {error}", remedy) from error
    before = [name for name in os.environ.get(_VARIABLE, "").split(",") if name]
    os.environ[_VARIABLE] = ",".join(dict.fromkeys([*before, module]))


def _import_installed() -> None:
    """Import the modules of the entry points and of the environment variable, once in a process."""
    if _searched:
        return
    _searched.append(True)
    for module in os.environ.get(_VARIABLE, "").split(","):
        if module:
            import_parts(module)
    for point in entry_points(group=_GROUP):
        import_parts(point.module)


def name_of(cls: type) -> tuple[str, str] | None:
    """Kind and name that a config class is registered under; None where it is not."""
    return _names.get(cls)


def _home(cls: type) -> str:
    """A class's full name: a module that is imported twice registers the same part.

    A program that is run is called ``__main__``, and ``__mp_main__`` in its worker processes.
    """
    module, main = cls.__module__, sys.modules.get(cls.__module__)
    if module in ("__main__", "__mp_main__") and (file := getattr(main, "__file__", None)):
        module = Path(file).stem
    return f"{module}.{cls.__qualname__}"
