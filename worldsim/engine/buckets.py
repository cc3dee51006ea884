"""Batch sizes rounded up to buckets, for devices that need few of them.

A GPU chooses its kernels by shape, and a CUDA graph has one shape. The slots of a step are padded to 1, 2, 4,
... rows with a spare row of the engine's state, which is never read.
"""

from __future__ import annotations

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from worldsim.engine.batch_step import BatchStep
from worldsim.engine.cuda_graphs import Work, captured
from worldsim.engine.stepper import Stepper
from worldsim.sampling.control_batch import ControlBatch, ControlTensors
from worldsim.sampling.upload import upload


def wants_buckets(device: torch.device) -> bool:
    """True on devices that need few batch sizes: GPUs. On a CPU every core steps a few rows of its own."""
    return device.type == "cuda"


class Buckets:
    """Steps rows of a stepper's state, whose last row is the spare one; on a GPU by CUDA graphs."""

    def __init__(self, stepper: Stepper) -> None:
        self._stepper, seeds = stepper, stepper.state.seeds
        self._spare, self._device = len(seeds) - 1, seeds.device
        self._steppers: dict[tuple[int, int, bool, bool], Work] = {}

    @property
    def sizes(self) -> list[int]:
        """All sizes, smallest first; the largest is that of all slots."""
        powers = [2**power for power in range(self._spare.bit_length())]
        return sorted({*(size for size in powers if size < self._spare), self._spare})

    def size_of(self, count: int) -> int:
        """The smallest size that ``count`` slots fit."""
        return next(size for size in self.sizes if size >= count)

    def step(
        self, slots: np.ndarray, controls: ControlBatch, denoising_steps: int, frames: bool
    ) -> BatchStep:
        """Imagine a frame in each of ``slots``; see ``Stepper.step``."""
        count = len(slots)
        rows = np.append(slots, [self._spare] * (self.size_of(count) - count)).astype(np.int64)
        control_tensors = self._filled(controls.to(self._device), len(rows))
        index = upload(rows, self._device)
        return self._work_of(control_tensors, index, denoising_steps, frames)(control_tensors, index).pick(
            slice(count)
        )

    def warm(self, denoising_steps: int) -> None:
        """Make ready for steps of every size; says on a terminal how far that is."""
        width = self._stepper.networks.control_size
        console = Console(stderr=True)
        for size in track(self.sizes, "getting ready", console=console, disable=not console.is_terminal):
            control_tensors = ControlTensors(torch.zeros(size, width, device=self._device))
            rows = torch.full((size,), self._spare, device=self._device)
            self._work_of(control_tensors, rows, denoising_steps, True)

    def _work_of(
        self, control_tensors: ControlTensors, rows: torch.Tensor, denoising_steps: int, frames: bool
    ) -> Work:
        key = (len(rows), denoising_steps, frames, control_tensors.poses is not None)
        if key not in self._steppers:
            work = self._work(denoising_steps, frames)
            spare = torch.full_like(rows, self._spare)  # what is tried out must not move a session
            self._steppers[key] = (
                captured(work, control_tensors, spare) if self._device.type == "cuda" else work
            )
        return self._steppers[key]

    def _work(self, denoising_steps: int, frames: bool) -> Work:
        def work(control_tensors: ControlTensors, rows: torch.Tensor | None) -> BatchStep:
            assert rows is not None, "buckets always name their rows"
            return self._stepper.step(rows, control_tensors, denoising_steps, frames)

        return work

    def _filled(self, control_tensors: ControlTensors, size: int) -> ControlTensors:
        """``control_tensors`` with rows for the spare ones."""
        more = size - len(control_tensors.vector)
        if not more:
            return control_tensors
        vector = torch.cat(
            [control_tensors.vector, control_tensors.vector.new_zeros(more, control_tensors.vector.shape[1])]
        )
        if control_tensors.poses is None or control_tensors.pose_mask is None:
            return ControlTensors(vector)
        eye = torch.eye(4, dtype=control_tensors.poses.dtype, device=self._device).repeat(more, 1, 1)
        return ControlTensors(
            vector,
            torch.cat([control_tensors.poses, eye]),
            torch.cat([control_tensors.pose_mask, control_tensors.pose_mask.new_zeros(more)]),
        )
