"""Loading of a world for timing: with its weights, or with random ones if these were left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from worldsim import config as configs
from worldsim.checkpoint import StoredWorld, WorldConfig, find_world, read_starts
from worldsim.engine.precision import best_dtype
from worldsim.engine.world import World, load
from worldsim.networks import Networks, find_device

__all__ = ["load_or_initialise"]


def load_or_initialise(name: str, device: str) -> tuple[World, bool]:
    """Return a world, and whether its weights are its own: a step takes the same time with any."""
    folder = find_world(name)
    if (folder / "weights.safetensors").exists():
        return load(name, device), True
    found = find_device(device)
    stored = _make(folder)
    stored.networks.eval().requires_grad_(False).to(found)
    return World(stored, found, best_dtype(stored.networks)), False


def _make(folder: Path) -> StoredWorld:
    torch.manual_seed(0)
    config = configs.load(WorldConfig, folder / "config.json")
    config = replace(config, name=f"{config.name}, untrained")
    networks = Networks(config.networks, config.source)
    return StoredWorld(config, networks, read_starts(folder, config.source), "", "untrained")
