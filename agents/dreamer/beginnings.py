"""Contexts that dreams begin with: of real episodes played for it, or of recorded ones.

A policy that only ever begins where episodes do learns little about what comes late in them, as imagined
episodes leave the real ones the longer they last. Dreams that begin anywhere in recorded episodes show it
([DreamerV3] imagines from states of its replay buffer).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from worldsim.context import Context
from worldsim.data.clips import ClipStore
from worldsim.engine.world import World
from worldsim.envs.sources import make_source
from worldsim.errors import DataError

__all__ = ["real_beginnings", "recorded_beginnings"]

_FIRST_SEED = 3_000_000_000
"""First seed of the real episodes whose beginnings dreams start from; scored episodes lie above."""
_FRAMES = 8
"""Frames of a recorded beginning."""
_LEFT = 4
"""Frames that an episode goes on after a recorded beginning, at least."""


def real_beginnings(world: World, count: int, seed: int) -> list[Context]:
    """The first frames of ``count`` real episodes, under random keys: where dreams begin."""
    space, rng = world.spec.control_space, np.random.default_rng((seed, 3))
    source, found = make_source(world.spec.name, world.spec.size), []
    try:
        for number in range(count):
            seen = [source.reset(_FIRST_SEED + seed * 10_000 + number)]
            controls = [np.zeros(space.size, np.float32)]
            for _ in range(int(rng.integers(1, 8))):
                control = space.from_discrete(int(rng.integers(len(space.discrete_actions))))
                seen.append(source.step(control))
                controls.append(space.vector(control).astype(np.float32))
            poses = [one.pose for one in seen if one.pose is not None]
            given = np.stack(poses) if world.networks.has_poses else None
            found.append(Context(np.stack([one.frame for one in seen]), np.stack(controls), given))
    finally:
        source.close()
    return found


def recorded_beginnings(stores: Sequence[ClipStore], world: World, count: int, seed: int) -> list[Context]:
    """``count`` contexts of eight frames from anywhere in recorded episodes, of all stores equally many.

    Every frame of a store is equally likely to be in one.

    Raises:
        DataError: a store of another size or other controls, or without an episode that is long enough.
    """
    rng, found = np.random.default_rng((seed, 4)), list[Context]()
    for number in range(count):
        store = stores[number % len(stores)]
        _check_store(store, world)
        places = np.array([max(0, one.length - _FRAMES - _LEFT + 1) for one in store.episodes])
        if not places.sum():
            rule = f"a beginning needs a recorded episode of {_FRAMES + _LEFT} frames"
            raise DataError(
                rule, max((one.length for one in store.episodes), default=0), "record longer ones"
            )
        episode = int(rng.choice(len(places), p=places / places.sum()))
        clip = store.window(episode, int(rng.integers(places[episode])), _FRAMES)
        poses = clip.poses[0] if clip.poses is not None and world.networks.has_poses else None
        found.append(Context(clip.frames[0], clip.controls[0], poses))
    return found


def _check_store(store: ClipStore, world: World) -> None:
    """Raise unless the store's frames and controls are the world's."""
    mine, theirs = world.spec, store.spec
    if (theirs.size, theirs.control_space) != (mine.size, mine.control_space):
        rule = f"dreams of {world.name} begin in recordings of {mine.size[0]}x{mine.size[1]} and its controls"
        raise DataError(rule, f"{theirs.name} {theirs.size[0]}x{theirs.size[1]}", "record the world's source")
