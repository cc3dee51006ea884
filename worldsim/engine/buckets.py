"""Steps of any number of slots as steps of a few sizes, for devices that want to know them beforehand.

A GPU chooses its kernels by shape, and a graph has one. So the slots asked for are filled up to 1, 2, 4, ...
with a spare row of the engine's state, which nobody reads.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from worldsim.engine.batch_step import BatchStep
from worldsim.engine.graphs import Work, recorded
from worldsim.engine.step import Step
from worldsim.networks import Networks
from worldsim.sampling.imagine import imagine_unit
from worldsim.sampling.lead import Controls, Lead
from worldsim.sampling.upload import upload
from worldsim.sampling.world_state import WorldState


def wants_buckets(device: torch.device) -> bool:
    """Whether steps on ``device`` gain by it; on a CPU, where every core has a few rows, they do not."""
    return device.type == "cuda"


class Buckets:
    """Steps rows of ``state``, whose last row is the spare one; on a GPU by CUDA graphs.

    Args:
        size: height and width of a frame.
    """

    def __init__(self, networks: Networks, state: WorldState, size: tuple[int, int]) -> None:
        self._networks, self._state, self._size = networks, state, size
        self._spare = len(state.seeds) - 1
        self._device = state.seeds.device
        self._steppers: dict[tuple[int, int, bool, bool], Work] = {}

    @property
    def sizes(self) -> list[int]:
        """All sizes, smallest first; the largest is that of all slots."""
        powers = [2**power for power in range(self._spare.bit_length())]
        return sorted({*(size for size in powers if size < self._spare), self._spare})

    def fitting(self, count: int) -> int:
        """The smallest size that ``count`` slots fit."""
        return next(size for size in self.sizes if size >= count)

    def step(self, slots: np.ndarray, controls: Controls, steps: int, frames: bool) -> list[Step]:
        """Dream a frame in each of ``slots``; see ``Engine.step``."""
        count = len(slots)
        rows = np.append(slots, [self._spare] * (self.fitting(count) - count)).astype(np.int64)
        lead = self._filled(controls.on(self._device), len(rows))
        index = upload(rows, self._device)
        seen = self._stepper(lead, index, steps, frames)(lead, index)
        told = seen.pick(slice(count)).rows()
        return told if frames else [replace(one, frame=np.empty((0, 0, 3), np.uint8)) for one in told]

    def warm(self, steps: int) -> None:
        """Make ready for steps of every size; says on a terminal how far that is."""
        width = self._networks.control_size
        console = Console(stderr=True)
        for size in track(self.sizes, "getting ready", console=console, disable=not console.is_terminal):
            lead = Lead(torch.zeros(size, width, device=self._device))
            rows = torch.full((size,), self._spare, device=self._device)
            self._stepper(lead, rows, steps, True)

    def _stepper(self, lead: Lead, rows: torch.Tensor, steps: int, frames: bool) -> Work:
        key = (len(rows), steps, frames, lead.poses is not None)
        if key not in self._steppers:
            work = self._work(steps, frames)
            spare = torch.full_like(rows, self._spare)  # what is tried out must not move a session
            self._steppers[key] = recorded(work, lead, spare) if self._device.type == "cuda" else work
        return self._steppers[key]

    def _work(self, steps: int, frames: bool) -> Work:
        networks, state = self._networks, self._state

        def work(lead: Lead, rows: torch.Tensor | None) -> BatchStep:
            assert rows is not None, "always told"
            with torch.inference_mode():
                part = state.over(rows)
                imagined = imagine_unit(networks, part, lead, steps, frames)
                state.take(rows, part)
                seen = BatchStep.room(networks, len(rows), self._size, steps)
                seen.fill(slice(None), imagined, part, lead.given)
            return seen

        return work

    def _filled(self, lead: Lead, size: int) -> Lead:
        """``lead`` with rows for the spare ones."""
        more = size - len(lead.vector)
        if not more:
            return lead
        vector = torch.cat([lead.vector, lead.vector.new_zeros(more, lead.vector.shape[1])])
        if lead.poses is None or lead.given is None:
            return Lead(vector)
        eye = torch.eye(4, dtype=lead.poses.dtype, device=self._device).repeat(more, 1, 1)
        return Lead(vector, torch.cat([lead.poses, eye]), torch.cat([lead.given, lead.given.new_zeros(more)]))
