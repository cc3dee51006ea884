"""Common command line of the learners: their options, and the environment that these describe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import gymnasium
from safetensors import SafetensorError
from safetensors.torch import save_model
from torch import nn

import worldsim
from worldsim.engine.world import load
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import StorageError
from worldsim.options import COUNT, DENOISING, PROCESSES, SEED, Parser
from worldsim.utils.output_paths import claim_file

__all__ = ["make_envs", "read_options", "save_policy"]


def read_options(description: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options that every learner has; the file of the policy is tried before anything is learnt.

    Raises:
        ConfigError: a value out of its range. StorageError: the file is there already or cannot be written.
    """
    options = Parser(description=description)
    options.add_argument("--world", default="doom-maze", help="name or folder of the world")
    options.add_argument("--timesteps", type=COUNT, default=100_000, help="frames in all")
    options.add_argument("--num-envs", type=PROCESSES, default=8, help="episodes side by side")
    options.add_argument("--rollout", type=COUNT, default=64, help="frames per episode and iteration")
    options.add_argument("--episode", type=COUNT, default=1050, help="frames of an episode at most")
    options.add_argument(
        "--denoising-steps",
        type=DENOISING,
        help="of those that the world takes (default: 1, or all where one leaves details undrawn)",
    )
    options.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    options.add_argument("--seed", type=SEED, default=0, help="random seed")
    options.add_argument("--out", type=Path, help="safetensors file to save the policy to")
    options.add_argument("--force", action="store_true", help="replace the file --out")
    read = options.parse_args(argv)
    if read.out:
        claim_file(read.out, replace=read.force)
    return read


def save_policy(policy: nn.Module, path: Path) -> None:
    """Write a policy's weights.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        save_model(policy, str(path))
    except SafetensorError as error:
        raise StorageError("a policy must be written to its file", f"{path}: {error}") from error


def make_envs(options: argparse.Namespace, autoreset_mode: str = "SameStep") -> ImaginedVectorEnv:
    """The vector environment that the options describe."""
    world = load(options.world, options.device)
    envs = gymnasium.make_vec(
        f"{worldsim.__name__}:WorldsimWorld-v0",
        num_envs=options.num_envs,
        world=options.world,
        actions="discrete",
        denoising_steps=options.denoising_steps or world.denoising_steps_near(1),
        device=options.device,
        max_episode_steps=options.episode,
        autoreset_mode=autoreset_mode,
    )
    assert isinstance(envs, ImaginedVectorEnv)
    return envs
