"""How a session begins: which start, whether given frames fit, and what is remembered of them."""

from __future__ import annotations

import operator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from worldsim import camera
from worldsim.context import Context
from worldsim.engine.batch_step import BatchStep
from worldsim.engine.loaded_world import LoadedWorld
from worldsim.engine.snapshot_rules import MAX_TEMPERATURE
from worldsim.errors import EngineError
from worldsim.pixels import to_model
from worldsim.sampling.clock import observe_first_frame, observe_frame
from worldsim.sampling.control_batch import ControlBatch
from worldsim.sampling.imagine import Imagined
from worldsim.sampling.noise import normal
from worldsim.sampling.philox import signed
from worldsim.sampling.world_state import WorldState
from worldsim.utils.threads import thread_limit

_START_DRAW = 2**32
"""The draw of a seed's chance that picks the start; frames use lower ones."""


def context_length(world: LoadedWorld, context: int | None) -> int:
    """How many frames of past are held where ``context`` are asked for; None: as many as in training.

    Raises:
        EngineError: too few.
    """
    generator = world.networks.generator
    length, least = generator.context if context is None else context, generator.min_context
    if length < least:
        raise EngineError(f"an engine's context must be at least {least}", context)
    return length


def check_temperature(value: float) -> float:
    """``value``.

    Raises:
        EngineError: it is no factor of chance that a world can have.
    """
    if not 0 <= value <= MAX_TEMPERATURE:
        raise EngineError(f"a temperature must be in [0, {MAX_TEMPERATURE:g}]", value, "use 1, as trained")
    return value


class SessionInit:
    """The ways into ``world`` for an engine that holds ``length`` frames of past.

    A start is taken in once, when it is first asked for: its state does not depend on seeds.
    """

    def __init__(self, world: LoadedWorld, length: int) -> None:
        self.world, self.length = world, length
        self._prefilled: dict[int, tuple[WorldState, Imagined]] = {}

    def resolve(self, seed: int, start: int | Context | None) -> tuple[int | None, Context]:
        """The start's number, None for given frames, and its newest frames.

        Raises:
            EngineError: no such start, or a context that does not fit the world.
            ControlError: a context whose controls the world does not take.
            CameraError: a context whose poses are none.
        """
        if isinstance(start, Context):
            self._check_columns(start)
            number, context = None, start.fitted(self.world.spec.control_space)
        else:
            number = self.pick_start(seed) if start is None else operator.index(start)
            context = self._start(number)
        self._check(context)
        return number, context

    def pick_start(self, seed: int) -> int:
        """The number of the start that a seed chooses."""
        if not self.world.starts:
            rule = "a world without starts needs given frames"
            raise EngineError(rule, self.world.name, "open(start=Context(...))")
        spread = normal(seed, 0, _START_DRAW, 2)
        return int(abs(float(spread[0])) * 1e6) % len(self.world.starts)

    def prefill(self, number: int | None, context: Context, seed: int) -> tuple[WorldState, BatchStep]:
        """What ``resolve`` found, as state, and its newest frame as if it had been dreamt; to be read only.

        The seed is only noted: nothing has been left to chance yet.
        """
        if number is None:
            state, newest = self._prefill(context)
        else:
            if number not in self._prefilled:
                self._prefilled[number] = self._prefill(context)
            state, newest = self._prefilled[number]
        state = replace(state, seeds=torch.full_like(state.seeds, signed(seed)))
        known, posed = self.known(state), self.world.networks.has_poses
        given = context.poses is not None
        return state, BatchStep.first(context.frames[-1], state, given, newest, known, posed)

    def known(self, state: WorldState) -> Tensor:
        """The worlds whose poses are known, bool [B]."""
        return self.world.networks.in_territory(state.poses, state.motion_history[:, -1, :6], None)

    def _prefill(self, context: Context) -> tuple[WorldState, Imagined]:
        """The state after a context, and what taking its newest frame in gave."""
        networks = self.world.networks
        frames = to_model(context.frames, self.world.device)
        poses = np.tile(np.eye(4), (len(frames), 1, 1)) if context.poses is None else context.poses
        given = np.array([networks.has_poses])
        with torch.inference_mode(), thread_limit(1):  # an encoder's products need not be the same on several
            state, newest = observe_first_frame(
                networks, frames[:1], poses[:1], np.zeros(1, np.uint64), self.length
            )
            newest = replace(newest, uncertainty=torch.zeros_like(state.pose_uncertainty))
            for t in range(1, len(frames)):
                controls = ControlBatch(context.controls[t : t + 1].astype(np.float32), poses[t : t + 1], given)
                newest = observe_frame(networks, state, frames[t : t + 1], controls)
        return state, newest

    def _start(self, index: int) -> Context:
        starts = self.world.starts
        if not 0 <= index < len(starts):
            raise EngineError(f"a start must be in 0..{len(starts) - 1}", index)
        return starts[index].newest(self.length)

    def _check_columns(self, context: Context) -> None:
        columns, held = self.world.spec.control_space.size, context.controls
        if isinstance(held, np.ndarray) and held.shape[1] not in (columns - 1, columns):
            raise EngineError(f"a context's controls must have {columns} columns", held.shape[1])

    def _check(self, context: Context) -> None:
        spec, (length, *size, _) = self.world.spec, context.frames.shape
        if tuple(size) != tuple(spec.size):
            rule = f"a context's frames must be {spec.size[0]}x{spec.size[1]}"
            raise EngineError(rule, size, "resize them")
        if length > self.length:
            rule = f"a context must have at most {self.length} frames"
            raise EngineError(rule, length, "give the newest ones")
        if self.world.networks.has_poses and context.poses is None:
            rule = "a world learnt with poses needs a context with poses"
            raise EngineError(rule, None, "give Context(poses=...)")
        if context.poses is not None:
            camera.check_pose(context.poses)
