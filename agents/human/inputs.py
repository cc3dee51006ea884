"""Input of keyboard and mouse between two frames."""

from __future__ import annotations

from worldsim.agents.human.keymap import Keymap
from worldsim.controls import Control, ControlSpace

MAX_YAW = 0.3  # radians a frame: worlds are not learnt from quicker turns
OWED = 3  # frames over which a quicker movement of the mouse is spread; what is beyond is lost


class Inputs:
    """Keys that are down, keys that were tapped since the last frame (a short tap counts too), and the
    mouse's way.
    """

    def __init__(self) -> None:
        self.down: set[str] = set()
        self._tapped: set[str] = set()
        self._yaw = 0.0  # radians that are still to be turned
        self._pixels = 0.0

    def press(self, key: str) -> None:
        """A key went down."""
        self.down.add(key)
        self._tapped.add(key)

    def release(self, key: str) -> None:
        """A key came up."""
        self.down.discard(key)

    def move(self, pixels: float) -> None:
        """The mouse went so far to the right."""
        self._pixels += pixels

    def let_go(self) -> None:
        """Nothing is held any more; the window lost the keyboard."""
        self.down.clear()
        self._tapped.clear()
        self._yaw = self._pixels = 0.0

    def control(self, keymap: Keymap, space: ControlSpace) -> Control:
        """Return the control of the next frame. It uses up taps, and mouse movement up to ``MAX_YAW``."""
        keys = keymap.held(self.down | self._tapped)
        self._tapped.clear()
        self._yaw += self._pixels * keymap.sensitivity if space.yaw else 0.0
        self._pixels = 0.0
        yaw = _within(self._yaw, MAX_YAW)
        self._yaw = _within(self._yaw - yaw, OWED * MAX_YAW)
        return Control(keys=keys, yaw=yaw)


def _within(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)
