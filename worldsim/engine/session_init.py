"""Start of a session: choice of the start, checks of given frames, and prefill of the state."""

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
"""Index of the random draw that picks the start; frames use lower ones."""


def context_length(world: LoadedWorld, context: int | None) -> int:
    """Check a context length in units; None: that of the training.

    Raises:
        EngineError: too few, or more than the world was trained with.
    """
    generator = world.networks.generator
    length, least = generator.context if context is None else context, generator.min_context
    if length < least:
        raise EngineError(f"an engine's context must be at least {least}", context)
    most: int | None = getattr(generator, "max_context", None)  # of the generators that have a bound
    if most is not None and length > most:
        rule = f"this world was trained with a context of at most {most}"
        raise EngineError(rule, context, f"choose {least} to {most}")
    return length


def _start_number(start: object) -> int:
    try:
        return operator.index(start)  # type: ignore[arg-type]
    except TypeError as error:
        rule, remedy = "a start must be a number or a Context", "write Context(frames, controls, poses)"
        raise EngineError(rule, type(start).__name__, remedy) from error


class SessionInit:
    """Makes the initial states of sessions of ``world``, with a context of ``length`` units.

    A start is prefilled once, when it is first used: its state does not depend on seeds.
    """

    def __init__(self, world: LoadedWorld, length: int) -> None:
        self.world, self.length = world, length
        self._frames = length * world.networks.unit.frames
        """Given frames at most."""
        self._prefilled: dict[int, tuple[WorldState, Imagined]] = {}

    def resolve(self, seed: int, start: int | Context | None) -> tuple[int | None, Context]:
        """The start's number, None for given frames, and its newest frames.

        Raises:
            EngineError: no such start, or a context that does not fit the world.
            ControlError: a context whose controls the world does not take.
            CameraError: a context with invalid poses.
        """
        if isinstance(start, Context):
            self._check_columns(start)
            number, context = None, start.fitted(self.world.spec.control_space)
        else:
            number = self.pick_start(seed) if start is None else _start_number(start)
            context = self._start(number)
        self._check(context)
        return number, context

    def pick_start(self, seed: int) -> int:
        """Number of the start that a seed chooses."""
        if not self.world.starts:
            rule = "a world without starts needs given frames"
            raise EngineError(rule, self.world.name, "open(start=Context(...))")
        spread = normal(seed, 0, _START_DRAW, 2)
        return int(abs(float(spread[0])) * 1e6) % len(self.world.starts)

    def prefill(self, number: int | None, context: Context, seed: int) -> tuple[WorldState, BatchStep]:
        """Initial state of a resolved start, and its newest frame as a step. Both must not be written to.

        The seed is stored only: nothing has been sampled yet.
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
        """Mask of the rows whose poses the world knows, bool [B]."""
        return self.world.networks.in_territory(state.poses, state.motion_history[:, -1, :6], None)

    def _prefill(self, context: Context) -> tuple[WorldState, Imagined]:
        """Run a context through the networks: the state, and the observation of its newest frame."""
        networks = self.world.networks
        frames = to_model(context.frames, self.world.device)
        poses = np.tile(np.eye(4), (len(frames), 1, 1)) if context.poses is None else context.poses
        given = np.array([networks.has_poses])
        with torch.inference_mode(), thread_limit(1):  # an encoder's products may differ on several
            state, newest = observe_first_frame(
                networks, frames[:1], poses[:1], np.zeros(1, np.uint64), self.length
            )
            newest = replace(newest, uncertainty=torch.zeros_like(state.pose_uncertainty))
            for t in range(1, len(frames)):
                controls = ControlBatch(
                    context.controls[t : t + 1].astype(np.float32), poses[t : t + 1], given
                )
                newest = observe_frame(networks, state, frames[t : t + 1], controls)
        return state, newest

    def _start(self, index: int) -> Context:
        starts = self.world.starts
        if not 0 <= index < len(starts):
            raise EngineError(f"a start must be in 0..{len(starts) - 1}", index)
        return starts[index].newest(self._frames)

    def _check_columns(self, context: Context) -> None:
        space, held = self.world.spec.control_space, context.controls
        allowed = len(space.keys), space.motion_size, space.size
        if isinstance(held, np.ndarray) and held.shape[1] not in allowed:
            raise EngineError(f"a context's controls must have {space.size} columns", held.shape[1])

    def _check(self, context: Context) -> None:
        spec, (length, *size, _) = self.world.spec, context.frames.shape
        if tuple(size) != tuple(spec.size):
            rule = f"a context's frames must be {spec.size[0]}x{spec.size[1]}"
            raise EngineError(rule, size, "resize them")
        if length > self._frames:
            rule = f"a context must have at most {self._frames} frames"
            raise EngineError(rule, length, "give the newest ones")
        if self.world.networks.has_poses and context.poses is None:
            rule = "a world learnt with poses needs a context with poses"
            raise EngineError(rule, None, "give Context(poses=...)")
        if context.poses is not None:
            camera.check_pose(context.poses)
