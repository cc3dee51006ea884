"""A policy of the dream as an agent: it steers any session, also a remote one, by the frames alone."""

from __future__ import annotations

import numpy as np

from worldsim.agents.agent import AgentView
from worldsim.agents.dreamer.batch_agents import PolicyBatchAgent
from worldsim.agents.dreamer.policy import LatentPolicy
from worldsim.controls import Control, ControlSpace
from worldsim.engine.world import World

__all__ = ["PolicyAgent"]


class PolicyAgent:
    """Sees the frames that a session shows as it would see those of the real game.

    It begins anew, with no memory, wherever the session's frames do not follow each other: after a rewind, a
    restart or a jump.

    Args:
        world: takes the frames in.
        policy: learnt in this world.

    Raises:
        ConfigError: a policy of another world.
    """

    name = "dream"

    def __init__(self, world: World, policy: LatentPolicy) -> None:
        self._player = PolicyBatchAgent(world, policy, 1)
        self._index: int | None = None
        self._actions = np.zeros(1, np.int64)

    def __call__(self, view: AgentView, space: ControlSpace, rng: np.random.Generator) -> Control:
        """The control for the next frame."""
        frames = np.ascontiguousarray(view.frame[None])
        if self._index is not None and view.index == self._index + 1:
            self._player.observe(frames, self._actions)
        else:
            self._player.reset([0], [int(rng.integers(2**31))], frames)
        self._index, self._actions = view.index, self._player.act()
        return space.from_discrete(int(self._actions[0]))

    def reset(self) -> None:
        """Forget what was seen."""
        self._index = None
