"""Sticky random keys: the simplest agent, and the fallback of cleverer ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from worldsim.controls import Control, ControlSpace

if TYPE_CHECKING:
    from worldsim.agents.agent import AgentView


class RandomAgent:
    """Holds one random combination of keys for a random while, then another.

    In a world without keys it holds random continuous actions, where there are any.

    ``hold`` is the mean number of frames that a combination is held; ``yaw`` is the standard deviation, in
    radians a frame, of a slow random turn of the head where the world knows mouse look.
    """

    name = "random"

    def __init__(self, hold: float = 8.0, yaw: float = 0.03) -> None:
        self.hold = hold
        self.yaw = yaw
        self.reset()

    def reset(self) -> None:
        """Let go of the keys that are held."""
        self._left = 0
        self._control = Control()

    def __call__(self, view: AgentView, space: ControlSpace, rng: np.random.Generator) -> Control:
        """The control for the next frame; what is seen does not matter."""
        if self._left <= 0:
            self._control = self._draw(space, rng)
            self._left = int(rng.geometric(1.0 / self.hold))
        self._left -= 1
        return self._control

    def _draw(self, space: ControlSpace, rng: np.random.Generator) -> Control:
        keys = (
            space.discrete_actions[int(rng.integers(len(space.discrete_actions)))]
            if space.discrete_actions
            else ()
        )
        yaw = float(rng.normal(0.0, self.yaw)) if space.yaw and rng.random() < 0.5 else 0.0
        action = space.action.sample(rng) if space.action is not None and not space.keys else None
        return Control(keys=frozenset(keys), yaw=yaw, action=action)
