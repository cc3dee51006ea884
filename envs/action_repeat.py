"""Action repeat: an action is held for several frames."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from gymnasium.vector import AutoresetMode, VectorWrapper
from torch import Tensor

from worldsim.envs.episode_statistics import EpisodeStatistics
from worldsim.errors import ConfigError

__all__ = ["ActionRepeat"]

_KEPT = 300
"""Episodes whose lengths are kept."""


class ActionRepeat(VectorWrapper):
    """Hold every action for ``frames`` frames; rewards of one decision are added up.

    An episode that ends within a decision is reported once, with the observation and the statistics of the
    frame that ended it; the episode that begins then goes through the rest of the decision unrewarded. With
    ``AutoresetMode.SAME_STEP`` alone.

    Raises:
        ConfigError: no frame, or another autoreset mode.
    """

    env: EpisodeStatistics

    def __init__(self, env: EpisodeStatistics, frames: int) -> None:
        super().__init__(env)
        if frames < 1:
            raise ConfigError("actions must be held for at least one frame", frames)
        if not env.choose_autoreset(AutoresetMode.SAME_STEP):
            rule = "held actions need an environment that begins episodes in the same step"
            raise ConfigError(rule, env.autoreset_mode, "make it with autoreset_mode='SameStep'")
        self.frames = frames
        self.lengths: deque[int] = deque(maxlen=_KEPT)
        """Frames of the newest episodes that ended."""

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """As the environment's."""
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """As the environment's, over all frames of a decision; ``info`` has only ``final_obs``,
        ``_final_obs``, ``episode`` and ``_episode``.
        """
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        over, final, episode = terminated | truncated, info.get("final_obs"), info["episode"]
        for _ in range(self.frames - 1):
            observations, more, ended, cut, info = self.env.step(actions)
            rewards = rewards + more * ~over
            now = (ended | cut) & ~over
            terminated, truncated = terminated | (ended & now), truncated | (cut & now)
            over = over | now
            if "final_obs" in info:
                last = info["final_obs"]
                final = last if final is None else torch.where(_wide(now, last), last, final)
            episode = {name: torch.where(now, info["episode"][name], kept) for name, kept in episode.items()}
        self.lengths.extend(episode["l"][over].tolist())
        merged: dict[str, Any] = {"episode": episode, "_episode": over}
        if final is not None:
            merged |= {"final_obs": torch.where(_wide(over, final), final, observations), "_final_obs": over}
        return observations, rewards, terminated, truncated, merged


def _wide(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (like.ndim - 1))
