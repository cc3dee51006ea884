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
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import TypeVar

from worldsim.errors import ConfigError, nearest

__all__ = ["KINDS", "Part", "config_class", "name_of", "names", "register"]

KINDS = ("unit", "tokenizer", "generator", "sampler", "condition", "objective", "source", "reward")

C = TypeVar("C", bound=type)

_classes: dict[tuple[str, str], type] = {}
_names: dict[type, tuple[str, str]] = {}


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
    """The registered names of a kind, sorted."""
    return tuple(sorted(name for other, name in _classes if other == kind))


def config_class(kind: str, name: str) -> type:
    """The config class of a registered part.

    Raises:
        ConfigError: no part of this kind has this name; the nearest is given.
    """
    if (kind, name) not in _classes:
        known = names(kind)
        rule = f"a {kind} must be one of {', '.join(known)}"
        raise ConfigError(rule, name, nearest(str(name), known) or "import the module that registers it")
    return _classes[kind, name]


def name_of(cls: type) -> tuple[str, str] | None:
    """Kind and name that a config class is registered under; None where it is not."""
    return _names.get(cls)


def _home(cls: type) -> str:
    """A class's full name: a module that is imported twice registers the same part."""
    return f"{cls.__module__}.{cls.__qualname__}"
