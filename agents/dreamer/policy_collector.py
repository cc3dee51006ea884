"""Plays real episodes with a policy of the dream, for recordings."""

from __future__ import annotations

from pathlib import Path

from worldsim.agents.dreamer.batch_agents import ExploringBatchAgent, PolicyBatchAgent
from worldsim.agents.dreamer.games import Games
from worldsim.agents.dreamer.policy import load_policy
from worldsim.data.episodes import EpisodeArrays
from worldsim.engine.world import load

__all__ = ["PolicyCollector"]

_EACH = 3
"""Episodes that a game plays at a time: the games wait for the longest one of all only once."""


class PolicyCollector:
    """A source played by a policy, some episodes at a time: those that a lone worker asks for next.

    Args:
        world: name or folder of the world that takes the frames in.
        policy: the policy's file.
        games: episodes that are played side by side.
        most: frames of an episode at most.
        explore: share of episodes that random actions disturb; see ``ExploringBatchAgent``.
    """

    def __init__(self, world: str, policy: Path, games: int, most: int = 1050, explore: float = 0.0) -> None:
        loaded = load(world, "cpu")
        self._games = Games(loaded.spec.name, loaded.spec.size, games, most)
        agent, space = PolicyBatchAgent(loaded, load_policy(policy), games), loaded.spec.control_space
        self._agent = ExploringBatchAgent(agent, games, len(space.discrete_actions), explore)
        self._played: dict[int, EpisodeArrays] = {}
        self.spec = self._games.spec

    def play(self, seed: int) -> EpisodeArrays:
        """Play the episode that ``seed`` fixes, and those after it that are asked for next."""
        if seed not in self._played:
            seeds = list(range(seed, seed + _EACH * len(self._games)))
            self._played = dict(zip(seeds, self._games.episodes(self._agent, seeds), strict=True))
        return self._played.pop(seed)

    def close(self) -> None:
        """Close the source."""
        self._games.close()
