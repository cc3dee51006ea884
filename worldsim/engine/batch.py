"""Worlds that are always stepped together, in tensors where the networks are: a vector environment's engine.

Beside ``Engine`` it is small: no sessions, no parking, no way back. On a GPU a step and a restart wait for
nothing and copy nothing to the host.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from worldsim.checkpoint import Context
from worldsim.engine.batch_step import BatchStep
from worldsim.engine.graphs import Work, recorded
from worldsim.engine.lanes import Lanes
from worldsim.engine.loaded import LoadedWorld
from worldsim.engine.openings import Openings, fitting
from worldsim.engine.stepper import Stepper
from worldsim.errors import EngineError
from worldsim.sampling.lead import Controls, Lead
from worldsim.sampling.protocol import check_steps
from worldsim.sampling.world_state import WorldState, blank


class Batch:
    """``count`` worlds side by side; see ``World.batch``.

    The same seed, start and controls give the frames that a session of an ``Engine`` dreams, on a CPU to the
    bit. All that is returned is new: later steps leave it alone.
    """

    def __init__(self, world: LoadedWorld, count: int, context: int | None, steps: int) -> None:
        if count < 1:
            raise EngineError("a batch must have at least one world", count)
        self.world, self.count = world, count
        self.context = fitting(world, context)
        self.steps = check_steps(world.networks.sampler, steps)
        spec = world.spec
        self.now = BatchStep.empty(count, spec.size, world.networks.has_poses, world.device)
        """What every world shows now."""
        self._state = blank(world.networks, count, self.context)
        self._stepper = Stepper(world.networks, self._state)
        self._openings = Openings(world, self.context)
        self._lanes = Lanes(world.device, world.spec.size, world.invariance)
        self._bank: tuple[WorldState, BatchStep] | None = None
        self._steppers: dict[bool, Work] = {}

    def begin(
        self, rows: Sequence[int], seeds: Sequence[int], starts: Sequence[int | Context | None]
    ) -> None:
        """Begin worlds anew.

        Args:
            rows: which.
            seeds: of each one's chance.
            starts: of each: a number of the world's starts, given frames, or None: what its seed picks.

        Raises:
            EngineError, CameraError: as ``Engine.open``; no world has begun then.
        """
        seeds = [operator.index(seed) for seed in seeds]
        found = [self._openings.find(seed, start) for seed, start in zip(seeds, starts, strict=True)]
        begun: list[BatchStep] = []
        for row, seed, (number, context) in zip(rows, seeds, found, strict=True):
            with torch.inference_mode():
                state, seen = self._openings.take_in(number, context, seed)
                self._state.put(slice(row, row + 1), state)
            begun.append(seen)
        numbers = torch.tensor(list(rows), dtype=torch.int64, device=self.world.device)
        self.now = self.now.put(numbers, BatchStep.cat(begun)) if begun else self.now

    def restart(self, mask: Tensor, seeds: Tensor, starts: Tensor) -> None:
        """Begin the worlds of ``mask`` anew without asking on the host which these are.

        Args:
            mask: bool [N].
            seeds, starts: int64 [N], of which those in the mask are read; numbers of the world's starts.
        """
        if self._bank is None:
            self._bank = self._fill_bank()
        with torch.inference_mode():
            state = self._bank[0].pick(starts)
            state.seeds = seeds
            self._state.replace(mask, state)
        self.now = self.now.where(mask, replace(self._bank[1].pick(starts), seed=seeds))

    def pick_start(self, seed: int) -> int:
        """The number of the start that a seed chooses where none is asked for."""
        return self._openings.pick(seed)

    def step(self, controls: Controls) -> BatchStep:
        """Dream one frame of every world."""
        lead = controls.on(self.world.device)
        self.now = self._captured(lead) if self.world.device.type == "cuda" else self._work(lead)
        return self.now

    def _work(self, lead: Lead, rows: Tensor | None = None) -> BatchStep:
        """Step all worlds, a few in each lane."""

        def work(rows: np.ndarray) -> BatchStep:
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            return self._stepper.step(part, lead.pick(part), self.steps)

        return BatchStep.cat([step for _, step in self._lanes.run(self.count, work)])

    def _captured(self, lead: Lead) -> BatchStep:
        """As ``_work``, recorded at the first call, which leaves the worlds where they were."""
        posed = lead.poses is not None
        if posed not in self._steppers:
            with torch.inference_mode():
                before = self._state.pick(slice(None))
                self._steppers[posed] = recorded(self._work, lead, None)
                self._state.put(slice(None), before)
        return self._steppers[posed](lead, None)

    def _fill_bank(self) -> tuple[WorldState, BatchStep]:
        """All starts of the world, a row each."""
        count = len(self.world.starts)
        state, seen = blank(self.world.networks, count, self.context), []
        for number in range(count):
            with torch.inference_mode():
                first, shown = self._openings.take_in(*self._openings.find(0, number), 0)
                state.put(slice(number, number + 1), first)
            seen.append(shown)
        return state, BatchStep.cat(seen)
