"""Dreams side by side, played by one agent; the counterpart of ``Games``.

Shapes: N dreams, H x W frame, L features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from torch import Tensor

from worldsim.agents.dreamer.batch_agents import BatchAgent, LatentBatchAgent, action_vectors, check_policy
from worldsim.agents.dreamer.policy import LatentPolicy
from worldsim.context import Context
from worldsim.engine.world import World
from worldsim.sampling.control_batch import ControlBatch
from worldsim.utils.threads import thread_limit

__all__ = ["DreamBatch"]

_Start: TypeAlias = int | Context | None


class DreamBatch:
    """``count`` dreams of a world that are stepped together.

    Args:
        world: what is dreamt; dreams begin at its starts, in turn.
        count: dreams side by side, N.
        temperature: of the dream.
        denoising_steps: denoising passes a frame, K (default: the sampler's).
        most: frames of a dream at most.
        decode: whether frames are decoded.
    """

    def __init__(
        self,
        world: World,
        count: int,
        *,
        temperature: float = 1.0,
        denoising_steps: int | None = None,
        most: int = 1050,
        decode: bool = False,
    ) -> None:
        self._world, self.most = world, most
        self._batch = world.batch(
            count, denoising_steps=denoising_steps, temperature=temperature, decode=decode
        )
        self._vectors = action_vectors(world.spec.control_space)

    def __len__(self) -> int:
        return self._batch.count

    def agent(self, policy: LatentPolicy) -> LatentBatchAgent:
        """A policy that reads these dreams' features.

        Raises:
            ConfigError: a policy of another world.
        """
        check_policy(self._world, policy)
        return LatentBatchAgent(policy, len(self), self._features)

    def lengths(self, agent: BatchAgent, seeds: Sequence[int]) -> np.ndarray:
        """Frames of the dreams of ``seeds``, int64 [number of seeds], played by ``agent``."""
        found = []
        for first in range(0, len(seeds), len(self)):
            mine = list(seeds[first : first + len(self)])
            filled = mine + [mine[-1]] * (len(self) - len(mine))
            found.append(self._play(agent, filled, self._starts(first))[0][: len(mine)])
        return np.concatenate(found)

    def frames(self, agent: BatchAgent, seed: int, start: Context) -> np.ndarray:
        """The frames of one dream from a given start, uint8 [T, H, W, 3], its last given frame first."""
        shown = self._play(agent, [seed] * len(self), [start] * len(self), keep=True)[1]
        return np.stack([start.frames[-1], *shown])

    def _starts(self, first: int) -> list[_Start]:
        known = len(self._world.starts)
        return [(first + row) % known if known else None for row in range(len(self))]

    def _play(
        self, agent: BatchAgent, seeds: Sequence[int], starts: Sequence[_Start], keep: bool = False
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Lengths of all dreams, and where they are kept the frames of the first."""
        rows, frames = range(len(self)), np.zeros((len(self), 0, 0, 3), np.uint8)
        lengths, alive, kept = np.zeros(len(self), np.int64), np.ones(len(self), bool), []
        self._batch.begin(rows, seeds, starts)
        agent.reset(rows, seeds, frames)
        while alive.any() and lengths.max() < self.most:
            actions = agent.act()
            with thread_limit(1):  # the dreams have threads of their own
                step = self._batch.step(ControlBatch(self._vectors[actions]))
            agent.observe(frames, actions)
            lengths += alive
            if keep and alive[0]:
                kept.append(step.frame[0].cpu().numpy().copy())
            alive &= ~step.terminated.cpu().numpy()
        return lengths, kept

    def _features(self) -> Tensor:
        features = self._batch.now.features
        assert features is not None, "the engine is here"
        return features
