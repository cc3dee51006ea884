"""Starts of sessions: held-out contexts, spread over episodes, each with its action prefix."""

from __future__ import annotations

import numpy as np

from worldsim.context import Context
from worldsim.data.clips import ClipStore
from worldsim.errors import DataError


def choose_starts(held_out: ClipStore, count: int = 32, length: int = 4, seed: int = 0) -> list[Context]:
    """``count`` contexts of ``length`` frames, taken evenly from all held-out episodes that are long enough.

    They lie early in their episodes (frames 8 to 200), so that replaying the real source to them is quick.

    Raises:
        DataError: no episode is long enough.
    """
    rng = np.random.default_rng(seed)
    long_enough = [i for i, episode in enumerate(held_out.episodes) if episode.length > length + 8]
    if not long_enough:
        rule = f"a held-out episode must have more than {length + 8} frames"
        longest = max((episode.length for episode in held_out.episodes), default=0)
        raise DataError(rule, f"at most {longest}", "record longer episodes")
    starts = []
    for n in range(count):
        number = long_enough[n % len(long_enough)]
        episode = held_out.episodes[number]
        last = int(rng.integers(length + 4, min(200, episode.length - 1)))
        clip = held_out.window(number, last - length + 1, length)
        prefix = held_out.controls_until(number, last)
        poses = None if clip.poses is None else clip.poses[0]
        starts.append(Context(clip.frames[0], clip.controls[0], poses, episode.seed, prefix))
    return starts
