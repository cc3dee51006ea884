"""Exploration policies for recordings: random keys and actions, alternation, depth following, goal seeking.

They are privileged: they see depth, poses and the map. Each depends on its observations and its random
generator only, so a seed fixes an episode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from worldsim.camera import planar
from worldsim.controls import Control, ControlSpace
from worldsim.envs.floor_plan import FloorPlan
from worldsim.envs.sources.source import Observation

__all__ = [
    "AlternatingPolicy",
    "DepthFollowingPolicy",
    "ExplorationPolicy",
    "GoalSeekingPolicy",
    "Intent",
    "PolicyMixture",
    "RandomActionPolicy",
    "StickyRandomPolicy",
]

_ACTUATED = {"forward", "turn_left", "turn_right"}


@dataclass(frozen=True)
class Intent:
    """Intent of a policy in one frame: keys other than the turning ones, and a turn."""

    keys: frozenset[str] = frozenset()
    turn: float = 0.0
    """Angle still to turn in radians, positive to the right."""
    action: tuple[float, ...] | None = None
    """Continuous action, where the source takes one."""


class ExplorationPolicy(Protocol):
    """A policy that runs until it is done."""

    def act(self, seen: Observation) -> Intent:
        """Return the intent of the next frame."""

    def done(self) -> bool:
        """Return True if another policy should take over."""


class StickyRandomPolicy:
    """Random keys, each held for a while: a discrete action or any subset."""

    def __init__(self, space: ControlSpace, rng: np.random.Generator, frames: int) -> None:
        self._space = space
        self._rng = rng
        self._left = frames
        self._hold = 0
        self._keys: frozenset[str] = frozenset()

    def act(self, seen: Observation) -> Intent:
        if self._hold <= 0:
            self._keys = self._draw()
            self._hold = int(self._rng.integers(2, 16))
        self._hold -= 1
        self._left -= 1
        return Intent(self._keys)

    def done(self) -> bool:
        return self._left <= 0

    def _draw(self) -> frozenset[str]:
        if self._rng.random() < 0.5:
            return frozenset(
                self._space.discrete_actions[self._rng.integers(len(self._space.discrete_actions))]
            )
        down = self._rng.random(len(self._space.keys)) < 0.25
        return frozenset(key for key, is_down in zip(self._space.keys, down, strict=True) if is_down)


class RandomActionPolicy:
    """Random continuous actions, each held for a while: 0, a bound or any number on each axis."""

    def __init__(self, space: ControlSpace, rng: np.random.Generator, frames: int) -> None:
        assert space.action is not None, "the source takes continuous actions"
        self._low, self._high = np.array(space.action.low), np.array(space.action.high)
        self._rng, self._left, self._hold = rng, frames, 0
        self._action: tuple[float, ...] = ()

    def act(self, seen: Observation) -> Intent:
        if self._hold <= 0:
            self._action = self._draw()
            self._hold = int(self._rng.integers(2, 16))
        self._hold -= 1
        self._left -= 1
        return Intent(action=self._action)

    def done(self) -> bool:
        return self._left <= 0

    def _draw(self) -> tuple[float, ...]:
        low, high, kind = self._low, self._high, self._rng.random(len(self._low))
        bound = np.where(self._rng.random(len(low)) < 0.5, low, high)
        anything = self._rng.uniform(low, high)
        drawn = np.where(kind < 0.3, np.clip(0, low, high), np.where(kind < 0.5, bound, anything))
        return tuple(drawn.tolist())


class AlternatingPolicy:
    """Two discrete actions in alternation, each held for about as long as the other.

    In many games it survives longer than random keys, and so records later parts of an episode.
    """

    def __init__(self, space: ControlSpace, rng: np.random.Generator, frames: int) -> None:
        self._space, self._rng, self._left = space, rng, frames
        some = rng.permutation(len(space.discrete_actions))[:2]
        self._turns = [frozenset(space.discrete_actions[number]) for number in some]
        self._period = int(rng.integers(6, 70))
        self._now, self._hold = 0, self._period

    def act(self, seen: Observation) -> Intent:
        if self._hold <= 0:
            self._now += 1
            self._hold = max(1, int(self._period * self._rng.uniform(0.5, 1.5)))
        self._hold -= 1
        self._left -= 1
        return Intent(self._turns[self._now % len(self._turns)])

    def done(self) -> bool:
        return self._left <= 0


class DepthFollowingPolicy:
    """Walks ahead while there is room, else turns to a direction in which the view is deep."""

    _ROOM = 1.8
    """Metres ahead below which it turns away."""

    def __init__(self, rng: np.random.Generator, frames: int, field_of_view: float) -> None:
        self._rng = rng
        self._left = frames
        self._half_view = 0.5 * field_of_view
        self._heading: float | None = None
        self._until = 0

    def act(self, seen: Observation) -> Intent:
        assert seen.pose is not None, "an explorer needs poses"
        assert seen.depth is not None, "an explorer needs depth"
        self._left -= 1
        self._until -= 1
        yaw = float(planar(seen.pose)[3])
        room = clearance(seen)
        if self._heading is None or self._until <= 0 or room < self._ROOM:
            self._choose(seen.depth, yaw, room)
        assert self._heading is not None
        turn = _wrapped(yaw - self._heading)
        is_clear = room > self._ROOM and abs(turn) < 0.8
        return Intent(frozenset({"forward"} if is_clear else ()), turn)

    def done(self) -> bool:
        return self._left <= 0

    def _choose(self, depth: np.ndarray, yaw: float, room: float) -> None:
        """A new heading: a direction in view, the deeper the likelier; far round where all of it is near."""
        if self._heading is not None and abs(_wrapped(yaw - self._heading)) > 0.15 and room < self._ROOM:
            return  # still on its way round
        rows = depth[depth.shape[0] // 2 - 4 : depth.shape[0] // 2 + 4].mean(0)
        if rows.max() < 1.5 * self._ROOM:
            turn = self._rng.choice((-1, 1)) * self._rng.uniform(1.6, 3.0)
        else:
            column = self._rng.choice(rows.size, p=rows**2 / (rows**2).sum())
            offset = (column + 0.5) / rows.size * 2 - 1
            turn = math.atan(offset * math.tan(self._half_view))
        self._heading = yaw - turn
        self._until = int(self._rng.integers(15, 60))


class GoalSeekingPolicy:
    """Walks to the cells of the map that this episode visited least, and turns around there.

    Args:
        plan: the map.
        visits: ``float [nx, ny]``, counts of this episode's frames by cell; shared, read only.
        rng: the only source of randomness.
        side: angle in radians between the way it goes and the way it looks: 0 ahead, pi backwards.
    """

    def __init__(
        self, plan: FloorPlan, visits: np.ndarray, rng: np.random.Generator, side: float = 0.0
    ) -> None:
        self._plan = plan
        self._rng = rng
        self._side = side
        weights = np.where(plan.free, 1 / (1 + visits) ** 2, 0).ravel()
        goal = rng.choice(weights.size, p=weights / weights.sum())
        self._steps = plan.distances((int(goal // plan.shape[1]), int(goal % plan.shape[1])))
        self._looks = int(rng.integers(1, 3))
        self._heading: float | None = None
        self._left = 400

    def act(self, seen: Observation) -> Intent:
        assert seen.pose is not None, "a seeker needs poses"
        x, y, _, yaw = planar(seen.pose).tolist()
        self._left -= 1
        way = self._plan.path(np.array((x, y)), self._steps, 5)
        if len(way) <= 2:
            return self._look_around(np.array((x, y)), yaw)
        dx, dy = way[-1] - (x, y)
        direction = math.atan2(dy, dx)
        turn = _wrapped(yaw - direction + self._side)
        return Intent(_towards(_wrapped(direction - yaw)), turn)

    def done(self) -> bool:
        return self._left <= 0 or self._looks <= 0

    def _look_around(self, position: np.ndarray, yaw: float) -> Intent:
        if self._heading is None:
            headings = yaw + self._rng.uniform(-2.2, 2.2, 4)
            # Towards the deepest of a few views, as a wall shows little.
            self._heading = float(max(headings, key=lambda heading: self._plan.view(position, heading)))
        turn = _wrapped(yaw - self._heading)
        if abs(turn) < 0.12:
            self._looks -= 1
            self._heading = None
        return Intent(frozenset(), turn)


@dataclass
class _Actuator:
    """Turns an intent into a control, with the turning keys or with the mouse."""

    space: ControlSpace
    rng: np.random.Generator
    by_mouse: bool = False
    _sway: float = field(default=0.0, init=False)

    def control(self, intent: Intent) -> Control:
        keys = intent.keys & set(self.space.keys)
        if self.by_mouse and self.space.yaw:
            self._sway = 0.8 * self._sway + 0.02 * self.rng.normal()
            speed = float(np.clip(0.35 * intent.turn, -0.3, 0.3)) + self._sway
            yaw = float(np.float32(speed))  # as it will be recorded
            return Control(keys, yaw=yaw, action=intent.action)
        if abs(intent.turn) > 0.07:
            turn = "turn_right" if intent.turn > 0 else "turn_left"
            keys |= {turn} & set(self.space.keys)
        return Control(keys, action=intent.action)


class PolicyMixture:
    """Random segments of all policies that a source allows; a fifth of them turn by mouse.

    Without poses and a map only random keys and alternation remain. A source with continuous actions is
    played by them in half of the segments, in all where it has no keys. A camera that faces a wall for more
    than a third of a second is handed to the depth-following policy.

    Args:
        space: the source's controls.
        plan: its map, or None.
        rng: the only source of randomness.
        field_of_view: the horizontal one, in radians.
    """

    def __init__(
        self,
        space: ControlSpace,
        plan: FloorPlan | None,
        rng: np.random.Generator,
        field_of_view: float = math.pi / 2,
    ) -> None:
        self._space = space
        self._plan = plan if set(space.keys) >= _ACTUATED else None
        self._rng = rng
        self._field_of_view = field_of_view
        self._visits = None if self._plan is None else np.zeros(self._plan.shape)
        self._stare = 0
        self._now: ExplorationPolicy
        self._actuator, self._now = self._draw()

    @property
    def is_blind(self) -> bool:
        """True if it does not depend on its observations."""
        return self._plan is None

    def act(self, seen: Observation) -> Control:
        """The control of the next frame."""
        self._note(seen)
        if self._now.done():
            self._actuator, self._now = self._draw()
        elif self._stare > 6 and not isinstance(self._now, DepthFollowingPolicy):
            self._now = DepthFollowingPolicy(self._rng, int(self._rng.integers(20, 50)), self._field_of_view)
        return self._actuator.control(self._now.act(seen))

    def _note(self, seen: Observation) -> None:
        if self._plan is None or self._visits is None or seen.pose is None:
            return
        self._visits[self._plan.cell_of(seen.pose[:2, 3])] += 1
        self._stare = self._stare + 1 if clearance(seen) < 1.2 else 0

    def _draw(self) -> tuple[_Actuator, ExplorationPolicy]:
        rng = self._rng
        actuator = _Actuator(self._space, rng, by_mouse=bool(rng.random() < 0.2))
        if self._space.action is not None and (not self._space.keys or rng.random() < 0.5):
            return actuator, RandomActionPolicy(self._space, rng, int(rng.integers(30, 200)))
        draw = rng.random()
        if self._plan is None and draw < 0.5:
            return actuator, AlternatingPolicy(self._space, rng, int(rng.integers(70, 400)))
        if self._plan is None or self._visits is None or draw < 0.2:
            return actuator, StickyRandomPolicy(self._space, rng, int(rng.integers(15, 70)))
        if draw < 0.4:
            return actuator, DepthFollowingPolicy(rng, int(rng.integers(40, 150)), self._field_of_view)
        side = rng.choice((0.0, math.pi, math.pi / 2, -math.pi / 2), p=(0.8, 0.1, 0.05, 0.05))
        return actuator, GoalSeekingPolicy(self._plan, self._visits, rng, float(side))


def clearance(seen: Observation) -> float:
    """Metres of room ahead, in the middle of the view; infinite without depth."""
    if seen.depth is None:
        return math.inf
    h, w = seen.depth.shape
    return float(np.percentile(seen.depth[h * 2 // 5 : h * 3 // 5, w * 3 // 8 : w * 5 // 8], 25))


def _towards(angle: float) -> frozenset[str]:
    """The keys that move along ``angle``, in radians to the left of the view."""
    keys = set()
    if math.cos(angle) > 0.38:
        keys.add("forward")
    elif math.cos(angle) < -0.38:
        keys.add("backward")
    if math.sin(angle) > 0.38:
        keys.add("strafe_left")
    elif math.sin(angle) < -0.38:
        keys.add("strafe_right")
    return frozenset(keys)


def _wrapped(angle: float) -> float:
    """The same angle in [-pi, pi]."""
    return math.remainder(angle, 2 * math.pi)
