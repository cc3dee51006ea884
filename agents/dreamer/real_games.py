"""Real games side by side as a Gymnasium vector environment of latents: what a policy of the dream meets.

The world observes the real frames; nothing is imagined. The same learner learns in it as in the dream.

Shapes: N games, L features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from worldsim.agents.dreamer.batch_agents import action_vectors, check_world
from worldsim.context import Context
from worldsim.engine.world import World
from worldsim.envs.sources import make_source
from worldsim.sampling.control_batch import ControlBatch

__all__ = ["RealGamesEnv"]


class RealGamesEnv(VectorEnv[Tensor, Any, Tensor]):
    """``count`` real games, observed through a world; episodes begin anew in the step that ends them.

    Args:
        world: takes the frames in; its source is played.
        count: games side by side, N.
        most: frames of an episode at most.
        first_seed: seed of the first episode; each further one has the next.
        end_cost: cost of an end. None: the reward is the game's own.

    Raises:
        ConfigError: a world whose games a policy of latents cannot play; see ``check_world``.
    """

    def __init__(
        self, world: World, count: int, most: int, first_seed: int, end_cost: float | None = None
    ) -> None:
        check_world(world)
        self.autoreset_mode = AutoresetMode.SAME_STEP
        self.metadata = {"autoreset_mode": self.autoreset_mode}
        self.num_envs, self.device = count, world.device
        self._most, self._seed, self._end_cost = most, first_seed, end_cost
        self._sources = [make_source(world.spec.name, world.spec.size) for _ in range(count)]
        self._batch = world.batch(count, decode=False)
        self._space = world.spec.control_space
        self._vectors = action_vectors(self._space)
        self._frames = np.zeros((count, *world.spec.size, 3), np.uint8)
        self._lengths = np.zeros(count, np.int64)
        self.frames = 0
        """Real frames that were played."""
        tokens, channels = world.networks.tokenizer.latent_spec.shape
        length = tokens * channels + world.networks.generator.width
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (length,), np.float32)
        self.single_action_space = spaces.Discrete(len(self._vectors))
        self.observation_space = batch_space(self.single_observation_space, count)
        self.action_space = batch_space(self.single_action_space, count)

    def choose_autoreset(self, mode: AutoresetMode) -> bool:
        """True if ``mode`` is the one that there is."""
        return mode is AutoresetMode.SAME_STEP

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Begin all games; episodes have seeds of their own, and ``seed`` is not read."""
        self._begin(list(range(self.num_envs)))
        return self._features(), {}

    def step(self, actions: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Play one frame of every game; ``actions`` int64 [N] are numbers of discrete actions."""
        chosen = np.asarray(torch.as_tensor(actions).cpu())
        rewards, ended, cut = (np.zeros(self.num_envs, kind) for kind in (np.float32, bool, bool))
        for row, source in enumerate(self._sources):
            seen = source.step(self._space.from_discrete(int(chosen[row])))
            self._frames[row], self._lengths[row] = seen.frame, self._lengths[row] + 1
            ended[row] = seen.terminated
            cut[row] = not seen.terminated and (seen.truncated or self._lengths[row] >= self._most)
            rewards[row] = seen.reward if self._end_cost is None else -self._end_cost * seen.terminated
        self.frames += self.num_envs
        self._batch.observe(self._frames, ControlBatch(self._vectors[chosen]))
        info: dict[str, Any] = {}
        if (ended | cut).any():
            info = {"final_obs": self._features().clone(), "_final_obs": self._put(ended | cut)}
            self._begin(np.flatnonzero(ended | cut).tolist())
        return self._features(), self._put(rewards), self._put(ended), self._put(cut), info

    def close_extras(self, **kwargs: Any) -> None:
        """Close all games."""
        for source in self._sources:
            source.close()

    def _begin(self, rows: list[int]) -> None:
        """Begin new episodes in ``rows``."""
        seeds, none = [], np.zeros((1, self._vectors.shape[1]), np.float32)
        for row in rows:
            self._frames[row] = self._sources[row].reset(self._seed).frame
            self._lengths[row] = 0
            seeds.append(self._seed)
            self._seed += 1
        self._batch.begin(rows, seeds, [Context(self._frames[row][None].copy(), none) for row in rows])

    def _features(self) -> Tensor:
        features = self._batch.now.features
        assert features is not None, "the engine is here"
        return features.float()

    def _put(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device)
