"""Sources by name."""

from __future__ import annotations

from worldsim.envs.sources.source import Source
from worldsim.errors import SourceError, nearest

__all__ = ["make_source", "source_names"]

_GYM = "gym:"


def source_names() -> tuple[str, ...]:
    """The named sources; besides these, ``gym:<id>`` is any Gymnasium environment that renders pixels."""
    from worldsim.envs.sources.doom import SCENARIOS

    return tuple(SCENARIOS)


def make_source(
    name: str, size: tuple[int, int] | None = None, *, depth: bool = False, labels: bool = False
) -> Source:
    """Open the source ``name``.

    Args:
        name: "doom-maze", "take-cover", or "gym:<id>".
        size: height and width of the frames; by default the source's own.
        depth: whether observations carry a depth map, where the source can give one.
        labels: whether observations tell where objects are seen, where the source knows it.

    Raises:
        SourceError: an unknown name (the nearest is given), or a size that the source cannot render.
        DependencyError: the package behind the source is missing.
    """
    if name.startswith(_GYM):
        from worldsim.envs.sources.gym import GymSource

        return GymSource(name.removeprefix(_GYM), size)
    if name not in source_names():
        known = [*source_names(), "gym:<id>"]
        raise SourceError("a source must be known by name", name, nearest(name, known))
    from worldsim.envs.sources.doom import DoomSource

    return DoomSource(name, size, depth=depth, labels=labels)
