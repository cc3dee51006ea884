"""Contexts that dreams begin with: the first frames of real episodes, or any frames of recorded ones.

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
    rng, places, found = np.random.default_rng((seed, 4)), [_places(one, world) for one in stores], []
    for number in range(count):
        store, begins = stores[number % len(stores)], places[number % len(stores)]
        episode = int(rng.choice(len(begins), p=begins / begins.sum()))
        clip = store.window(episode, int(rng.integers(begins[episode])), _FRAMES)
        poses = clip.poses[0] if clip.poses is not None and world.networks.has_poses else None
        found.append(Context(clip.frames[0], clip.controls[0], poses))
    return found


def _places(store: ClipStore, world: World) -> np.ndarray:
    """Number of places in each episode where a beginning fits, int64 [episodes].

    Raises:
        DataError: frames or controls that are not the world's, or no place at all.
    """
    mine, theirs = world.spec, store.spec
    if (theirs.size, theirs.control_space) != (mine.size, mine.control_space):
        rule = f"dreams of {world.name} begin in recordings of {mine.size[0]}x{mine.size[1]} and its controls"
        raise DataError(rule, f"{theirs.name} {theirs.size[0]}x{theirs.size[1]}", "record the world's source")
    lengths = np.array([one.length for one in store.episodes], np.int64)
    places = np.maximum(0, lengths - _FRAMES - _LEFT + 1)
    if not places.sum():
        rule = f"a beginning needs a recorded episode of {_FRAMES + _LEFT} frames"
        raise DataError(rule, f"at most {lengths.max(initial=0)}", "record longer episodes")
    return places
