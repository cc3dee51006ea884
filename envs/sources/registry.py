"""Sources by name."""

from __future__ import annotations

from worldsim import registry
from worldsim.envs.sources.source import Source, SourceConfig
from worldsim.errors import SourceError, nearest

__all__ = ["make_source", "source_names"]

_GYM = "gym:"


def source_names() -> tuple[str, ...]:
    """The shipped sources; besides these, ``gym:<id>`` is any Gymnasium environment that renders pixels."""
    from worldsim.envs.sources.doom import SCENARIOS

    return tuple(SCENARIOS)


def make_source(
    name: str, size: tuple[int, int] | None = None, *, depth: bool = False, labels: bool = False
) -> Source:
    """Open the source ``name``.

    Args:
        name: one of ``source_names``, "gym:<id>", or a source of your own: the name that it is registered
            by, or "module:name" to import its module first.
        size: height and width of the frames; by default the source's own.
        depth: whether observations carry a depth map, where the source can give one.
        labels: whether observations tell where objects are seen, where the source knows it.

    Raises:
        SourceError: an unknown name (the nearest is given), or a size that the source cannot render.
        ConfigError: the module of "module:name" cannot be imported, or registers no such source.
        DependencyError: the package behind the source is missing.
    """
    if name.startswith(_GYM):
        from worldsim.envs.sources.gym import GymSource

        return GymSource(name.removeprefix(_GYM), size)
    if ":" in name or name in registry.names("source"):
        config: SourceConfig = registry.find_part("source", name)()
        return config.build(size, depth=depth, labels=labels)
    if name not in source_names():
        known = [*source_names(), *registry.names("source"), "gym:<id>", "module:name"]
        raise SourceError("a source must be known by name", name, nearest(name, known))
    from worldsim.envs.sources.doom import DoomSource

    return DoomSource(name, size, depth=depth, labels=labels)
