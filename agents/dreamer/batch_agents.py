"""Agents that play several real games side by side: random keys, alternation, or a policy of the dream.

Shapes: M games, H x W frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from worldsim.agents.dreamer.policy import LatentPolicy
from worldsim.context import Context
from worldsim.controls import ControlSpace
from worldsim.engine.world import World
from worldsim.errors import ConfigError
from worldsim.sampling.control_batch import ControlBatch
from worldsim.utils.threads import thread_limit

__all__ = ["BatchAgent", "PeriodicBatchAgent", "PolicyBatchAgent", "RandomBatchAgent"]


class BatchAgent(Protocol):
    """Acts in M games at a time; actions are numbers of discrete actions, int64 [M]."""

    def reset(self, rows: Sequence[int], seeds: Sequence[int], frames: np.ndarray) -> None:
        """Games ``rows`` begin anew; ``frames`` uint8 [M, H, W, 3] are what all games show."""

    def act(self) -> np.ndarray:
        """Return the actions of all games until their next frames."""

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Take the frames that the actions led to."""


class RandomBatchAgent:
    """Draws every frame's action uniformly."""

    def __init__(self, games: int, space: ControlSpace, seed: int) -> None:
        self._games, self._actions = games, len(space.discrete_actions)
        self._rng = np.random.default_rng((seed, 1))

    def reset(self, rows: Sequence[int], seeds: Sequence[int], frames: np.ndarray) -> None:
        """Nothing is remembered."""

    def act(self) -> np.ndarray:
        return self._rng.integers(self._actions, size=self._games)

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        """Nothing is seen."""


class PeriodicBatchAgent:
    """Alternates the two directions of strafing, each for ``period`` frames; it observes nothing.

    Raises:
        ConfigError: a world without these keys.
    """

    def __init__(self, games: int, space: ControlSpace, period: int) -> None:
        self._turns = np.array([_combo(space, key) for key in ("strafe_left", "strafe_right")])
        self._frames, self._period = np.zeros(games, np.int64), period

    def reset(self, rows: Sequence[int], seeds: Sequence[int], frames: np.ndarray) -> None:
        self._frames[list(rows)] = 0

    def act(self) -> np.ndarray:
        return self._turns[self._frames // self._period % 2]

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        self._frames += 1


class PolicyBatchAgent:
    """A policy of the dream: the world observes the real frames, and the policy reads its features.

    Decisions are held as in the dream, each game counting from its own beginning.

    Args:
        world: that the policy learnt in, or one with the same code and features.
        policy: reads its features.
        games: how many are played side by side, M.
        swapped: show every game its neighbour's frames; a policy that uses its frames then plays at random.

    Raises:
        ConfigError: a policy of another world, or a single game to be swapped.
    """

    def __init__(self, world: World, policy: LatentPolicy, games: int, *, swapped: bool = False) -> None:
        if swapped and games < 2:
            raise ConfigError("frames can only be swapped between several games", games)
        self._batch = world.batch(games, denoising_steps=1, decode=False)
        features, space = self._batch.now.features, world.spec.control_space
        expected = (features.shape[1] if features is not None else 0, len(space.discrete_actions))
        if (policy.metadata.features, policy.metadata.actions) != expected:
            rule = f"a policy of {world.name} reads {expected[0]} features and knows {expected[1]} actions"
            found = (policy.metadata.features, policy.metadata.actions)
            raise ConfigError(rule, found, "name the world it learnt in")
        self._policy, self._swapped = policy, swapped
        self._vectors = np.stack([space.vector(space.from_discrete(i)) for i in range(expected[1])])
        self._rngs = [np.random.default_rng(row) for row in range(games)]
        self._frames = np.zeros(games, np.int64)
        self._held = np.zeros(games, np.int64)

    def reset(self, rows: Sequence[int], seeds: Sequence[int], frames: np.ndarray) -> None:
        shown = self._shown(frames)
        none = np.zeros((1, self._vectors.shape[1]), np.float32)
        self._batch.begin(rows, seeds, [Context(shown[row][None], none) for row in rows])
        for row, seed in zip(rows, seeds, strict=True):
            self._rngs[row] = np.random.default_rng((seed, 2))
        self._frames[list(rows)] = 0

    def act(self) -> np.ndarray:
        due = self._frames % self._policy.metadata.hold == 0
        if due.any():
            with torch.inference_mode(), thread_limit(1):
                features = self._batch.now.features
                chances = self._policy(features)[0].probs.cumsum(-1).double().numpy()
            for row in np.flatnonzero(due):
                drawn = self._rngs[row].random() * chances[row, -1]
                self._held[row] = np.searchsorted(chances[row], drawn, side="right")
        return self._held.copy()

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        controls = ControlBatch(self._vectors[actions].astype(np.float32))
        with thread_limit(1):  # threads that wait for each other are slower where the games take cores, too
            self._batch.observe(self._shown(frames), controls)
        self._frames += 1

    def _shown(self, frames: np.ndarray) -> np.ndarray:
        return np.roll(frames, 1, axis=0) if self._swapped else frames


def _combo(space: ControlSpace, key: str) -> int:
    found = [number for number, combo in enumerate(space.discrete_actions) if tuple(combo) == (key,)]
    if not found:
        raise ConfigError("a rhythm needs keys to strafe by", space.keys, "choose another agent")
    return found[0]
