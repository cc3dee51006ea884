"""Action effects: every key alone from the same branch points, in the source and in rollouts.

Opposite keys form a pair; a world is credited with a pair only if both rollouts move in the right direction.
A branch point counts for a key only if the source itself moves: a wall may block it.

Shapes: N branch points, C tested actions (no key, then each key), F frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from worldsim.controls import Control
from worldsim.engine.world import World
from worldsim.evaluation.idm.model import InverseDynamicsModel, ego_motion, resize_for_idm
from worldsim.evaluation.metric import Metric, estimate, metric
from worldsim.evaluation.simulator import BranchPoint, Simulator, act

__all__ = [
    "KEY_FRAMES",
    "ActionEffects",
    "action_effect_metrics",
    "confusion",
    "imagined_effects",
    "source_effects",
    "tested_actions",
]

KEY_FRAMES = 14
"""Frames for which a key is held."""
_SETTLING = 4
"""Frames in which earlier motion may settle."""
_DIRECTIONS = {
    "forward": (0, 1), "backward": (0, -1), "strafe_right": (1, 1), "strafe_left": (1, -1),
    "turn_right": (2, 1), "turn_left": (2, -1),
}  # fmt: skip
"""Direction of a key: axis of the IDM's motions, and sign."""
_PAIRS = (("forward", "backward"), ("strafe_left", "strafe_right"), ("turn_left", "turn_right"))
_MIN_MOTION = (0.3, 0.3, 0.2)
"""Minimum motion of the source, in metres and radians, for a key to count."""

ActionEffects = Mapping[str, np.ndarray]
"""``motion`` [N, C, F, 3]: as the IDM sees it; ``true`` [N, C, F, 3]: by the source's poses."""


@dataclass(frozen=True, slots=True)
class _Net:
    """Net motions ``[N, C, 3]`` after the first frames."""

    rollout: np.ndarray
    idm: np.ndarray
    """The source's, as the IDM sees it."""
    true: np.ndarray


def tested_actions(keys: tuple[str, ...]) -> tuple[str | None, ...]:
    """Return the tested actions: no key, then each key with a known direction."""
    return (None, *(key for key in keys if key in _DIRECTIONS))


def source_effects(
    simulator: Simulator, idm: InverseDynamicsModel, branch_points: list[BranchPoint]
) -> tuple[ActionEffects, list[BranchPoint]]:
    """Return the source's motions under every action, and the branch points where none ends it."""
    motion, true, kept = [], [], []
    for branch_point in branch_points:
        runs = [
            act(simulator, branch_point, [_control(key)] * KEY_FRAMES)
            for key in tested_actions(simulator.spec.control_space.keys)
        ]
        frames = [resize_for_idm(run.frames) for run in runs if run is not None]
        poses = [run.poses for run in runs if run is not None and run.poses is not None]
        if len(poses) == len(runs):
            motion.append(idm.predict(np.stack(frames)).motion)
            true.append(ego_motion(np.stack(poses)))
            kept.append(branch_point)
    empty = np.zeros((0, len(tested_actions(simulator.spec.control_space.keys)), KEY_FRAMES, 3))
    return {"motion": np.stack(motion) if motion else empty, "true": np.stack(true) if true else empty}, kept


def imagined_effects(
    world: World, idm: InverseDynamicsModel, branch_points: list[BranchPoint], denoising_steps: int, seed: int
) -> np.ndarray:
    """Return the motions [N, C, F, 3] of rollouts; actions of a branch point share past and seed."""
    held = tested_actions(world.spec.control_space.keys)
    engine = world.engine(
        slots=len(branch_points) * len(held), denoising_steps=denoising_steps, rewind_frames=0
    )
    rows = []
    for i, branch_point in enumerate(branch_points):
        first = engine.open(seed + i, branch_point.context.newest(engine.given_frames))
        rows.append([first, *first.fork(len(held) - 1)])
    frames = [[[resize_for_idm(session.frame)] for session in row] for row in rows]
    controls = {session: _control(key) for row in rows for session, key in zip(row, held, strict=True)}
    for _ in range(KEY_FRAMES):
        steps_of = engine.step(controls)
        for row, shown in zip(rows, frames, strict=True):
            for session, clip in zip(row, shown, strict=True):
                clip.append(resize_for_idm(steps_of[session].frame))
    return np.stack([idm.predict(np.array(clips)).motion for clips in frames])


def action_effect_metrics(
    rollout: np.ndarray, real: ActionEffects, keys: tuple[str, ...]
) -> dict[str, Metric]:
    """Return ``opposite_action_accuracy`` and ``action_latency_frames``; empty without motion."""
    net, held = _net(rollout, real), tested_actions(keys)
    right, read, can = [], [], []
    for pair in _PAIRS:
        if set(pair) <= set(held):
            able = np.logical_and.reduce([_moves_along(net.true, held, key, _MIN_MOTION) for key in pair])
            can.append(able)
            right.append(able & np.logical_and.reduce([_moves_along(net.rollout, held, key) for key in pair]))
            read.append(able & np.logical_and.reduce([_moves_along(net.idm, held, key) for key in pair]))
    if not can or not np.any(can):
        return {}
    over = np.stack(can, 1).astype(float)
    metrics = {
        "opposite_action_accuracy": metric(
            estimate(np.stack(right, 1), over),
            "opposite keys from the same branch point and seed: both rollouts move in the right direction; "
            "lower: two coins; upper: the IDM on the source's frames",
            unit="share",
            lower_reference=0.25,
            upper_reference=estimate(np.stack(read, 1), over).value,
        )
    }
    late, soonest, able = _latencies(rollout, real, held)
    return metrics | {
        "action_latency_frames": metric(
            estimate(late, able),
            f"frames until a key shows, of {KEY_FRAMES}; upper: the source's, as the IDM sees it",
            unit="frames",
            lower_reference=float(KEY_FRAMES + 1),
            upper_reference=estimate(soonest, able).value,
        )
    }


def confusion(
    motion: np.ndarray, real: ActionEffects, keys: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names, and ``int64 [C, C]``: how often a held key (row) looked like which (column).

    A net motion looks like the key along whose way it goes furthest, measured by what the source does
    under that key, and like none where that is less than a third. Only where the source's own motion
    looks like the key does it count: along a wall one slides elsewhere.
    """
    held = tested_actions(keys)
    net, true = motion[:, :, _SETTLING:].sum(2), real["true"][:, :, _SETTLING:].sum(2)
    usual = np.ones(3)
    for axis in range(3):
        own = [np.abs(true[:, i, axis]) for i, key in enumerate(held) if key and _DIRECTIONS[key][0] == axis]
        usual[axis] = max(np.median(own), 1e-3) if own else np.inf
    table = np.zeros((len(held), len(held)), np.int64)
    seen, truth = _nearest_action(net / usual, held), _nearest_action(true / usual, held)
    for i in range(len(held)):
        np.add.at(table[i], seen[truth[:, i] == i, i], 1)
    return tuple(key or "none" for key in held), table


def _nearest_action(net: np.ndarray, held: tuple[str | None, ...]) -> np.ndarray:
    """Which action each net motion [..., 3], in usual ways, looks like."""
    effects = [_DIRECTIONS[key] for key in held if key]
    along = [np.full(net.shape[:-1], 1 / 3), *(sign * net[..., axis] for axis, sign in effects)]
    looks: np.ndarray = np.argmax(np.stack(along, -1), -1)
    return looks


def _net(rollout: np.ndarray, real: ActionEffects) -> _Net:
    return _Net(*(motion[:, :, _SETTLING:].sum(2) for motion in (rollout, real["motion"], real["true"])))


def _moves_along(
    net: np.ndarray, held: tuple[str | None, ...], key: str, least: tuple[float, ...] = (0.0, 0.0, 0.0)
) -> np.ndarray:
    """``bool [N]``: whether the net motions [N, C, 3] under ``key`` go its way, and at least so far."""
    axis, sign = _DIRECTIONS[key]
    along: np.ndarray = sign * net[:, held.index(key), axis] > least[axis]
    return along


def _latencies(
    rollout: np.ndarray, real: ActionEffects, held: tuple[str | None, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames [N, keys] until rollout and source show a key, 0 where it does not count; and if it does.

    A key shows where the motion differs from that without keys by a third of what it comes
    to in the source.
    """
    late, soonest, able = [], [], []
    for i, key in enumerate(held):
        if key is None:
            continue
        axis, sign = _DIRECTIONS[key]
        effects = [sign * (motion[:, i] - motion[:, 0])[..., axis] for motion in (rollout, real["motion"])]
        goes = _moves_along(real["true"][:, :, _SETTLING:].sum(2), held, key, _MIN_MOTION)
        enough = effects[1][:, -5:].mean(1, keepdims=True) / 3
        goes &= enough[:, 0] > 0
        first, usual = (_first(effect > enough) for effect in effects)
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
