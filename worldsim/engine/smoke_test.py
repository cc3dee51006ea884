"""Smoke test of a loaded world: one frame in plain torch, which fails if its parts do not fit."""

from __future__ import annotations

import numpy as np
import torch

from worldsim.checkpoint import StoredWorld
from worldsim.errors import CheckpointError
from worldsim.pixels import to_model
from worldsim.sampling.clock import imagine_frame, init_state
from worldsim.sampling.control_batch import ControlBatch

__all__ = ["smoke_test"]


def smoke_test(stored: StoredWorld) -> None:
    """Imagine a frame with the networks as they were read.

    Raises:
        CheckpointError: its parts do not fit each other or its source, or the frame is not finite.
    """
    try:
        fault = _fault(stored)
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"[:300]
    if fault:
        rule, remedy = "a world's parts must fit each other", "install or train the world again"
        raise CheckpointError(rule, f"{stored.config.name[:80]}: {fault}", remedy)


def _fault(stored: StoredWorld) -> str:
    """Description of the fault; empty if there is none."""
    source, networks = stored.config.source, stored.networks
    if networks.has_poses and not source.has_pose:
        return "networks that need poses, of a source that has none"
    start = stored.starts[0] if stored.starts else None
    shown = np.zeros((1, *source.size, 3), np.uint8) if start is None else start.frames[-1:]
    pose = np.eye(4)[None] if start is None or start.poses is None else start.poses[-1:]
    still = np.zeros((1, source.control_space.size), np.float32)
    with torch.inference_mode():
        state = init_state(networks, to_model(shown, networks.device), pose, np.zeros(1, np.uint64))
        unit = imagine_frame(networks, state, ControlBatch(still), min(networks.sampler.allowed_steps))
    size = tuple(unit.frame.shape)
    if size != (1, 3, *source.size):
        return f"frames {list(size)} of a source of {list(source.size)}"
    outputs = (
        unit.frame,
        unit.latent,
        unit.reward,
        unit.continue_prob,
        unit.uncertainty,
        state.poses,
        state.agent,
    )
    return "" if all(bool(torch.isfinite(part).all()) for part in outputs) else "a frame that is not finite"
