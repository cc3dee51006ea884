"""Options that all commands share that learn in dreams, and the settings that they stand for."""

from __future__ import annotations

import argparse
from typing import Any

from worldsim.agents.dreamer.learners import require_cma
from worldsim.agents.dreamer.training import LEARNERS, DreamSettings
from worldsim.options import COUNT, DENOISING, NATURAL, PROCESSES, Number

__all__ = ["add_dream_options", "dream_settings"]

_HIDDEN = Number(low=1, high=4096)
_POPULATION = Number(low=4, high=1024)
_SETTINGS = ("learner", "population", "hidden", "layers", "dreams", "denoising_steps", "episode")
"""Fields of ``DreamSettings`` that are options of the same name."""
_SIZES = {"ppo": {"hidden": 64, "layers": 1}, "cma-es": {"hidden": 32, "layers": 0}}
"""Sizes of each learner's policy, where the command line names none."""


def add_dream_options(parser: argparse.ArgumentParser) -> None:
    """Add learner and sizes of the policy, and of the dreams number, starts, denoising passes and length."""
    add = parser.add_argument
    add("--learner", choices=LEARNERS, default="ppo", help="PPO, or CMA-ES on a linear policy")
    add(
        "--population",
        type=_POPULATION,
        default=32,
        help="candidates of a generation of CMA-ES; --dreams is a multiple of it",
    )
    add(
        "--hidden",
        type=_HIDDEN,
        help="units of the policy's layers; with CMA-ES, principal components (default: 64; CMA-ES: 32)",
    )
    add("--layers", type=NATURAL, choices=(0, 1, 2), help="layers of the policy (default: 1; CMA-ES: 0)")
    add("--dreams", type=PROCESSES, default=256, help="dreams side by side")
    add(
        "--denoising-steps",
        type=DENOISING,
        help="denoising passes of a dream's frame, K; fewer are faster (default: the sampler's)",
    )
    add("--starts", type=COUNT, default=128, help="recorded beginnings of dreams")
    add("--episode", type=COUNT, default=1050, help="frames of an episode at most")


def dream_settings(options: argparse.Namespace, **others: Any) -> DreamSettings:
    """The settings that parsed options stand for; ``others`` are the fields that the command reads itself.

    Raises:
        ConfigError: options that contradict each other. DependencyError: CMA-ES is not installed.
    """
    given = {name: getattr(options, name) for name in _SETTINGS}
    given |= {name: size for name, size in _SIZES[options.learner].items() if given[name] is None}
    settings = DreamSettings(**given, **others)
    if settings.learner == "cma-es":
        require_cma()
    return settings
