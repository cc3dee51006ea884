"""Blind rhythms: patterns of actions that are repeated whatever is seen, and the search for the best one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worldsim.agents.dreamer.batch_agents import PeriodicBatchAgent
from worldsim.controls import ControlSpace
from worldsim.errors import ConfigError

if TYPE_CHECKING:
    from worldsim.agents.dreamer.games import Games, ScoreName

__all__ = ["PERIODS", "RandomRhythmBatchAgent", "Rhythm", "best_rhythm", "rhythm_patterns"]

PERIODS = (8, 24, 32, 40, 48, 56, 80)
"""Frames that a blind rhythm holds an action: those that are searched."""
_SIDEWAYS = ("strafe_left", "strafe_right")
_LONGEST_PERIOD = 96
"""Frames that a random rhythm holds an action at most."""
_MOST_ACTIONS = 4
"""Actions whose pairs are tried where a game has no sidestep."""


@dataclass(frozen=True)
class Rhythm:
    """A pattern of actions, each held for ``period`` frames."""

    name: str
    """The pattern's, e.g. "left-right"."""
    actions: tuple[int, ...]
    """Numbers of discrete actions."""
    period: int

    def agent(self, games: int) -> PeriodicBatchAgent:
        """An agent that plays it in so many games."""
        return PeriodicBatchAgent(games, self.actions, self.period)


def rhythm_patterns(space: ControlSpace) -> dict[str, tuple[int, ...]]:
    """Patterns by name: sidesteps where the game has them, else ordered pairs of its first four actions.

    Raises:
        ConfigError: a game with a single action.
    """
    keys = {combo: number for number, combo in enumerate(space.discrete_actions)}
    if all((key,) in keys for key in _SIDEWAYS):
        left, right = (keys[(key,)] for key in _SIDEWAYS)
        found = {"left-right": (left, right), "right-left": (right, left)}
        return found | {"left-rest-right-rest": (left, 0, right, 0)}
    if len(space.discrete_actions) < 2:
        raise ConfigError("a rhythm needs two actions", space.discrete_actions, "choose another agent")
    names = ["+".join(combo) or "rest" for combo in space.discrete_actions[:_MOST_ACTIONS]]
    pairs = itertools.permutations(range(len(names)), 2)
    return {f"{names[first]}-{names[then]}": (first, then) for first, then in pairs}


def best_rhythm(
    games: Games, seeds: Sequence[int], periods: Sequence[int] = PERIODS, by: ScoreName = "tics"
) -> Rhythm:
    """The rhythm of the best score ``by`` in the episodes of ``seeds``, over all patterns and ``periods``."""
    patterns = rhythm_patterns(games.spec.control_space)
    rhythms = [Rhythm(name, actions, k) for name, actions in patterns.items() for k in periods]
    scores = [float(games.scores(rhythm.agent(len(games)), seeds, by).mean()) for rhythm in rhythms]
    return rhythms[scores.index(max(scores))]


class RandomRhythmBatchAgent:
    """Plays every episode in a rhythm of its own, which follows from its seed.

    The pattern is one of ``rhythm_patterns``; the frames that an action is held are log-uniform from 1 to 96.

    Args:
        games: how many are played side by side, M.
        space: of the game.

    Raises:
        ConfigError: a game with a single action.
    """

    def __init__(self, games: int, space: ControlSpace) -> None:
        self._patterns = list(rhythm_patterns(space).values())
        self._agents = [PeriodicBatchAgent(1, self._patterns[0], 1) for _ in range(games)]

    def reset(self, rows: Sequence[int], seeds: Sequence[int], frames: np.ndarray) -> None:
        for row, seed in zip(rows, seeds, strict=True):
            rng = np.random.default_rng((seed, 5))
            pattern = self._patterns[int(rng.integers(len(self._patterns)))]
            self._agents[row] = PeriodicBatchAgent(1, pattern, int(_LONGEST_PERIOD ** rng.random()))

    def act(self) -> np.ndarray:
        return np.concatenate([agent.act() for agent in self._agents])

    def observe(self, frames: np.ndarray, actions: np.ndarray) -> None:
        for agent in self._agents:
            agent.observe(frames, actions)
