"""Units as text, as a command line names them: ``frame``, ``scales:3``, ``cube:4/2x2x2``."""

from __future__ import annotations

from worldsim.errors import ConfigError
from worldsim.registry import config_class, name_of
from worldsim.units.protocol import SizedUnitConfig, UnitConfig

__all__ = ["read_unit", "unit_text"]


def read_unit(text: str) -> UnitConfig:
    """The config of the unit that ``text`` names: a name, or "name:sizes"; a name alone has default sizes.

    The forms are ``frame``, ``scales:LEVELS``, ``key-detail:FRAMES/GROUPS`` and ``cube:FRAMES/AxBxC``.

    Raises:
        ConfigError: no unit has this name, or its sizes are written in another form.
    """
    name, colon, sizes = text.partition(":")
    made: UnitConfig = config_class("unit", name)()
    if not colon:
        return made
    if not isinstance(made, SizedUnitConfig):
        raise ConfigError(f"the unit {name} has no sizes", text, f"write {name}")
    try:
        return made.with_sizes(sizes)
    except ValueError:
        rule = f"the sizes of a unit {name} must be written as in {name}:{made.sizes}"
        raise ConfigError(rule, text) from None


def unit_text(config: UnitConfig) -> str:
    """The text that ``read_unit`` reads."""
    registered = name_of(type(config))
    name = type(config).__name__ if registered is None else registered[1]
    return f"{name}:{config.sizes}" if isinstance(config, SizedUnitConfig) else name
