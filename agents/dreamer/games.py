"""Real games side by side, played by one agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal

import numpy as np

from worldsim.agents.dreamer.batch_agents import BatchAgent
from worldsim.data.episodes import EpisodeArrays
from worldsim.envs.episode_collector import episode_of
from worldsim.envs.sources import Observation, Source, make_source

__all__ = ["SCORES", "Games", "ScoreName"]

ScoreName = Literal["tics", "reward"]
SCORES: tuple[ScoreName, ...] = ("tics", "reward")


class Games:
    """``count`` instances of a source that are stepped together.

    Args:
        name: what ``make_source`` takes.
        size: height and width of the frames.
        count: instances, M.
        most: frames of an episode at most; the source may end it before.
    """

    def __init__(self, name: str, size: tuple[int, int], count: int, most: int = 1050) -> None:
        self._sources: list[Source] = []
        self.most = most
        for _ in range(count):
            self._sources.append(make_source(name, size))
        self.spec = self._sources[0].spec

    def __len__(self) -> int:
        return len(self._sources)

    def lengths(self, agent: BatchAgent, seeds: Sequence[int]) -> np.ndarray:
        """Frames of the episodes of ``seeds``, int64 [number of seeds], played by ``agent``."""
        frames = np.zeros(len(seeds), np.int64)

        def note(number: int, seen: list[Observation], actions: list[int]) -> None:
            frames[number] = len(actions)

        self._play(agent, seeds, note, keep=False)
        return frames

    def scores(self, agent: BatchAgent, seeds: Sequence[int], by: ScoreName = "tics") -> np.ndarray:
        """Score of the episodes of ``seeds``, float64 [number of seeds], played by ``agent``.

        Args:
            agent: plays.
            seeds: of the episodes.
            by: "tics": the time that they last, in the game's own tics (frames, where it has none);
                "reward": the sum of their rewards.
        """
        if by == "tics":
            return self.lengths(agent, seeds) * float(self.spec.tics or 1)
        sums = np.zeros(len(seeds))

        def note(number: int, seen: list[Observation], actions: list[int]) -> None:
            sums[number] = sum(one.reward for one in seen[1:])

        self._play(agent, seeds, note, keep=True)
        return sums

    def episodes(self, agent: BatchAgent, seeds: Sequence[int]) -> list[EpisodeArrays]:
        """The episodes of ``seeds`` with all their frames, in their order."""
        found: dict[int, EpisodeArrays] = {}
        space = self.spec.control_space

        def note(number: int, seen: list[Observation], actions: list[int]) -> None:
            controls = np.stack([space.vector(space.from_discrete(action)) for action in actions])
            found[number] = episode_of(seen, controls, seeds[number])

        self._play(agent, seeds, note, keep=True)
        return [found[number] for number in range(len(seeds))]

    def _play(
        self,
        agent: BatchAgent,
        seeds: Sequence[int],
        note: Callable[[int, list[Observation], list[int]], None],
        keep: bool,
    ) -> None:
        count, space = len(self), self.spec.control_space
        seen: list[list[Observation]] = [[] for _ in range(count)]
        actions: list[list[int]] = [[] for _ in range(count)]
        number = [-1] * count
        frames = np.zeros((count, *self.spec.size, 3), np.uint8)
        waiting, fresh = list(range(len(seeds))), list(range(count))
        while True:
            for row in fresh:
                number[row] = waiting.pop(0) if waiting else -1
                if number[row] >= 0:
                    seen[row], actions[row] = [self._sources[row].reset(seeds[number[row]])], []
                    frames[row] = seen[row][0].frame
            playing = [row for row in range(count) if number[row] >= 0]
            if not playing:
                return
            begun = [row for row in fresh if number[row] >= 0 or not actions[row]]
            if begun:
                agent.reset(begun, [seeds[max(number[row], 0)] for row in begun], frames)
            chosen = agent.act()
            for row in playing:
                arrived = self._sources[row].step(space.from_discrete(int(chosen[row])))
                frames[row] = arrived.frame
                actions[row].append(int(chosen[row]))
                seen[row] = [*seen[row], arrived] if keep else [arrived]
            agent.observe(frames, chosen)
            fresh = [row for row in playing if self._is_over(seen[row][-1], len(actions[row]))]
            for row in fresh:
                note(number[row], seen[row], actions[row])

    def _is_over(self, last: Observation, frames: int) -> bool:
        return last.terminated or last.truncated or frames >= self.most

    def close(self) -> None:
        """Close all instances."""
        for source in self._sources:
            source.close()

    def __enter__(self) -> Games:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
