"""Collector of episodes: plays a source with the exploration policies."""

from __future__ import annotations

import math

import numpy as np

from worldsim.data.episodes import EpisodeArrays
from worldsim.envs.exploration import PolicyMixture
from worldsim.envs.floor_plan import FloorPlan
from worldsim.envs.sources import Observation, Source, make_source

__all__ = ["EpisodeCollector", "episode_of"]


class EpisodeCollector:
    """A source played by :class:`PolicyMixture`, afresh with every seed.

    Args:
        name: what ``make_source`` takes.
        size: height and width of the frames; the source's own by default.
        max_frames: episodes are truncated there, if the source has not ended them before.
        labels: whether episodes tell where objects are seen, where the source knows it.
    """

    def __init__(
        self,
        name: str,
        size: tuple[int, int] | None = None,
        max_frames: int = 1050,
        *,
        labels: bool = False,
    ) -> None:
        self.source: Source = make_source(name, size, depth=True, labels=labels)
        self.spec = self.source.spec
        self._max_frames = max_frames

    def play(self, seed: int) -> EpisodeArrays:
        """Play the episode that ``seed`` fixes, from its spawn to its end."""
        seen = [self.source.reset(seed)]
        policy = self._policy(seed, seen[0])
        controls: list[np.ndarray] = []
        while not (seen[-1].terminated or seen[-1].truncated) and len(controls) < self._max_frames:
            control = policy.act(seen[-1])
            controls.append(self.spec.control_space.vector(control))
            seen.append(self.source.step(control))
        return episode_of(seen, np.stack(controls), seed)

    def open_loop_controls(self, seed: int, frames: int) -> np.ndarray | None:
        """Controls ``float32 [F, M]`` of an episode, continued as if it did not end.

        None if the policy depends on its observations.
        """
        first = self.source.reset(seed)
        policy = self._policy(seed, first)
        if not policy.is_blind:
            return None
        return np.stack([self.spec.control_space.vector(policy.act(first)) for _ in range(frames)])

    def close(self) -> None:
        """Close the source."""
        self.source.close()

    def plan(self, first: Observation) -> FloorPlan | None:
        """The map, seen from the pose of ``first``, or None where the source has none."""
        walls = self.source.walls()
        if walls is None or first.pose is None:
            return None
        x, y = first.pose[:2, 3].tolist()
        return FloorPlan(walls, (x, y))

    def _policy(self, seed: int, first: Observation) -> PolicyMixture:
        K = self.spec.intrinsics
        field_of_view = math.pi / 2 if K is None else 2 * math.atan(0.5 * self.spec.size[1] / K.fx)
        rng = np.random.default_rng(seed)
        return PolicyMixture(self.spec.control_space, self.plan(first), rng, field_of_view)


def episode_of(seen: list[Observation], controls: np.ndarray, seed: int) -> EpisodeArrays:
    """T controls and T + 1 observations as T rows; of the last observation only its flags are kept."""
    rows, ends = seen[:-1], seen[1:]
    truncated = np.array([end.truncated for end in ends])
    truncated[-1] = not ends[-1].terminated
    return EpisodeArrays(
        frames=np.stack([row.frame for row in rows]),
        controls=controls,
        poses=None if rows[0].pose is None else np.stack([row.pose for row in rows if row.pose is not None]),
        rewards=np.array([end.reward for end in ends], dtype=np.float32),
        terminated=np.array([end.terminated for end in ends]),
        truncated=truncated,
        seed=seed,
        labels=_labels(rows),
    )


def _labels(rows: list[Observation]) -> dict[str, np.ndarray] | None:
    found = [row.labels for row in rows if row.labels is not None]
    return {kind: np.stack([row[kind] for row in found]) for kind in found[0]} if found else None
