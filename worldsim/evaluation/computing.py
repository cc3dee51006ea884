"""Inference as the engine does it: without gradients, in the world's number type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from worldsim.engine.world import World

__all__ = ["computing"]


@contextmanager
def computing(world: World) -> Iterator[None]:
    """Everything inside runs as in an engine of ``world``."""
    half = world.dtype == torch.bfloat16
    with torch.no_grad(), torch.autocast(world.device.type, torch.bfloat16, enabled=half):
        yield
