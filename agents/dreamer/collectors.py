"""Collectors of real episodes for recordings: played by a policy of the dream, by rhythms, or in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from worldsim.agents.dreamer.batch_agents import BatchAgent, ExploringBatchAgent, PolicyBatchAgent
from worldsim.agents.dreamer.games import Games
from worldsim.agents.dreamer.policy import load_policy
from worldsim.agents.dreamer.rhythms import RandomRhythmBatchAgent
from worldsim.data.collector import Collector
from worldsim.data.episodes import EpisodeArrays
from worldsim.data.spec import SourceSpec
from worldsim.engine.world import load
from worldsim.envs.sources import make_source
from worldsim.errors import ConfigError

__all__ = ["MixedCollector", "PolicyCollector", "RhythmCollector"]

_EACH = 3
"""Episodes that a game plays at a time: the games wait for the longest one of all only once."""


class _AgentCollector:
    """A source played by a batch agent, some episodes at a time: those that a lone worker asks for next.

    Args:
        games: real games side by side; a single one plays the episode that is asked for alone.
        agent: plays them.
        explore: share of episodes that random actions disturb; see ``ExploringBatchAgent``.
    """

    def __init__(self, games: Games, agent: BatchAgent, explore: float) -> None:
        actions = len(games.spec.control_space.discrete_actions)
        self._games, self.spec = games, games.spec
        self._agent = ExploringBatchAgent(agent, len(games), actions, explore)
        self._at_once = 1 if len(games) == 1 else _EACH * len(games)
        self._played: dict[int, EpisodeArrays] = {}

    def play(self, seed: int) -> EpisodeArrays:
        """Play the episode that ``seed`` fixes, and those after it that are asked for next."""
        if seed not in self._played:
            seeds = list(range(seed, seed + self._at_once))
            self._played = dict(zip(seeds, self._games.episodes(self._agent, seeds), strict=True))
        return self._played.pop(seed)

    def close(self) -> None:
        """Close the source."""
        self._games.close()


class PolicyCollector(_AgentCollector):
    """A source played by a policy of the dream.

    Args:
        world: name or folder of the world that takes the frames in.
        policy: the policy's file.
        games: episodes that are played side by side.
        most: frames of an episode at most.
        explore: share of episodes that random actions disturb.
    """

    def __init__(self, world: str, policy: Path, games: int, most: int = 1050, explore: float = 0.0) -> None:
        loaded = load(world, "cpu")
        real = Games(loaded.spec.name, loaded.spec.size, games, most)
        super().__init__(real, PolicyBatchAgent(loaded, load_policy(policy), games), explore)


class RhythmCollector(_AgentCollector):
    """A source played without eyes: every episode has a rhythm of its own.

    Args:
        source: what ``make_source`` takes.
        size: height and width of the frames; the source's own by default.
        most: frames of an episode at most.
        explore: share of episodes that random actions disturb.
    """

    def __init__(
        self, source: str, size: tuple[int, int] | None = None, most: int = 1050, explore: float = 0.0
    ) -> None:
        real = Games(source, size or _own_size(source), 1, most)
        super().__init__(real, RandomRhythmBatchAgent(1, real.spec.control_space), explore)


class MixedCollector:
    """Several collectors of one source, each of which plays an equal share of the episodes.

    Args:
        make: makes each of them.

    Raises:
        ConfigError: they play other sources.
    """

    def __init__(self, make: Sequence[Callable[[], Collector]]) -> None:
        self._collectors = [one() for one in make]
        self.spec: SourceSpec = self._collectors[0].spec
        others = [one.spec for one in self._collectors if one.spec != self.spec]
        if others:
            self.close()
            rule = f"agents of one recording must play {self.spec.name} at {self.spec.size}"
            raise ConfigError(rule, (others[0].name, others[0].size), "name a world of that source and size")

    def play(self, seed: int) -> EpisodeArrays:
        """Play the episode that ``seed`` fixes."""
        mine = int(np.random.default_rng((seed, 6)).integers(len(self._collectors)))
        return self._collectors[mine].play(seed)

    def close(self) -> None:
        """Close all sources."""
        for one in self._collectors:
            one.close()


def _own_size(source: str) -> tuple[int, int]:
    """Frame size that a source has where none is asked for."""
    opened = make_source(source)
    try:
        return opened.spec.size
    finally:
        opened.close()
