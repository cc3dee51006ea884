"""Agents that play several real games side by side: random keys, rhythms, or a policy of the dream.

Shapes: M games, H x W frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from worldsim.agents.dreamer.policy import LatentPolicy
from worldsim.context import Context
from worldsim.controls import ControlSpace
from worldsim.engine.world import World
from worldsim.errors import ConfigError
from worldsim.sampling.control_batch import ControlBatch
from worldsim.utils.threads import thread_limit

__all__ = [
    "BatchAgent",
    "ExploringBatchAgent",
    "LatentBatchAgent",
    "PeriodicBatchAgent",
    "PolicyBatchAgent",
    "RandomBatchAgent",
    "action_vectors",
    "check_policy",
    "check_world",
]


_LONGEST_HOLD = 64
"""Frames that an exploring agent holds a random action at most."""
_NOT_RANDOM = -1


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
    """Repeats a pattern of actions, each for ``period`` frames; it observes nothing.

    Args:
        games: how many are played side by side, M.
        pattern: numbers of discrete actions.
        period: frames that each is held.

    Raises:
        ConfigError: no action, or no frame.
    """

    def __init__(self, games: int, pattern: Sequence[int], period: int) -> None:
        if not pattern or period < 1:
            raise ConfigError("a rhythm needs an action and a frame", (tuple(pattern), period))
        self._pattern = np.array(pattern, np.int64)
        self._frames, self._period = np.zeros(games, np.int64), period

    def reset(self, rows: Sequence[int], seeds: Sequence[int], frames: np.ndarray) -> None:
        self._frames[list(rows)] = 0

    def act(self) -> np.ndarray:
        turns: np.ndarray = self._pattern[self._frames // self._period % len(self._pattern)]
        return turns

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        self._frames += 1


class LatentBatchAgent:
    """A policy that reads features which someone else keeps: the decisions, without any view of frames.

    Decisions are held as in the dream, each game counting from its own beginning. An action follows from the
    features and from its game's seed alone.

    Args:
        policy: reads the features.
        games: how many are played side by side, M.
        features: gives the newest ones, float32 [M, L].
    """

    def __init__(self, policy: LatentPolicy, games: int, features: Callable[[], Tensor]) -> None:
        self._policy, self._features = policy, features
        self._rngs = [np.random.default_rng(row) for row in range(games)]
        self._frames = np.zeros(games, np.int64)
        self._held = np.zeros(games, np.int64)

    def reset(self, rows: Sequence[int], seeds: Sequence[int], frames: np.ndarray) -> None:
        for row, seed in zip(rows, seeds, strict=True):
            self._rngs[row] = np.random.default_rng((seed, 2))
        self._frames[list(rows)] = 0

    def act(self) -> np.ndarray:
        due = self._frames % self._policy.metadata.hold == 0
        if due.any():
            with torch.inference_mode(), thread_limit(1):
                choice, _ = self._policy(self._features().float().cpu())
                chances = choice.probs.cumsum(-1).double().numpy()
            for row in np.flatnonzero(due):
                drawn = self._rngs[row].random() * chances[row, -1]
                self._held[row] = np.searchsorted(chances[row], drawn, side="right")
        return self._held.copy()

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        self._frames += 1


class PolicyBatchAgent:
    """A policy of the dream: the world observes the real frames, and the policy reads its features.

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
        check_policy(world, policy)
        self._batch = world.batch(games, decode=False)
        self._swapped, self._vectors = swapped, action_vectors(world.spec.control_space)
        self._decisions = LatentBatchAgent(policy, games, self._newest)

    def reset(self, rows: Sequence[int], seeds: Sequence[int], frames: np.ndarray) -> None:
        shown = self._shown(frames)
        none = np.zeros((1, self._vectors.shape[1]), np.float32)
        self._batch.begin(rows, seeds, [Context(shown[row][None], none) for row in rows])
        self._decisions.reset(rows, seeds, shown)

    def act(self) -> np.ndarray:
        return self._decisions.act()

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        controls = ControlBatch(self._vectors[actions])
        with thread_limit(1):  # threads that wait for each other are slower where the games take cores, too
            self._batch.observe(self._shown(frames), controls)
        self._decisions.observe(frames, actions)

    def _newest(self) -> Tensor:
        features = self._batch.now.features
        assert features is not None, "the engine is here"
        return features

    def _shown(self, frames: np.ndarray) -> np.ndarray:
        return np.roll(frames, 1, axis=0) if self._swapped else frames


class ExploringBatchAgent:
    """An agent some of whose episodes are disturbed by random actions, from now and then to always.

    A world that has seen the agent alone is too kind to all that the agent never does, such as standing
    still or jittering. In a disturbed episode the share of frames under random actions is uniform in [0, 1],
    and the frames that such an action is held are log-uniform from 1 to 64; both follow from its seed.

    Args:
        agent: plays.
        games: how many are played side by side, M.
        actions: number of discrete actions.
        share: of episodes that are disturbed, in [0, 1].
    """

    def __init__(self, agent: BatchAgent, games: int, actions: int, share: float) -> None:
        self._agent, self._actions, self._share = agent, actions, share
        self._rngs = [np.random.default_rng(row) for row in range(games)]
        self._chances, self._holds = np.zeros(games), np.ones(games, np.int64)
        self._left, self._random = np.zeros(games, np.int64), np.full(games, _NOT_RANDOM)

    def reset(self, rows: Sequence[int], seeds: Sequence[int], frames: np.ndarray) -> None:
        for row, seed in zip(rows, seeds, strict=True):
            rng = self._rngs[row] = np.random.default_rng((seed, 4))
            disturbed = rng.random() < self._share
            self._chances[row] = rng.random() if disturbed else 0.0
            self._holds[row] = int(_LONGEST_HOLD ** rng.random())
            self._left[row] = 0
        self._agent.reset(rows, seeds, frames)

    def act(self) -> np.ndarray:
        for row in np.flatnonzero(self._left == 0):
            rng, self._left[row] = self._rngs[row], self._holds[row]
            is_random = rng.random() < self._chances[row]
            self._random[row] = rng.integers(self._actions) if is_random else _NOT_RANDOM
        return np.where(self._random == _NOT_RANDOM, self._agent.act(), self._random)

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        self._left -= 1
        self._agent.observe(frames, actions)


def action_vectors(space: ControlSpace) -> np.ndarray:
    """The control vectors of the discrete actions, float32 [actions, n_keys + 1]."""
    rows = [space.vector(space.from_discrete(i)) for i in range(len(space.discrete_actions))]
    return np.stack(rows).astype(np.float32)


def check_world(world: World) -> None:
    """Check that a policy can see real frames through a world, and has a choice.

    Raises:
        ConfigError: frames that need camera poses, which a game does not tell, or a single action.
    """
    if world.networks.has_poses:
        rule, remedy = "policies of the dream play in worlds without camera poses", "name another world"
        raise ConfigError(rule, world.name, remedy)
    if len(world.spec.control_space.discrete_actions) < 2:
        raise ConfigError("a policy needs two actions to choose from", world.name, "name another world")


def check_policy(world: World, policy: LatentPolicy) -> None:
    """Check that a policy reads the features of a world and knows its actions.

    Raises:
        ConfigError: it does not, or ``check_world`` refuses the world.
    """
    check_world(world)
    tokens, channels = world.networks.tokenizer.latent_spec.shape
    features = tokens * channels + world.networks.generator.width
    expected = (features, len(world.spec.control_space.discrete_actions))
    found = (policy.metadata.features, policy.metadata.actions)
    if found != expected:
        rule = f"a policy of {world.name} reads {expected[0]} features and knows {expected[1]} actions"
        raise ConfigError(rule, found, "name the world it learnt in")
