"""Stable-Baselines3's PPO inside a world.

python -m worldsim.agents.learner.ppo_sb3 --world doom-maze --timesteps 100000
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gymnasium import spaces

from worldsim.agents.learner.command import make_envs, read_options, save_policy
from worldsim.agents.learner.network import FrameEncoder
from worldsim.envs.sb3 import SB3VecEnv  # first, for it says what to install where SB3 is missing
from worldsim.utils.run_command import run_command

# isort: split
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecMonitor

__all__ = ["Features", "main"]


class Features(BaseFeaturesExtractor):
    """The learners' frame encoder for SB3: frames float [B, 3, H, W] in [0, 1] to features [B, 128]."""

    def __init__(self, observation_space: spaces.Box) -> None:
        encoder = FrameEncoder()
        super().__init__(observation_space, encoder.width)
        self.encoder = encoder

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.encoder(frames.movedim(-3, -1) * 255)
        return features


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, learn, and save the policy where asked to."""
    options = read_options("Learn to act in a world with Stable-Baselines3's PPO.", argv)
    envs = make_envs(options)
    learner = PPO(
        "CnnPolicy",
        VecMonitor(SB3VecEnv(envs)),
        n_steps=options.rollout,
        batch_size=max(2, options.rollout * options.num_envs // 4),
        ent_coef=0.01,
        policy_kwargs={"features_extractor_class": Features},
        device=options.device,
        seed=options.seed,
        verbose=1,
    )
    learner.learn(options.timesteps)
    if options.out:
        save_policy(learner.policy, options.out)
    envs.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
