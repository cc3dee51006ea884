"""An explorer that walks by what it sees of the imagined world: its frames and, where there are any, its
poses.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from worldsim import camera
from worldsim.agents.random import RandomAgent
from worldsim.controls import Control, ControlSpace

if TYPE_CHECKING:
    from worldsim.agents.agent import AgentView

HEADINGS = 12
Square = tuple[int, int]
BLOCKED_AFTER = 3  # frames without getting on
LONGEST_TURN = 40  # frames; a dream may refuse to turn
BACK_OFF = 6  # frames of stepping back from a wall, so that the view opens while it turns
CLOSE_ENOUGH = 0.15  # radians to the heading that was chosen


class ScriptedAgent:
    """Goes forward, turns where it is stopped or the view is blank, prefers places where it has not been,
    strafes at times.

    It needs a key "forward" and a way to turn; in a world without these it holds random keys for a while
    each. ``cell`` is the size, in metres, of the squares in which it remembers where it has been.
    """

    name = "scripted"

    def __init__(self, cell: float = 1.5) -> None:
        self.cell = cell
        self._fallback = RandomAgent()
        self.reset()

    def reset(self) -> None:
        """Forget the walk so far."""
        self._fallback.reset()
        self._visits: Counter[Square] = Counter()
        self._walls: Counter[tuple[Square, int]] = Counter()
        self._last: tuple[np.ndarray | None, np.ndarray] | None = None
        self._usual_motion = 0.0
        self._usual_detail = 0.0
        self._stopped = 0
        self._blank = 0
        self._was_forward = False
        self._hemmed = False  # turn on the spot
        self._turn = 0  # +1 left, -1 right, 0 straight on
        self._turn_frames = self._longest = 0  # frames turned so far, and at most
        self._heading: float | None = None
        self._strafe: tuple[str, int] = ("", 0)

    def __call__(self, view: AgentView, space: ControlSpace, rng: np.random.Generator) -> Control:
        """The control for the next frame."""
        if "forward" not in space.keys or not (space.yaw or {"turn_left", "turn_right"} <= set(space.keys)):
            return self._fallback(view, space, rng)
        place = None if view.pose is None else camera.planar(view.pose)
        self._look_around(place, np.asarray(view.frame))
        if self._turn:
            self._keep_turning(place)
        elif self._stopped >= BLOCKED_AFTER or self._blank >= 2 * BLOCKED_AFTER:
            self._avoid(place, rng)
        elif rng.random() < 1 / 30:
            self._hemmed = False
            self._choose_turn(place, rng)
        return self._control(space, rng)

    def _look_around(self, place: np.ndarray | None, frame: np.ndarray) -> None:
        """Compare with the frame before: have we moved, and is there anything to see?"""
        grey = frame.mean(axis=-1)
        detail = float(np.abs(np.diff(_middle(grey), axis=1)).mean())
        self._usual_detail = max(detail, 0.99 * self._usual_detail)
        self._blank = self._blank + 1 if detail < 0.15 * self._usual_detail else 0
        if self._last is not None and self._was_forward and not self._turn:
            motion = _motion(self._last, (place, grey))
            self._usual_motion = max(motion, 0.99 * self._usual_motion)
            self._stopped = self._stopped + 1 if motion < 0.5 * self._usual_motion else 0
        if place is not None:
            self._visits[self._square(place[0], place[1])] += 1
        self._last = (place, grey)

    def _avoid(self, place: np.ndarray | None, rng: np.random.Generator) -> None:
        if place is not None:
            self._walls[self._square(place[0], place[1]), _sector(place[3])] += 1
        self._hemmed = True
        self._strafe = ("", 0)
        self._choose_turn(place, rng)
        self._stopped = self._blank = 0

    def _choose_turn(self, place: np.ndarray | None, rng: np.random.Generator) -> None:
        self._turn_frames, self._longest = 0, LONGEST_TURN
        if place is None:
            self._heading = None
            self._turn = int(rng.choice((-1, 1)))
            self._longest = int(rng.integers(8, 22))
            return
        yaw = float(place[3])
        least = 2 if self._hemmed else 1  # a wall is not passed by turning a little
        offsets = np.arange(least, HEADINGS + 1 - least) * (2 * math.pi / HEADINGS)
        tried = np.array([self._tried(place, yaw + offset) for offset in offsets])
        turn = 1.0 - np.abs(np.pi - offsets) / np.pi  # turning takes time: 0 straight on, 1 right round
        best = float(offsets[np.argmin(np.log1p(tried) + turn + rng.gumbel(0.0, 0.3, len(offsets)))])
        self._heading = yaw + best
        self._turn = 1 if best <= math.pi else -1

    def _tried(self, place: np.ndarray, yaw: float) -> float:
        """Number of visits to the squares ahead in this direction; blocked attempts count 20 each."""
        steps = self.cell * np.arange(1, 4)
        squares = {self._square(place[0] + s * math.cos(yaw), place[1] + s * math.sin(yaw)) for s in steps}
        wall = self._walls[self._square(place[0], place[1]), _sector(yaw)]
        return float(sum(self._visits[square] for square in squares)) + 20 * wall

    def _keep_turning(self, place: np.ndarray | None) -> None:
        self._turn_frames += 1
        facing = False
        if place is not None and self._heading is not None:
            left = math.remainder(self._heading - float(place[3]), 2 * math.pi)
            facing = abs(left) < CLOSE_ENOUGH or (left < 0) == (self._turn > 0)
            facing = facing and abs(left) < math.pi / 2  # across the back the sign says nothing
        if facing or self._turn_frames >= self._longest:
            self._turn, self._stopped, self._blank = 0, 0, 0

    def _control(self, space: ControlSpace, rng: np.random.Generator) -> Control:
        keys = self._gait(space)
        yaw = 0.0
        if self._turn and "turn_left" in space.keys:
            keys.add("turn_left" if self._turn > 0 else "turn_right")
        elif self._turn:
            yaw = -0.08 * self._turn
        else:
            keys |= self._sidestep(space, rng)
        self._was_forward = "forward" in keys
        return Control(keys=frozenset(keys), yaw=yaw)

    def _gait(self, space: ControlSpace) -> set[str]:
        if not (self._turn and self._hemmed):
            return {"forward"}
        backing = self._turn_frames < BACK_OFF and "backward" in space.keys
        return {"backward"} if backing else set()

    def _sidestep(self, space: ControlSpace, rng: np.random.Generator) -> set[str]:
        key, frames = self._strafe
        if frames > 0:
            self._strafe = (key, frames - 1)
            return {key}
        sides = [name for name in ("strafe_left", "strafe_right") if name in space.keys]
        if sides and rng.random() < 1 / 50:
            self._strafe = (str(rng.choice(sides)), int(rng.integers(4, 12)))
        return set()

    def _square(self, x: float, y: float) -> Square:
        return math.floor(x / self.cell), math.floor(y / self.cell)


def _sector(yaw: float) -> int:
    return round(yaw / (2 * math.pi / HEADINGS)) % HEADINGS


def _middle(grey: np.ndarray) -> np.ndarray:
    h, w = grey.shape
    return grey[h // 4 : max(3 * h // 4, 1), w // 4 : max(3 * w // 4, 2)]


def _motion(before: tuple[np.ndarray | None, np.ndarray], now: tuple[np.ndarray | None, np.ndarray]) -> float:
    """Metres walked in the direction that is faced, where poses tell, else the mean change of the picture.

    Sliding along a wall is thus hardly motion.
    """
    if before[0] is not None and now[0] is not None:
        (x0, y0, _, yaw), (x1, y1, _, _) = before[0], now[0]
        return float((x1 - x0) * math.cos(yaw) + (y1 - y0) * math.sin(yaw))
    return float(np.abs(now[1] - before[1]).mean())
