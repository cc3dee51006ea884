"""The engine: slots for sessions, one batched pass for any subset of them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from worldsim import camera
from worldsim.checkpoint import Context
from worldsim.controls import Control
from worldsim.engine.session import Moment, Session
from worldsim.engine.snapshots import Snapshot, pack, unpack
from worldsim.engine.step import Step
from worldsim.errors import ControlError, EngineError
from worldsim.pixels import to_frame, to_model
from worldsim.sampling.flow import check_steps
from worldsim.sampling.noise import normal
from worldsim.sampling.rollout import Controls, Memory, Unit, begin, blank, observe_unit, step_unit

if TYPE_CHECKING:
    from worldsim.engine.world import World

_START_DRAW = 2**32
"""The draw of a seed's chance that picks the start; frames use lower ones."""


class Engine:
    """Holds every session's memory in one preallocated batch; row = slot."""

    def __init__(self, world: World, slots: int, context: int | None, steps: int, history: int) -> None:
        self.world, self.slots, self.history = world, slots, history
        config = world.config.networks.generator
        self.context = config.context if context is None else context
        if slots < 1 or history < 0:
            raise EngineError("an engine needs slots >= 1 and history >= 0", (slots, history))
        if self.context < max(2, config.sinks + 1):
            raise EngineError(f"an engine's context must be at least {max(2, config.sinks + 1)}", context)
        self._steps = check_steps(steps)
        self._free = list(range(slots))[::-1]
        self._memory = blank(world.networks, slots, self.context)

    @property
    def steps(self) -> int:
        """Denoising passes per frame, K: 1, 2 or 4."""
        return self._steps

    @steps.setter
    def steps(self, value: int) -> None:
        self._steps = check_steps(value)

    @property
    def free(self) -> int:
        """Slots that no session holds."""
        return len(self._free)

    def open(self, seed: int = 0, start: int | Context | None = None) -> Session:
        """Begin a session.

        Args:
            seed: of all its chance; the same seed, start and controls give the same frames.
            start: index into the world's starts, given frames, or None: a start picked by the seed.

        Raises:
            EngineError: no free slot, no such start, or a context that does not fit the world.
        """
        seed = operator.index(seed)
        self._check_free()
        if isinstance(start, Context):
            number, context = None, start
        else:
            number = self._pick_start(seed) if start is None else operator.index(start)
            context = self._start(number)
        self._check_context(context)
        with self.world.computing():
            memory, unit = self._take_in(context, seed)
        return self._seat(memory, seed=seed, start=number, step=self._first_step(context, unit, memory))

    def step(self, controls: Mapping[Session, Control]) -> dict[Session, Step]:
        """Dream one frame of every session named, in one batch.

        Raises:
            ControlError: a key that the world does not know, or a pose for a world without poses.
            CameraError: a pose that is no rotation and translation.
            EngineError: a session that is closed or of another engine. Nothing has moved after any of them.
        """
        for session in controls:
            self._check_open(session)
        sessions = sorted(controls, key=lambda session: session.slot)
        if not sessions:
            return {}
        batch = self._controls([controls[session] for session in sessions])
        rows = np.array([session.slot for session in sessions])
        with self.world.computing():
            memory = self._memory.pick(rows)
            before = [memory.pick(np.array([i])) if self.history else None for i in range(len(rows))]
            unit = step_unit(self.world.networks, memory, batch, self._steps)
            self._memory.put(rows, memory)
        steps = self._steps_of(unit, memory, batch.given)
        for session, step, past in zip(sessions, steps, before, strict=True):
            session.advance(step, past)
        return dict(zip(sessions, steps, strict=True))

    def fork(self, session: Session, count: int) -> list[Session]:
        """``count`` copies of a session in slots of their own."""
        self._check_open(session)
        if not 1 <= count <= self.free:
            rule = f"a fork must fit the {self.free} free slots"
            raise EngineError(rule, count, "open the engine with more slots")
        memory, history = self._row(session), session.history
        return [
            self._seat(memory, seed=session.seed, start=session.start, step=session.last, history=history)
            for _ in range(count)
        ]

    def snapshot(self, session: Session) -> bytes:
        """See ``Session.snapshot``."""
        self._check_open(session)
        snapshot = Snapshot(self._row(session), session.last, session.seed, session.start)
        return pack(snapshot, self.world.digest)

    def restore(self, blob: bytes) -> Session:
        """A session from a snapshot; it continues bit for bit as the original would have.

        Raises:
            EngineError: a damaged snapshot, one of other weights or another context length, or no free slot.
        """
        snapshot = unpack(blob, self.world.digest, self.world.device)
        held = snapshot.memory.cache.frames
        if held != self.context:
            rule = f"a snapshot must have this engine's context of {self.context} frames"
            raise EngineError(rule, held, f"use engine(context={held})")
        return self._seat(snapshot.memory, seed=snapshot.seed, start=snapshot.start, step=snapshot.step)

    def put(self, session: Session, moment: Moment) -> None:
        """Take a session to another moment of its own."""
        self._check_open(session)
        self._memory.put(np.array([session.slot]), moment.memory)
        session.last = moment.step

    def close(self, session: Session) -> None:
        """Free a session's slot."""
        if session.engine is self and not session.closed:
            session.closed = True
            self._free.append(session.slot)

    def _row(self, session: Session) -> Memory:
        return self._memory.pick(np.array([session.slot]))

    def _seat(
        self, memory: Memory, *, seed: int, start: int | None, step: Step, history: Iterable[Moment] = ()
    ) -> Session:
        self._check_free()
        session = Session(self, self._free[-1], seed=seed, start=start, step=step, history=history)
        self._memory.put(np.array([session.slot]), memory)
        self._free.pop()
        return session

    def _take_in(self, context: Context, seed: int) -> tuple[Memory, Unit | None]:
        """Memory (one row) after all frames of ``context``, and the last frame taken in on top of a first."""
        networks = self.world.networks
        frames = to_model(context.frames, self.world.device)
        poses = np.tile(np.eye(4), (len(frames), 1, 1)) if context.poses is None else context.poses
        given = np.array([networks.has_poses])
        seeds = np.array([seed % 2**64], np.uint64)
        memory, unit = begin(networks, frames[:1], poses[:1], seeds, self.context), None
        for t in range(1, len(frames)):
            controls = Controls(context.controls[t : t + 1].astype(np.float32), poses[t : t + 1], given)
            unit = observe_unit(networks, memory, frames[t : t + 1], controls)
        return memory, unit

    def _first_step(self, context: Context, unit: Unit | None, memory: Memory) -> Step:
        """The newest given frame, as if it had been dreamt."""
        return Step(
            frame=context.frames[-1].copy(),
            pose=memory.poses[0].copy() if self.world.networks.has_poses else None,
            pose_given=context.poses is not None,
            reward=0.0,
            terminated=False,
            drift=0.0 if unit is None else float(unit.surprise[0]) / 2,
            index=len(context.frames) - 1,
        )

    def _controls(self, controls: list[Control]) -> Controls:
        space = self.world.spec.control_space
        vector = np.stack([space.vector(control) for control in controls]).astype(np.float32)
        poses = np.tile(np.eye(4), (len(controls), 1, 1))
        given = np.array([control.pose is not None for control in controls])
        if given.any() and not self.world.networks.has_poses:
            rule = "a pose needs a world that was learnt with poses"
            raise ControlError(rule, self.world.name, "leave Control.pose out")
        for i in np.flatnonzero(given):
            poses[i] = controls[i].pose
        return Controls(vector, camera.check_pose(poses), given)

    def _steps_of(self, unit: Unit, memory: Memory, given: np.ndarray) -> list[Step]:
        """A step for each row of a batch; the drift is a share of the pixel range, which is 2 wide."""
        frames = to_frame(unit.frame.float()).cpu().numpy()
        reward, going_on = unit.reward.float().tolist(), unit.going_on.float().tolist()
        surprise = unit.surprise.float().tolist()
        has_poses = self.world.networks.has_poses
        return [
            Step(
                frame=frames[i],
                pose=memory.poses[i].copy() if has_poses else None,
                pose_given=bool(given[i]),
                reward=reward[i],
                terminated=going_on[i] < 0.5,
                drift=surprise[i] / 2,
                index=int(memory.indices[i]) - 1,
            )
            for i in range(len(frames))
        ]

    def _pick_start(self, seed: int) -> int:
        if not self.world.starts:
            rule = "a world without starts needs given frames"
            raise EngineError(rule, self.world.name, "open(start=Context(...))")
        spread = normal(seed, 0, _START_DRAW, 2)
        return int(abs(float(spread[0])) * 1e6) % len(self.world.starts)

    def _start(self, index: int) -> Context:
        starts = self.world.starts
        if not 0 <= index < len(starts):
            raise EngineError(f"a start must be in 0..{len(starts) - 1}", index)
        return starts[index].newest(self.context)

    def _check_context(self, context: Context) -> None:
        spec, (length, *size, _) = self.world.spec, context.frames.shape
        columns = spec.control_space.size
        if tuple(size) != tuple(spec.size):
            rule = f"a context's frames must be {spec.size[0]}x{spec.size[1]}"
            raise EngineError(rule, size, "resize them")
        if context.controls.shape[1] != columns:
            raise EngineError(f"a context's controls must have {columns} columns", context.controls.shape[1])
        if length > self.context:
            rule = f"a context must have at most {self.context} frames"
            raise EngineError(rule, length, "give the newest ones")
        if self.world.networks.has_poses and context.poses is None:
            rule = "a world learnt with poses needs a context with poses"
            raise EngineError(rule, None, "give Context(poses=...)")

    def _check_free(self) -> None:
        if not self._free:
            rule = "a session needs a free slot"
            raise EngineError(rule, f"{self.slots} of {self.slots} in use", "close one or open more slots")

    def _check_open(self, session: Session) -> None:
        if session.engine is not self or session.closed:
            state = "closed" if session.closed else "of another engine"
            raise EngineError("a session must be open and of this engine", state, "open or restore one")
