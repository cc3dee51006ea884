"""Are keys obeyed? Every key alone from the same real moments, in the environment and in the dream.

The keys of a pair pull opposite ways; a world is credited with a pair only if both dreams go the right way.
Only what the environment itself does from that moment counts: nobody walks through a wall.

Shapes: N moments, C choices (no key, then each key), F frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from worldsim.controls import Control
from worldsim.engine.world import World
from worldsim.evaluation.figure import Figure, estimate, figure
from worldsim.evaluation.judge import Judge, planar_motion, small
from worldsim.evaluation.stage import Moment, Stage, act

__all__ = ["KEY_FRAMES", "Pulls", "choices", "confusion", "dreamt_pulls", "key_figures", "real_pulls"]

KEY_FRAMES = 14
"""How long a key is held."""
_SETTLED = 4
"""Frames in which the motion from before may die away."""
_PULLS = {
    "forward": (0, 1), "backward": (0, -1), "strafe_right": (1, 1), "strafe_left": (1, -1),
    "turn_right": (2, 1), "turn_left": (2, -1),
}  # fmt: skip
"""Which way a key goes: axis of the judge's motions, and sign."""
_PAIRS = (("forward", "backward"), ("strafe_left", "strafe_right"), ("turn_left", "turn_right"))
_LEAST = (0.3, 0.3, 0.2)
"""Metres and radians that the environment must go for a key to count."""

Pulls = Mapping[str, np.ndarray]
"""``motion`` [N, C, F, 3]: as the judge sees it; ``true`` [N, C, F, 3]: by the environment's poses."""


@dataclass(frozen=True, slots=True)
class _Net:
    """Net motions ``[N, C, 3]`` after the first frames."""

    dream: np.ndarray
    judged: np.ndarray
    """The environment's, as the judge sees it."""
    true: np.ndarray


def choices(keys: tuple[str, ...]) -> tuple[str | None, ...]:
    """What is held: nothing, or one of the keys whose way is known."""
    return (None, *(key for key in keys if key in _PULLS))


def real_pulls(stage: Stage, judge: Judge, moments: list[Moment]) -> tuple[Pulls, list[Moment]]:
    """The environment under every choice, and the moments from which no choice ends the episode."""
    motion, true, kept = [], [], []
    for moment in moments:
        runs = [
            act(stage, moment, [_control(key)] * KEY_FRAMES) for key in choices(stage.spec.control_space.keys)
        ]
        frames = [small(run.frames) for run in runs if run is not None]
        poses = [run.poses for run in runs if run is not None and run.poses is not None]
        if len(poses) == len(runs):
            motion.append(judge.read(np.stack(frames)).motion)
            true.append(planar_motion(np.stack(poses)))
            kept.append(moment)
    empty = np.zeros((0, len(choices(stage.spec.control_space.keys)), KEY_FRAMES, 3))
    return {"motion": np.stack(motion) if motion else empty, "true": np.stack(true) if true else empty}, kept


def dreamt_pulls(world: World, judge: Judge, moments: list[Moment], steps: int, seed: int) -> np.ndarray:
    """``motion`` [N, C, F, 3] of the dream; all choices of a moment share past and chance."""
    held = choices(world.spec.control_space.keys)
    engine = world.engine(slots=len(moments) * len(held), steps=steps, history=0)
    rows = []
    for i, moment in enumerate(moments):
        first = engine.open(seed + i, moment.context.newest(engine.context))
        rows.append([first, *first.fork(len(held) - 1)])
    frames = [[[small(session.frame)] for session in row] for row in rows]
    controls = {session: _control(key) for row in rows for session, key in zip(row, held, strict=True)}
    for _ in range(KEY_FRAMES):
        steps_of = engine.step(controls)
        for row, shown in zip(rows, frames, strict=True):
            for session, clip in zip(row, shown, strict=True):
                clip.append(small(steps_of[session].frame))
    return np.stack([judge.read(np.array(clips)).motion for clips in frames])


def key_figures(dream: np.ndarray, real: Pulls, keys: tuple[str, ...]) -> dict[str, Figure]:
    """``key_pairs`` and ``key_latency``; empty where the environment lets no key be told."""
    net, held = _net(dream, real), choices(keys)
    right, judged, can = [], [], []
    for pair in _PAIRS:
        if set(pair) <= set(held):
            able = np.logical_and.reduce([_goes(net.true, held, key, _LEAST) for key in pair])
            can.append(able)
            right.append(able & np.logical_and.reduce([_goes(net.dream, held, key) for key in pair]))
            judged.append(able & np.logical_and.reduce([_goes(net.judged, held, key) for key in pair]))
    if not can or not np.any(can):
        return {}
    over = np.stack(can, 1).astype(float)
    figures = {
        "key_pairs": figure(
            estimate(np.stack(right, 1), over),
            "opposite keys from the same moment and chance: both dreams go the right way; "
            "floor: two coins; ceiling: the judge on the environment's frames",
            unit="share",
            floor=0.25,
            ceiling=estimate(np.stack(judged, 1), over).value,
        )
    }
    late, soonest, able = _latencies(dream, real, held)
    return figures | {
        "key_latency": figure(
            estimate(late, able),
            f"frames until a key shows, of {KEY_FRAMES}; ceiling: the environment's, as the judge sees it",
            unit="frames",
            floor=float(KEY_FRAMES + 1),
            ceiling=estimate(soonest, able).value,
        )
    }


def confusion(motion: np.ndarray, real: Pulls, keys: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray]:
    """Names, and ``int64 [C, C]``: how often a held key (row) looked like which (column).

    A net motion looks like the key along whose way it goes furthest, measured by what the environment does
    under that key, and like none where that is less than a third. Only where the environment's own motion
    looks like the key does it count: along a wall one slides elsewhere.
    """
    held = choices(keys)
    net, true = motion[:, :, _SETTLED:].sum(2), real["true"][:, :, _SETTLED:].sum(2)
    usual = np.ones(3)
    for axis in range(3):
        own = [np.abs(true[:, i, axis]) for i, key in enumerate(held) if key and _PULLS[key][0] == axis]
        usual[axis] = max(np.median(own), 1e-3) if own else np.inf
    table = np.zeros((len(held), len(held)), np.int64)
    seen, truth = _looks(net / usual, held), _looks(true / usual, held)
    for i in range(len(held)):
        np.add.at(table[i], seen[truth[:, i] == i, i], 1)
    return tuple(key or "none" for key in held), table


def _looks(net: np.ndarray, held: tuple[str | None, ...]) -> np.ndarray:
    """Which choice each net motion [..., 3], in usual ways, looks like."""
    pulls = [_PULLS[key] for key in held if key]
    along = [np.full(net.shape[:-1], 1 / 3), *(sign * net[..., axis] for axis, sign in pulls)]
    looks: np.ndarray = np.argmax(np.stack(along, -1), -1)
    return looks


def _net(dream: np.ndarray, real: Pulls) -> _Net:
    return _Net(*(motion[:, :, _SETTLED:].sum(2) for motion in (dream, real["motion"], real["true"])))


def _goes(
    net: np.ndarray, held: tuple[str | None, ...], key: str, least: tuple[float, ...] = (0.0, 0.0, 0.0)
) -> np.ndarray:
    """``bool [N]``: whether the net motions [N, C, 3] under ``key`` go its way, and at least so far."""
    axis, sign = _PULLS[key]
    along: np.ndarray = sign * net[:, held.index(key), axis] > least[axis]
    return along


def _latencies(
    dream: np.ndarray, real: Pulls, held: tuple[str | None, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames [N, keys] until dream and environment show a key, 0 where it does not count; and if it does.

    A key shows where the motion differs from that without keys by a third of what it comes
    to in the environment.
    """
    late, soonest, able = [], [], []
    for i, key in enumerate(held):
        if key is None:
            continue
        axis, sign = _PULLS[key]
        pulls = [sign * (motion[:, i] - motion[:, 0])[..., axis] for motion in (dream, real["motion"])]
        goes = _goes(real["true"][:, :, _SETTLED:].sum(2), held, key, _LEAST)
        enough = pulls[1][:, -5:].mean(1, keepdims=True) / 3
        goes &= enough[:, 0] > 0
        first, usual = (_first(pull > enough) for pull in pulls)
        late.append(first * goes)
        soonest.append(usual * goes)
        able.append(goes)
    return np.stack(late, 1), np.stack(soonest, 1), np.stack(able, 1).astype(float)


def _first(shows: np.ndarray) -> np.ndarray:
    """The first frame [N], from 1, at which ``bool [N, F]`` holds; one past the last where it never does."""
    first: np.ndarray = np.where(shows.any(1), shows.argmax(1) + 1, shows.shape[1] + 1)
    return first


def _control(key: str | None) -> Control:
    return Control([key] if key else ())
