"""Opening of a collector for a world's source."""

from __future__ import annotations

from worldsim.data.collector import Collector
from worldsim.engine.world import World

__all__ = ["open_collector"]


def open_collector(world: World, frames: int, *, labels: bool = False) -> Collector:
    """A collector of the world's source at the world's frame size, for episodes of at most ``frames`` frames.

    With ``labels`` its episodes tell where objects are seen, where the source knows it.

    Raises:
        DependencyError: the package behind the source is missing.
    """
    # Environments lie above and are optional: imported only where one is played.
    from worldsim.envs.episode_collector import EpisodeCollector

    return EpisodeCollector(world.spec.name, world.spec.size, max_frames=frames, labels=labels)
