"""The engine: slots for sessions, one batched pass for any subset of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from worldsim.checkpoint import Context
from worldsim.controls import Control
from worldsim.engine.session import Session
from worldsim.engine.snapshots import Snapshot, pack, unpack
from worldsim.engine.step import Step
from worldsim.errors import ControlError, EngineError
from worldsim.pixels import to_frame, to_model
from worldsim.sampling.flow import check_steps
from worldsim.sampling.noise import normal
from worldsim.sampling.rollout import Controls, Memory, Unit, begin, observe_unit, step_unit

if TYPE_CHECKING:
    from worldsim.engine.world import World


class Engine:
    """Holds every session's memory in one preallocated batch; row = slot."""

    def __init__(self, world: World, slots: int, context: int | None, steps: int, history: int) -> None:
        if slots < 1 or history < 0 or (context is not None and context < 2):
            raise EngineError("an engine needs slots >= 1, context >= 2 and history >= 0", (slots, context, history))
        self.world, self.slots, self.history = world, slots, history
        self.context = context or world.config.networks.generator.context
        self._steps = check_steps(steps)
        self._free = list(range(slots))[::-1]
        with self._computing():
            self._memory = self._blank(slots)

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
        index = self._pick_start(seed) if start is None else start
        context = index if isinstance(index, Context) else self._start(index)
        self._check_context(context)
        with self._computing():
            memory, unit = self._take_in(context, seed)
        session = self._seat(memory, seed, None if isinstance(index, Context) else index, self._first_step(context, unit, memory))
        return session

    def step(self, controls: Mapping[Session, Control]) -> dict[Session, Step]:
        """Dream one frame of every session named, in one batch.

        Raises:
            ControlError: a key that the world does not know, or a pose for a world without poses. Nothing has moved then.
            EngineError: a session that is closed or of another engine. Nothing has moved then.
        """
        sessions = sorted(controls, key=lambda session: session.slot)
        if not sessions:
            return {}
        for session in sessions:
            self._check_open(session)
        batch = self._controls([controls[session] for session in sessions])
        rows = np.array([session.slot for session in sessions])
        with self._computing():
            memory = self._memory.pick(rows)
            if self.history:
                for i, session in enumerate(sessions):
                    session.remember(memory.pick(np.array([i])))
            unit = step_unit(self.world.networks, memory, batch, self._steps)
            self._memory.put(rows, memory)
        steps = self._steps_of(unit, memory, batch.given)
        for session, step in zip(sessions, steps, strict=True):
            session.last = step
        return dict(zip(sessions, steps, strict=True))

    def fork(self, session: Session, count: int) -> list[Session]:
        """``count`` copies of a session in slots of their own."""
        self._check_open(session)
        if not 1 <= count <= self.free:
            raise EngineError(f"a fork must fit the {self.free} free slots", count, "open the engine with more slots")
        memory = self._memory.pick(np.array([session.slot]))
        return [self._seat(memory, session.seed, session.start, session.last, session.history) for _ in range(count)]

    def snapshot(self, session: Session) -> bytes:
        """See ``Session.snapshot``."""
        self._check_open(session)
        memory = self._memory.pick(np.array([session.slot]))
        return pack(Snapshot(memory, session.last, session.seed, session.start), self.world.digest)

    def restore(self, blob: bytes) -> Session:
        """A session from a snapshot; it continues bit for bit as the original would have.

        Raises:
            EngineError: a damaged snapshot, one of other weights or of another context length, or no free slot.
        """
        snapshot = unpack(blob, self.world.digest, self.world.device)
        held = snapshot.memory.cache.frames
        if held != self.context:
            raise EngineError(f"a snapshot must have this engine's context of {self.context} frames", held, f"use engine(context={held})")
        return self._seat(snapshot.memory, snapshot.seed, snapshot.start, snapshot.step)

    def put(self, session: Session, memory: Memory) -> None:
        """Replace a session's memory (one row)."""
        self._check_open(session)
        self._memory.put(np.array([session.slot]), memory)

    def close(self, session: Session) -> None:
        """Free a session's slot."""
        if session.engine is self and not session.closed:
            session.closed = True
            self._free.append(session.slot)

    def _seat(self, memory: Memory, seed: int, start: int | None, step: Step, history: tuple = ()) -> Session:  # type: ignore[type-arg]
        if not self._free:
            raise EngineError("a session needs a free slot", f"{self.slots} of {self.slots} in use", "close one or open more slots")
        session = Session(self, self._free.pop(), seed, start, step, history)
        self._memory.put(np.array([session.slot]), memory)
        return session

    def _take_in(self, context: Context, seed: int) -> tuple[Memory, Unit | None]:
        networks = self.world.networks
        frames = to_model(context.frames, self.world.device)
        poses = np.tile(np.eye(4), (len(frames), 1, 1)) if context.poses is None else context.poses
        given = np.array([networks.has_poses])
        memory = begin(networks, frames[:1], poses[:1], np.array([seed & (2**64 - 1)], np.uint64), self.context)
        unit = None
        for t in range(1, len(frames)):
            controls = Controls(context.controls[t : t + 1].astype(np.float32), poses[t : t + 1], given)
            unit = observe_unit(networks, memory, frames[t : t + 1], controls)
        return memory, unit

    def _first_step(self, context: Context, unit: Unit | None, memory: Memory) -> Step:
        pose = memory.poses[0].copy() if self.world.networks.has_poses else None
        drift = 0.0 if unit is None else float(unit.surprise[0]) / 2
        return Step(context.frames[-1].copy(), pose, context.poses is not None, 0.0, False, drift, len(context.frames) - 1)

    def _controls(self, controls: list[Control]) -> Controls:
        space = self.world.spec.control_space
        has_poses = self.world.networks.has_poses
        vector = np.stack([space.vector(control) for control in controls]).astype(np.float32)
        poses = np.tile(np.eye(4), (len(controls), 1, 1))
        given = np.array([control.pose is not None for control in controls])
        if given.any() and not has_poses:
            raise ControlError("a pose needs a world that was learnt with poses", self.world.name, "leave Control.pose out")
        for i in np.flatnonzero(given):
            poses[i] = controls[i].pose
        return Controls(vector, poses, given)

    def _steps_of(self, unit: Unit, memory: Memory, given: np.ndarray) -> list[Step]:
        frames = to_frame(unit.frame.float()).cpu().numpy()
        reward, going_on = unit.reward.float().tolist(), unit.going_on.float().tolist()
        drift = (unit.surprise.float() / 2).tolist()
        has_poses = self.world.networks.has_poses
        return [
            Step(
                frames[i], memory.poses[i].copy() if has_poses else None, bool(given[i]), reward[i], going_on[i] < 0.5, drift[i],
                int(memory.indices[i]) - 1,
            )
            for i in range(len(frames))
        ]

    def _blank(self, rows: int) -> Memory:
        networks, device = self.world.networks, self.world.device
        config = networks.config
        return Memory(
            networks.generator.empty_cache(rows, self.context), networks.tokenizer.blank(rows, device),
            networks.generator.latent_in.weight.new_zeros(rows, config.generator.width),
            torch.zeros(rows, config.heads.twists, 6, device=device), np.tile(np.eye(4), (rows, 1, 1)),
            np.zeros(rows, np.uint64), np.zeros(rows, np.int64),
        )

    def _computing(self):  # type: ignore[no-untyped-def]
        return _Computing(self.world.device, self.world.dtype)

    def _pick_start(self, seed: int) -> int:
        if not self.world.starts:
            raise EngineError("a world without starts needs given frames", self.world.name, "open(start=Context(...))")
        spread = normal(seed, 0, 2**32, 2)
        return int(abs(float(spread[0])) * 1e6) % len(self.world.starts)

    def _start(self, index: int) -> Context:
        starts = self.world.starts
        if not 0 <= index < len(starts):
            raise EngineError(f"a start must be in 0..{len(starts) - 1}", index)
        return starts[index]

    def _check_context(self, context: Context) -> None:
        spec = self.world.spec
        if context.frames.shape[1:3] != tuple(spec.size):
            raise EngineError(f"a context's frames must be {spec.size[0]}x{spec.size[1]}", list(context.frames.shape[1:3]), "resize them")
        if context.controls.shape[1] != spec.control_space.size:
            raise EngineError(f"a context's controls must have {spec.control_space.size} columns", context.controls.shape[1])
        if len(context.frames) > self.context:
            raise EngineError(f"a context must have at most {self.context} frames", len(context.frames), "give the newest ones")
        if self.world.networks.has_poses and context.poses is None:
            raise EngineError("a world learnt with poses needs a context with poses", None, "give Context(poses=...)")

    def _check_open(self, session: Session) -> None:
        if session.engine is not self or session.closed:
            state = "closed" if session.closed else "of another engine"
            raise EngineError("a session must be open and of this engine", state, "open or restore one")


class _Computing:
    """Inference without gradients, in the world's number type."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._contexts = [torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)]

    def __enter__(self) -> None:
        for context in self._contexts:
            context.__enter__()

    def __exit__(self, *error: object) -> None:
        for context in reversed(self._contexts):
            context.__exit__(*error)
