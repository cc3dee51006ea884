"""Stepper: moves rows of a state on by one frame."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.engine.batch_step import BatchStep
from worldsim.model.state import Rows
from worldsim.networks import Networks
from worldsim.sampling.clock import imagine_frame, observe_frame
from worldsim.sampling.control_batch import ControlTensors
from worldsim.sampling.world_state import WorldState


class Stepper:
    """Moves rows of ``state`` on. Engine, WorldBatch and Buckets use it."""

    def __init__(self, networks: Networks, state: WorldState) -> None:
        self.networks, self.state = networks, state

    def step(
        self,
        rows: Rows,
        control_tensors: ControlTensors,
        denoising_steps: int,
        decode: bool = True,
        part: WorldState | None = None,
    ) -> BatchStep:
        """Imagine the next frame of some rows.

        Args:
            rows: of the state.
            control_tensors: the controls of these rows.
            denoising_steps: denoising steps, K.
            decode: False: frames are not wanted, and are empty in the answer.
            part: what ``state.over(rows)`` gave, if it was asked for before.
        """
        with torch.inference_mode():
            part = self.state.over(rows) if part is None else part
            imagined = imagine_frame(self.networks, part, control_tensors, denoising_steps, decode)
            self.state.take(rows, part)
            return BatchStep.of(
                imagined, part, control_tensors.pose_mask, denoising_steps, decode, self.networks.has_poses
            )

    def observe(
        self, rows: Rows, frames: Tensor, control_tensors: ControlTensors, part: WorldState
    ) -> BatchStep:
        """Take given ``frames`` [B, 3, H, W] as the next ones of some rows; see ``step``."""
        with torch.inference_mode():
            imagined = observe_frame(self.networks, part, frames, control_tensors)
            self.state.take(rows, part)
            return BatchStep.of(imagined, part, control_tensors.pose_mask, 0, True, self.networks.has_poses)
