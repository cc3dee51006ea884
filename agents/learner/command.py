"""What the learners' command lines have in common: their options, and the episodes that these describe."""

from __future__ import annotations

import argparse

import gymnasium

import worldsim
from worldsim.envs.vector import ImaginedVectorEnv

__all__ = ["make_envs", "parser"]


def parser(description: str) -> argparse.ArgumentParser:
    """The options of every learner."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--world", default="doom-maze", help="name or folder of the world")
    options.add_argument("--timesteps", type=int, default=100_000, help="frames in all")
    options.add_argument("--num-envs", type=int, default=8, help="episodes side by side")
    options.add_argument("--rollout", type=int, default=64, help="frames per episode and iteration")
    options.add_argument("--episode", type=int, default=1050, help="frames after which an episode is cut off")
    options.add_argument("--steps", type=int, default=1, choices=(1, 2, 4), help="denoising steps per frame")
    options.add_argument("--device", default="auto")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", help="safetensors file to save the policy to")
    return options


def make_envs(options: argparse.Namespace, autoreset_mode: str = "SameStep") -> ImaginedVectorEnv:
    """The vector environment that the options of ``parser`` describe."""
    envs = gymnasium.make_vec(
        f"{worldsim.__name__}:WorldsimWorld-v0",
        num_envs=options.num_envs,
        world=options.world,
        steps=options.steps,
        device=options.device,
        max_episode_steps=options.episode,
        autoreset_mode=autoreset_mode,
    )
    assert isinstance(envs, ImaginedVectorEnv)
    return envs
