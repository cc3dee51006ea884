"""Options that all commands share that learn in dreams, and the settings that they stand for."""

from __future__ import annotations

import argparse
from typing import Any

from worldsim.agents.dreamer.training import DreamSettings
from worldsim.options import COUNT, DENOISING, PROCESSES, Number

__all__ = ["add_dream_options", "dream_settings"]

_HIDDEN = Number(low=1, high=4096)
_SETTINGS = ("hidden", "layers", "dreams", "denoising_steps", "episode")
"""Fields of ``DreamSettings`` that are options of the same name."""


def add_dream_options(parser: argparse.ArgumentParser) -> None:
    """Add sizes of the policy, and of the dreams their number, starts, denoising passes and length."""
    add = parser.add_argument
    add("--hidden", type=_HIDDEN, default=64, help="units of the policy's layers")
    add("--layers", type=COUNT, choices=(1, 2), default=1, help="layers of the policy")
    add("--dreams", type=PROCESSES, default=256, help="dreams side by side")
    add(
        "--denoising-steps",
        type=DENOISING,
        help="denoising passes of a dream's frame, K; fewer are faster (default: the sampler's)",
    )
    add("--starts", type=COUNT, default=128, help="recorded beginnings of dreams")
    add("--episode", type=COUNT, default=1050, help="frames of an episode at most")


def dream_settings(options: argparse.Namespace, **others: Any) -> DreamSettings:
    """The settings that parsed options stand for; ``others`` are the fields that the command reads itself."""
    return DreamSettings(**{name: getattr(options, name) for name in _SETTINGS}, **others)
