"""The engine: holds sessions, and steps any subset of them in batches."""

from __future__ import annotations

import operator
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from worldsim.context import Context
from worldsim.controls import ControlLike, check_chunks, check_mapping
from worldsim.engine.buckets import Buckets, wants_buckets
from worldsim.engine.cpu_workers import CpuWorkers
from worldsim.engine.latency_model import LatencyModel
from worldsim.engine.loaded_world import LoadedWorld
from worldsim.engine.scheduler import Scheduler
from worldsim.engine.session import Session
from worldsim.engine.session_init import SessionInit, context_length
from worldsim.engine.session_states import SessionStates
from worldsim.engine.snapshots import Snapshot, SnapshotSchema, pack, unpack
from worldsim.engine.step import Step
from worldsim.engine.stepper import Stepper
from worldsim.engine.synchronized import Synchronized, synchronized
from worldsim.engine.temperature import check_temperature
from worldsim.engine.undo import Undo, roll_back, undo
from worldsim.engine.validation import batch_controls, check_frame, read_control, read_plans
from worldsim.engine.waves import check_passes, waves
from worldsim.errors import EngineError
from worldsim.model.state import Rows
from worldsim.pixels import to_model
from worldsim.sampling.control_batch import ControlBatch
from worldsim.sampling.philox import signed
from worldsim.sampling.protocol import check_denoising_steps
from worldsim.sampling.world_state import WorldState, empty_state, rows_of
from worldsim.utils.threads import thread_limit


@synchronized(
    "open",
    "step",
    "step_chunk",
    "passes_within",
    "observe",
    "fork",
    "snapshot",
    "restore",
    "undo",
    "offload",
    "temperature",
    "set_temperature",
    "close",
)
class Engine(Synchronized):
    """Holds sessions' state in one preallocated batch, row = slot; those without a slot are offloaded.

    Several threads may use one: their calls wait for each other. In a forked child it goes on, on one thread.
    """

    def __init__(
        self,
        world: LoadedWorld,
        slots: int,
        context: int | None,
        denoising_steps: int | None,
        rewind_frames: int,
        offload_bytes: int,
    ) -> None:
        super().__init__()
        self.world, self.slots, self.rewind_frames = world, slots, rewind_frames
        if slots < 1 or rewind_frames < 0 or offload_bytes < 0:
            rule = "an engine needs slots >= 1, rewind_frames >= 0 and offload_bytes >= 0"
            raise EngineError(rule, (slots, rewind_frames, offload_bytes))
        self.context = context_length(world, context)
        self._denoising_steps = check_denoising_steps(world.networks.sampler, denoising_steps)
        padded = wants_buckets(world.device)
        self._state = empty_state(world.networks, slots + padded, self.context)
        self.session_bytes = self._state.bytes_per_world()
        """Bytes of a session's state, without its undo log."""
        self._stepper = Stepper(world.networks, self._state)
        self._buckets = Buckets(self._stepper) if padded else None
        self.scheduler = Scheduler(slots, slots + offload_bytes // self.session_bytes)
        self._states = SessionStates(self._state, self.scheduler, world.device)
        self._workers = CpuWorkers(world.device, world.spec.size, world.invariance)
        self._latency = LatencyModel(world.networks.sampler.allowed_steps)
        self._session_init = SessionInit(world, self.context)
        self.schema = SnapshotSchema.of(world, self.context)
        if self._buckets is not None:
            self._buckets.warm(self._denoising_steps)

    @property
    def denoising_steps(self) -> int:
        """Denoising passes per frame, K, one of those that the world takes."""
        return self._denoising_steps

    @denoising_steps.setter
    def denoising_steps(self, value: int) -> None:
        self._denoising_steps = check_denoising_steps(self.world.networks.sampler, value)

    @property
    def given_frames(self) -> int:
        """Frames that a session can begin with at most: those of a context's units."""
        return self.context * self.world.unit_frames

    @property
    def free(self) -> int:
        """Sessions that can still be opened."""
        return self.scheduler.free

    def open(self, seed: int = 0, start: int | Context | None = None, temperature: float = 1.0) -> Session:
        """Begin a session.

        Args:
            seed: seed of all sampling; the same seed, start and controls give the same frames.
            start: index into the world's starts, given frames, or None: a start picked by the seed.
            temperature: factor of the sampled noise, in [0, 10]: 1 as trained, 0 is deterministic.

        Raises:
            EngineError: no room, no such start or temperature, or a context that does not fit the world.
            CameraError: a context with invalid poses.
        """
        seed = operator.index(seed)
        check_temperature(temperature)
        self.scheduler.check()
        number, context = self._session_init.resolve(seed, start)
        with torch.inference_mode():
            state, seen = self._session_init.prefill(number, context, seed)
            state.temperature = torch.full_like(state.temperature, temperature)
        return self._add(state, seed=seed, start=number, step=seen.rows()[0])

    def step(
        self,
        controls: Mapping[Session, ControlLike],
        *,
        frames: bool = True,
        budget: float | None = None,
        passes: Mapping[Session, int] | None = None,
        faults: dict[Session, Exception] | None = None,
        plans: Mapping[Session, Sequence[ControlLike]] | None = None,
    ) -> dict[Session, Step]:
        """Imagine one frame of every session named, in as few batches as the slots allow.

        Args:
            controls: control of the new frame; see ``ControlSpace.control``.
            frames: False: only latents are wanted. What the next frame does not need is left out.
            budget: seconds that a batch may take. K drops as far as that needs, by what earlier steps took;
                frames then depend on the machine's speed; ``Step.denoising_steps`` is the K that was used.
            passes: K of some sessions in place of the engine's; the same K gives the same frames again.
            plans: controls of the frames after the new one, as far as they are known; see ``step_chunk``.

        Raises:
            ControlError: a key that the world does not know, or a pose for a world without poses.
            CameraError: a pose that is no rotation and translation.
            ConfigError: a K that the world does not take.
            EngineError: a session that is closed or of another engine. Nothing has moved after any of them.
        """
        check_mapping(controls)
        for session in controls:
            self._check_open(session)
        sessions = sorted(controls, key=lambda session: (session.slot is None, session.slot, session.number))
        read = {session: read_control(self.world, controls[session]) for session in sessions}
        ahead = read_plans(self.world, read, plans)
        wanted = check_passes(self.world.networks.sampler, sessions, passes, self._denoising_steps)
        answers: dict[Session, Step | Exception] = {}
        for k, wave in waves(sessions, wanted, self.slots):
            try:
                self._states.load([session.number for session in wave])
            except Exception as error:  # nobody has moved, and earlier waves have their answers
                answers |= dict.fromkeys(wave, error)
                continue
            wave.sort(key=lambda session: self._row(session))
            held = batch_controls(self.world, [read[s] for s in wave], [ahead[s] for s in wave if ahead])
            if budget is not None:
                k = self._latency.max_steps_within(len(wave), k, budget)
            answers |= self._step_wave(wave, held, frames, k)
        failed = {session: answer for session, answer in answers.items() if isinstance(answer, Exception)}
        if faults is None and failed:
            raise next(iter(failed.values()))
        if faults is not None:
            faults |= failed
        return {one: answer for one in controls if isinstance(answer := answers[one], Step)}

    def passes_within(self, count: int, budget: float) -> int:
        """The most denoising steps, up to K, at which ``count`` sessions fit into ``budget`` seconds."""
        return self._latency.max_steps_within(min(count, self.slots), self._denoising_steps, budget)

    def step_chunk(self, chunks: Mapping[Session, Sequence[ControlLike]]) -> dict[Session, list[Step]]:
        """Imagine as many frames of every session as it has controls here.

        Where a unit has several frames it is imagined under all their controls, while ``step`` holds its one
        control for the whole unit. Errors are those of ``step``; the frames before an error stay.
        """
        check_chunks(chunks)
        steps: dict[Session, list[Step]] = {session: [] for session in chunks}
        for t in range(max(map(len, chunks.values()), default=0)):
            now = {session: chunk[t] for session, chunk in chunks.items() if t < len(chunk)}
            plans = {session: chunks[session][t + 1 :] for session in now}
            for session, step in self.step(now, plans=plans).items():
                steps[session].append(step)
        return steps

    def observe(
        self, session: Session, frame: np.ndarray, pose: np.ndarray | None, control: ControlLike
    ) -> Step:
        """Take a real frame as a session's next one; see ``Session.observe``. A fault changes nothing."""
        self._check_open(session)
        frame, held = np.asarray(frame), replace(read_control(self.world, control), pose=pose)
        read_control(self.world, held)
        check_frame(self.world, frame, pose)
        self._states.load([session.number])
        rows, controls = self._rows(np.array([self._row(session)])), batch_controls(self.world, [held])
        with torch.inference_mode(), thread_limit(1):  # as SessionInit
            state = self._state.over(rows, bool(self.rewind_frames))
            (undo,) = self._undos([session], state)
            given = to_model(frame[None], self.world.device)
            try:
                (step,) = self._stepper.observe(rows, given, controls.to(self.world.device), state).rows()
            except Exception:
                if not self._roll_back(session, undo):
                    self.close(session)
                raise
        session.advance(step.with_real(frame), undo)
        return session.last

    def fork(self, session: Session, count: int, seeds: Sequence[int] | None = None) -> list[Session]:
        """``count`` copies of a session; see ``Session.fork``."""
        self._check_open(session)
        if count < 1:
            raise EngineError("a fork must make at least one session", count)
        if seeds is not None and len(seeds) != count:
            raise EngineError("a fork must have as many seeds as sessions", len(seeds), f"give {count}")
        self.scheduler.check(count)
        state, undo_log = self._states.copy(session.number), session.undo_log
        own = [session.seed] * count if seeds is None else [operator.index(seed) for seed in seeds]
        forks: list[Session] = []
        add = partial(self._add, start=session.start, step=session.last, undo_log=undo_log)
        try:
            for seed in own:
                own_chance = replace(state, seeds=torch.full_like(state.seeds, signed(seed)))
                forks.append(add(own_chance, seed=seed))
        except BaseException:
            for fork in forks:
                self.close(fork)
            raise
        return forks

    def snapshot(self, session: Session) -> bytes:
        """See ``Session.snapshot``."""
        self._check_open(session)
        snapshot = Snapshot(self._states.copy(session.number), session.last, session.seed, session.start)
        return pack(snapshot, self.world.weights_sha256)

    def restore(self, blob: bytes) -> Session:
        """A session from a snapshot; it continues bit for bit as the original would have.

        Raises:
            EngineError: a damaged snapshot, one of other weights or another context length, one with parts
                that no session of this engine has, or no room.
        """
        self.scheduler.check()
        snapshot = unpack(blob, self.schema, self.world)
        return self._add(snapshot.state, seed=snapshot.seed, start=snapshot.start, step=snapshot.step)

    def undo(self, session: Session, undone: Sequence[Undo]) -> Step:
        """Take a session's newest frames back, the newest first; returns what it had answered before them."""
        self._check_open(session)
        self._states.load([session.number])
        rows = self._rows(np.array([self._row(session)]))
        with torch.inference_mode():
            state = self._state.over(rows)
            self._state.take(rows, undo(state, undone))
        return undone[-1].step

    def temperature(self, session: Session) -> float:
        """The session's temperature; see ``Session.temperature``."""
        self._check_open(session)
        return self._states.temperature(session.number)

    def set_temperature(self, session: Session, value: float) -> None:
        """Set the temperature of a session's next frames; see ``Session.temperature``."""
        self._check_open(session)
        self._states.set_temperature(session.number, check_temperature(value))

    def offload(self, session: Session) -> None:
        """Move a session's state out of its slot into host memory; its next step brings it back, bit for bit.

        Raises:
            EngineError: a closed session, or no memory for offloaded ones.
        """
        self._check_open(session)
        if session.slot is not None:
            if self.scheduler.sessions == self.slots:
                raise EngineError("offloading needs memory", 0, "open the engine with offload_bytes=BYTES")
            self._states.offload(session.number, self.scheduler.offload(session.number))

    def close(self, session: Session) -> None:
        """Free a session's room."""
        if session.engine is self and not session.closed:
            session.closed = True
            self.scheduler.remove(session.number)
            self._states.forget(session.number)

    def _step_wave(
        self, sessions: list[Session], batch: ControlBatch, frames: bool, k: int
    ) -> dict[Session, Step | Exception]:
        """Step sessions that all have slots, in the order of these."""
        count = len(sessions)
        slots = np.array([self._row(session) for session in sessions])

        def work(rows: np.ndarray) -> list[tuple[Step | Exception, Undo | None]]:
            part = [sessions[row] for row in rows]
            return self._step_rows(part, slots[rows], batch.pick(rows), k, frames)

        began = time.perf_counter()
        done = [pair for _, pairs in self._workers.run(count, work, (k, frames)) for pair in pairs]
        self._latency.record(count, k, time.perf_counter() - began)
        answers: dict[Session, Step | Exception] = {}
        for session, (answer, past) in zip(sessions, done, strict=True):
            answers[session] = answer
            if isinstance(answer, Step):
                session.advance(answer, past)
            elif not self._roll_back(session, past):
                self.close(session)
        return answers

    def _step_rows(
        self, sessions: list[Session], slots: np.ndarray, controls: ControlBatch, k: int, frames: bool
    ) -> list[tuple[Step | Exception, Undo | None]]:
        """Step some slots; runs in a thread of its own. After a fault every row is tried alone."""
        rows = self._rows(slots)
        with torch.inference_mode():
            state = self._state.over(rows, bool(self.rewind_frames))
            undos = self._undos(sessions, state)
            try:
                return list(zip(self._step_slots(state, slots, controls, k, frames), undos, strict=True))
            except Exception as error:
                fault = error
                if len(sessions) == 1:
                    return [(error, undos[0])]
                whole = [self._roll_back(one, undo) for one, undo in zip(sessions, undos, strict=True)]
        answers: list[tuple[Step | Exception, Undo | None]] = []
        for i, ok in enumerate(whole):
            alone = (sessions[i : i + 1], slots[i : i + 1], controls.pick(slice(i, i + 1)), k, frames)
            answers += self._step_rows(*alone) if ok else [(fault, None)]
        return answers

    def _step_slots(
        self, state: WorldState, slots: np.ndarray, controls: ControlBatch, k: int, frames: bool
    ) -> list[Step]:
        """Step some slots, whose rows ``state`` is over."""
        if self._buckets is not None:
            return self._buckets.step(slots, controls, k, frames).rows()
        return self._stepper.step(self._rows(slots), controls.to(self.world.device), k, frames, state).rows()

    def _roll_back(self, session: Session, before: Undo | None) -> bool:
        """Roll a session back after a failed step; False if that cannot be done."""
        rows = self._rows(np.array([self._row(session)]))
        with torch.inference_mode():
            state = self._state.over(rows)
            before_step = roll_back(state, session.index + 1, before)
            if before_step is not None:
                self._state.take(rows, before_step)
        return before_step is not None

    def _undos(self, sessions: list[Session], state: WorldState) -> list[Undo | None]:
        """Undo records of the next step of ``state``, one for each session."""
        if not self.rewind_frames:
            return [None] * len(sessions)
        page = state.generator.undo_entry()
        return [Undo.of(state, page, i, session.last) for i, session in enumerate(sessions)]

    def _row(self, session: Session) -> int:
        slot = session.slot
        assert slot is not None, "room was made"
        return slot

    def _rows(self, slots: np.ndarray) -> Rows:
        return rows_of(slots, self.world.device)

    def _add(
        self, state: WorldState, *, seed: int, start: int | None, step: Step, undo_log: Iterable[Undo] = ()
    ) -> Session:
        """A new session that begins with ``state``, in a slot if one is free."""
        session = Session(self, self.scheduler.admit(), seed=seed, start=start, step=step, undo_log=undo_log)
        self._states.admit(session.number, state)
        try:
            self._states.load([session.number])
        except BaseException:
            self.close(session)
            raise
        return session

    def _check_open(self, session: Session) -> None:
        if getattr(session, "engine", None) is not self or session.closed:
            seen = "closed" if getattr(session, "closed", False) else "of another engine, or none"
            raise EngineError("a session must be open and of this engine", seen, "open or restore one")
