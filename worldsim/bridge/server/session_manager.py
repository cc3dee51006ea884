"""Session manager: runs tasks on the engine and writes each to the journal before its reply."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from worldsim.bridge.journal.journal import Journal
from worldsim.bridge.journal.wal import Record
from worldsim.bridge.server.recovery import recover
from worldsim.bridge.server.replies import check_encodable
from worldsim.bridge.server.requests import Answer, internal_error, to_bridge_error
from worldsim.bridge.server.sessions import HostedSession, Sessions
from worldsim.bridge.server.tasks import (
    CloseTask,
    ForkTask,
    ObserveTask,
    OpenTask,
    RestoreTask,
    RewindTask,
    SnapshotTask,
    StepTask,
    TakeOverTask,
    Task,
)
from worldsim.bridge.wire.protocol import Code
from worldsim.engine.engine import Engine
from worldsim.engine.session import Session
from worldsim.engine.snapshots import is_restorable
from worldsim.engine.step import Step
from worldsim.errors import BridgeError, WorldsimError

__all__ = ["JournalDivergedError", "SessionManager"]

_SNAPSHOTS_PER_TURN = 4
"""Journal snapshots per turn, so that sessions opened together do not delay a batch together."""


class JournalDivergedError(Exception):
    """The engine and its journal may have diverged; the server must end and recover."""


class SessionManager:
    """Owner of the sessions. Used by one thread.

    Args:
        engine: that steps them.
        sessions: table of all sessions.
        journal: of the server, or None.
        max_sessions: largest number of sessions.
        per_lease: largest number of sessions of a lease.
    """

    def __init__(
        self,
        engine: Engine,
        sessions: Sessions,
        journal: Journal | None,
        *,
        max_sessions: int,
        per_lease: int,
    ) -> None:
        self.engine, self.sessions, self.journal = engine, sessions, journal
        self._max_sessions, self._per_lease = max_sessions, per_lease
        self._unwritten: list[Record] = []
        """Records of ended sessions and leases that found no room on the disk."""

    def remembered_reply(self, task: Task, lease: str) -> Answer | None:
        """Return the remembered reply to a rewind or an observed frame, or None if it is new.

        Raises:
            BridgeError: its seq is neither the next one nor remembered, or the session is not the lease's.
        """
        if not isinstance(task, ObserveTask | RewindTask):
            return None
        return self.sessions.find(task.session, lease).remembered_reply(task.seq)

    def run(self, task: Task, lease: str) -> Answer:
        """Run a task other than a step, if ``remembered_reply`` has none.

        Raises:
            WorldsimError: it cannot be done, and nothing was.
            JournalDivergedError: the journal could not be written.
        """
        return _HANDLERS[type(task)](self, task, lease)

    def step(
        self, batch: Sequence[tuple[HostedSession, StepTask]], budgets: Sequence[float | None]
    ) -> list[Answer | BridgeError]:
        """Step some sessions by one frame, each once and with its next seq.

        ``budgets``: seconds left for each, or None; one with a budget gets as many passes as fit.

        Raises:
            JournalDivergedError: the journal could not be written, or the engine's state is unknown.
        """
        try:
            self._check_disk()
            steps = self._step_engine(batch, self._passes(batch, budgets))
            taken = [(one, task, step) for one, task in batch if isinstance(step := steps[one], Step)]
            records = [task.record(self._unusual(step)) for _, task, step in taken]
            self._write(*records, undo=[hosted.session for hosted, *_ in taken])
        except BridgeError as error:  # a full disk; nobody has moved
            return [error] * len(batch)
        answers: list[Answer | BridgeError] = []
        for hosted, task in batch:
            step = steps[hosted]
            answers.append(hosted.record_step(task.seq, step) if isinstance(step, Step) else step)
        return answers

    def end_lease(self, lease: str) -> None:
        """Close all sessions of an expired lease."""
        for hosted in self.sessions.of_lease(lease):
            hosted.session.close()
            self.sessions.remove(hosted.name)
        self._write_eventually({"op": "end", "lease": lease})

    def take_due_snapshots(self, names: Iterable[str]) -> None:
        """Snapshot those sessions among ``names`` that are due, a few at a time."""
        if self.journal is None:
            return
        taken = 0
        for name in names:
            hosted = self.sessions.get(name)
            if hosted is not None and hosted.seq >= hosted.next_snapshot and self.journal.due(name):
                blob = hosted.session.snapshot()
                if is_restorable(blob, self.engine.schema, self.engine.world):
                    self.journal.snapshot(name, blob)
                else:
                    hosted.next_snapshot = hosted.seq + self.journal.snapshot_interval
                taken += 1
                if taken == _SNAPSHOTS_PER_TURN:
                    return

    def _passes(
        self, batch: Sequence[tuple[HostedSession, StepTask]], budgets: Sequence[float | None]
    ) -> dict[Session, int]:
        """Denoising steps of the sessions with a budget; they are all stepped together."""
        return {
            hosted.session: self.engine.passes_within(len(batch), budget)
            for (hosted, _), budget in zip(batch, budgets, strict=True)
            if budget is not None
        }

    def _unusual(self, step: Step) -> int | None:
        """Denoising steps of a step; None if they are the engine's."""
        return None if step.denoising_steps == self.engine.denoising_steps else step.denoising_steps

    def _step_engine(
        self, batch: Sequence[tuple[HostedSession, StepTask]], passes: Mapping[Session, int]
    ) -> Mapping[HostedSession, Step | BridgeError]:
        frames, faults = any(task.frames for _, task in batch), dict[Session, Exception]()
        controls = {hosted.session: task.control for hosted, task in batch}
        plans = {hosted.session: task.plan for hosted, task in batch if task.plan}
        try:
            steps = self.engine.step(controls, frames=frames, passes=passes, faults=faults, plans=plans)
        except WorldsimError as error:
            if len(batch) == 1:
                return {batch[0][0]: to_bridge_error(error)}
            return {one: self._step_engine([(one, task)], passes)[one] for one, task in batch}
        except Exception as error:
            return self._close_lost([hosted for hosted, _ in batch], error)
        told: dict[HostedSession, Step | BridgeError] = {}
        for hosted, _ in batch:
            failed = faults.get(hosted.session)
            told[hosted] = steps[hosted.session] if failed is None else self._handle_fault(hosted, failed)
        return told

    def _handle_fault(self, hosted: HostedSession, error: Exception) -> BridgeError:
        """Convert an error of one session; remove the session if the engine has closed it."""
        if isinstance(error, WorldsimError):
            return to_bridge_error(error)
        logging.getLogger("worldsim").error("session %s failed", hosted.name[:4], exc_info=error)
        if hosted.session.closed:
            self.sessions.remove(hosted.name)
            self._write_eventually({"op": "close", "session": hosted.name})
        return internal_error(error)

    def _close_lost(
        self, lost: Sequence[HostedSession], error: Exception
    ) -> Mapping[HostedSession, BridgeError]:
        """Close sessions whose state is unknown after an exception during a step."""
        if self.journal is not None:
            raise JournalDivergedError("a fault in the middle of a step") from error
        for hosted in lost:
            hosted.session.close()
            self.sessions.remove(hosted.name)
        return dict.fromkeys(lost, internal_error(error))

    def _open(self, task: OpenTask, lease: str) -> Answer:
        old = self._earlier_reply(task.session, lease, task.origin())
        if old is not None:
            return old
        self._check_capacity(lease, 1)
        start = task.start if task.context is None else task.context
        session = self.engine.open(task.seed, start, task.temperature)
        return self._register(task, session, lease)

    def _restore(self, task: RestoreTask, lease: str) -> Answer:
        old = self._earlier_reply(task.session, lease, task.origin())
        if old is not None:
            return old
        self._check_capacity(lease, 1)
        return self._register(task, self.engine.restore(task.blob), lease)

    def _register(self, task: OpenTask | RestoreTask, session: Session, lease: str) -> Answer:
        opening = Answer(session.last, 0)
        with self._close_on_error([session]):
            check_encodable(opening)
            self._write({**task.record(), "lease": lease})
        self.sessions.add(HostedSession(task.session, lease, session, task.origin(), opening))
        return opening

    def _fork(self, task: ForkTask, lease: str) -> Answer:
        parent = self.sessions.find(task.session, lease)
        old = [self._earlier_reply(child, lease, task.origin()) for child in task.children]
        if old[0] is not None and None not in old:
            return old[0]
        if any(old):
            raise BridgeError("a fork's children must all be new", task.children[0], "choose names at random")
        if task.seq != parent.seq:
            rule, remedy = "a fork must carry the last seq taken", "step or rewind first"
            raise BridgeError(rule, parent.seq, remedy, code=Code.OUT_OF_ORDER)
        self._check_capacity(lease, len(task.children))
        opening = Answer(parent.session.last, parent.seq)
        forks = parent.session.fork(len(task.children))
        with self._close_on_error(forks):
            self._write({**task.record(), "lease": lease})
        for name, session in zip(task.children, forks, strict=True):
            self.sessions.add(HostedSession(name, lease, session, task.origin(), opening))
        return opening

    def _rewind(self, task: RewindTask, lease: str) -> Answer:
        hosted = self.sessions.find(task.session, lease)
        self._check_disk()
        step = hosted.session.rewind(task.frames)
        self._write(task.record())
        return hosted.record_step(task.seq, step)

    def _observe(self, task: ObserveTask, lease: str) -> Answer:
        hosted = self.sessions.find(task.session, lease)
        record = task.record() if self.journal is None else self.journal.store(task.record())
        try:
            step = task.apply(hosted.session)
        except Exception as error:
            if self.journal is not None:
                self.journal.drop(record)
            raise self._handle_fault(hosted, error) from error
        self._write(record, undo=[hosted.session])
        return hosted.record_step(task.seq, step)

    def _snapshot(self, task: SnapshotTask, lease: str) -> Answer:
        hosted = self.sessions.find(task.session, lease)
        return Answer(seq=hosted.seq, blob=hosted.session.snapshot())

    def _close(self, task: CloseTask, lease: str) -> Answer:
        """Close a session; an unknown one succeeds, so that retries do."""
        if task.session not in self.sessions:
            return Answer()
        hosted = self.sessions.find(task.session, lease)
        hosted.session.close()
        self.sessions.remove(task.session)
        self._write_eventually(task.record())
        return Answer(seq=hosted.seq)

    def _take_over(self, task: TakeOverTask, _: str) -> Answer:
        if self.journal is None:
            raise BridgeError("only a server with a journal takes over another's sessions")
        with self.journal.open_sibling(task.folder) as other:
            count = len(other.recover())
            if count > self.engine.free or len(self.sessions) + count > self._max_sessions:
                rule, remedy = (
                    f"the server has room for {self._max_sessions} sessions",
                    "start that engine again",
                )
                raise BridgeError(
                    rule, f"{len(self.sessions)} and {count} more", remedy, code=Code.UNAVAILABLE
                )
            recover(self.engine, other, self.sessions)
            try:
                self.journal.take_over(other)
            except (BridgeError, OSError) as error:
                raise JournalDivergedError(str(error)) from error
        return Answer()

    def _earlier_reply(self, name: str, lease: str, origin: tuple[Any, ...]) -> Answer | None:
        """Return the remembered reply to a request that creates a session, or None if it is new."""
        if name not in self.sessions:
            return None
        return self.sessions.find(name, lease).opening_reply(origin)

    def _check_capacity(self, lease: str, count: int) -> None:
        used = len(self.sessions.of_lease(lease))
        if used + count > self._per_lease:
            rule, remedy = f"a lease may have {self._per_lease} sessions", "close some"
            raise BridgeError(rule, f"{used} and {count} more", remedy, code=Code.RESOURCE_EXHAUSTED)
        if len(self.sessions) + count > self._max_sessions or count > self.engine.free:
            rule, remedy = f"the server has room for {self._max_sessions} sessions", "try again later"
            value = f"{len(self.sessions)} and {count} more"
            raise BridgeError(rule, value, remedy, code=Code.UNAVAILABLE, retry_after_ms=1000)

    @contextlib.contextmanager
    def _close_on_error(self, made: Sequence[Session]) -> Iterator[None]:
        """Close new sessions if their journal record or reply fails."""
        try:
            yield
        except BridgeError:
            for session in made:
                session.close()
            raise

    def _check_disk(self) -> None:
        """Raise ``UNAVAILABLE`` if the disk is full, before the engine steps."""
        if self.journal is not None:
            self.journal.check_free_space()

    def _write(self, *records: Record, undo: Sequence[Session] = ()) -> None:
        """Append records to the journal, pending ones first.

        Args:
            records: of what has happened.
            undo: sessions whose newest frame is taken back where the disk is full.

        Raises:
            BridgeError: ``UNAVAILABLE``, nothing could be written, and nothing has happened any more.
            JournalDivergedError: the engine is ahead of the journal.
        """
        if self.journal is None or not records:
            return
        try:
            self.journal.append(*self._unwritten, *records)
        except (BridgeError, OSError) as error:
            full = isinstance(error, BridgeError) and error.code == Code.UNAVAILABLE
            if not full or any(not session.max_rewind for session in undo):
                raise JournalDivergedError(str(error)) from error
            for session in undo:
                session.rewind()
            raise
        self._unwritten.clear()

    def _write_eventually(self, record: Record) -> None:
        """Append the record of an end, now or, if the disk is full, with the next records."""
        if self.journal is None:
            return
        with contextlib.suppress(BridgeError):
            self._write(record)
            return
        self._unwritten.append(record)


_HANDLERS: dict[type, Any] = {
    OpenTask: SessionManager._open,
    RestoreTask: SessionManager._restore,
    ForkTask: SessionManager._fork,
    RewindTask: SessionManager._rewind,
    ObserveTask: SessionManager._observe,
    SnapshotTask: SessionManager._snapshot,
    CloseTask: SessionManager._close,
    TakeOverTask: SessionManager._take_over,
}
