"""Tiny networks and worlds with all weights stirred: nothing hides behind an output that starts at zero."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from worldsim.checkpoint import load_world, save_world
from worldsim.testing import tiny_world


def stir(module: nn.Module, seed: int = 1, scale: float = 0.1) -> None:
    """Add noise to every weight, in place."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(module.named_parameters()):
            weight.add_(scale * torch.randn(weight.shape, generator=chance))


def lively_world(parent: Path, name: str = "tiny", *, tokenizer: str = "history", poses: bool = True) -> Path:
    """A tiny world on disk that answers to its noise and its controls."""
    folder = tiny_world(parent, name, tokenizer=tokenizer, poses=poses)
    stored = load_world(folder)
    stir(stored.networks)
    save_world(folder, stored.config, stored.networks, stored.starts, stored.card)
    return folder


def random_like(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normals of a shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
