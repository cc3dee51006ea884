"""Worlds that are always stepped together, in tensors on the networks' device: a vector environment's engine.

Unlike ``Engine`` it has no sessions, no offloading and no rewinding. On a GPU a step and a restart do not
synchronise and copy nothing to the host.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from worldsim.context import Context
from worldsim.engine.batch_step import BatchStep
from worldsim.engine.cpu_workers import CpuWorkers
from worldsim.engine.cuda_graphs import Work, captured
from worldsim.engine.in_process import InProcess
from worldsim.engine.loaded_world import LoadedWorld
from worldsim.engine.session_init import SessionInit, context_length
from worldsim.engine.stepper import Stepper
from worldsim.engine.temperature import Temperature, TemperatureRange
from worldsim.errors import EngineError
from worldsim.pixels import to_model
from worldsim.sampling.control_batch import ControlBatch, ControlTensors
from worldsim.sampling.protocol import check_denoising_steps
from worldsim.sampling.world_state import WorldState, empty_state


class WorldBatch(InProcess):
    """``count`` worlds side by side; see ``World.batch``.

    The same seed, start and controls give the frames of a session of an ``Engine``, on a CPU to the bit.
    Returned tensors are never overwritten by later steps.
    """

    def __init__(
        self,
        world: LoadedWorld,
        count: int,
        context: int | None,
        denoising_steps: int | None,
        temperature: Temperature = 1.0,
        decode: bool = True,
    ) -> None:
        if count < 1:
            raise EngineError("a batch must have at least one world", count)
        self.world, self.count = world, count
        self._temperatures, self.decode = TemperatureRange.read(temperature), decode
        self.context = context_length(world, context)
        self.denoising_steps = check_denoising_steps(world.networks.sampler, denoising_steps)
        size, networks = world.spec.size if decode else (0, 0), world.networks
        tokens, channels = networks.tokenizer.latent_spec.shape
        features = tokens * channels + networks.generator.width
        self.now = BatchStep.empty(
            count, size, networks.has_poses, features, world.device, networks.knows_chances
        )
        """Newest step of every world."""
        self._state = empty_state(world.networks, count, self.context)
        self._stepper = Stepper(world.networks, self._state)
        self._session_init = SessionInit(world, self.context)
        self._workers = CpuWorkers(
            world.device, world.spec.size, world.invariance, None if decode else _together(count)
        )
        self._bank: tuple[WorldState, BatchStep] | None = None
        self._steppers: dict[bool, Work] = {}

    def begin(
        self, rows: Sequence[int], seeds: Sequence[int], starts: Sequence[int | Context | None]
    ) -> None:
        """Begin worlds anew.

        Args:
            rows: which.
            seeds: seed of each one's sampling.
            starts: of each: a number of the world's starts, given frames, or None: what its seed picks.

        Raises:
            EngineError, CameraError: as ``Engine.open``; no world has begun then.
        """
        seeds = [operator.index(seed) for seed in seeds]
        found = [self._session_init.resolve(seed, start) for seed, start in zip(seeds, starts, strict=True)]
        begun: list[BatchStep] = []
        for row, seed, (number, context) in zip(rows, seeds, found, strict=True):
            with torch.inference_mode():
                state, seen = self._prefill(number, context, seed)
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
            state.seeds, state.temperature = seeds, self._temperatures.of_all(seeds)
            self._state.replace(mask, state)
        self.now = self.now.where(mask, replace(self._bank[1].pick(starts), seed=seeds))

    def pick_start(self, seed: int) -> int:
        """The number of the start that a seed chooses where none is asked for."""
        return self._session_init.pick_start(seed)

    def step(self, controls: ControlBatch) -> BatchStep:
        """Imagine one frame of every world."""
        control_tensors = controls.to(self.world.device)
        self.now = (
            self._captured(control_tensors)
            if self.world.device.type == "cuda"
            else self._work(control_tensors)
        )
        return self.now

    def observe(self, frames: np.ndarray, controls: ControlBatch) -> BatchStep:
        """Take real frames, uint8 [N, H, W, 3], as the next ones of all worlds; see ``Session.observe``.

        Raises:
            EngineError: frames of another shape or type, or of a world that needs their poses.
        """
        if self.world.networks.has_poses:
            rule = "frames of worlds learnt with poses must be observed one by one"
            raise EngineError(rule, self.world.name, "use Session.observe")
        if frames.shape != (shape := (self.count, *self.world.spec.size, 3)) or frames.dtype != np.uint8:
            raise EngineError(f"frames must be uint8 {list(shape)}", f"{frames.dtype} {list(frames.shape)}")
        everyone = slice(0, self.count)
        with torch.inference_mode():
            given, part = to_model(frames, self.world.device), self._state.over(everyone)
            control_tensors = controls.to(self.world.device)
            self.now = self._fitting(self._stepper.observe(everyone, given, control_tensors, part))
        return self.now

    def _prefill(self, number: int | None, context: Context, seed: int) -> tuple[WorldState, BatchStep]:
        state, seen = self._session_init.prefill(number, context, seed)
        state.temperature = torch.full_like(state.temperature, self._temperatures.of(seed))
        return state, self._fitting(seen)

    def _fitting(self, seen: BatchStep) -> BatchStep:
        """The same without frames where they are not wanted."""
        return seen if self.decode else replace(seen, frame=seen.frame[:, :0, :0])

    def _work(self, control_tensors: ControlTensors, rows: Tensor | None = None) -> BatchStep:
        """Step all worlds, a few in each lane."""

        def work(rows: np.ndarray) -> BatchStep:
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            return self._stepper.step(part, control_tensors.pick(part), self.denoising_steps, self.decode)

        return BatchStep.cat([step for _, step in self._workers.run(self.count, work)])

    def _captured(self, control_tensors: ControlTensors) -> BatchStep:
        """As ``_work``, captured at the first call, which leaves the worlds where they were."""
        posed = control_tensors.poses is not None
        if posed not in self._steppers:
            with torch.inference_mode():
                before = self._state.pick(slice(None))
                self._steppers[posed] = captured(self._work, control_tensors, None)
                self._state.put(slice(None), before)
        return self._steppers[posed](control_tensors, None)

    def _fill_bank(self) -> tuple[WorldState, BatchStep]:
        """All starts of the world, a row each."""
        count = len(self.world.starts)
        state, seen = empty_state(self.world.networks, count, self.context), []
        for number in range(count):
            with torch.inference_mode():
                first, shown = self._prefill(*self._session_init.resolve(0, number), 0)
                state.put(slice(number, number + 1), first)
            seen.append(shown)
        return state, BatchStep.cat(seen)


def _together(count: int) -> int:
    """Rows of a core where all cores share ``count``."""
    return -(-count // torch.get_num_threads())
