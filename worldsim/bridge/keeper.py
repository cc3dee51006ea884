"""Does tasks on the engine, and has each in the journal before anybody hears of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from worldsim.bridge.journal import Journal
from worldsim.bridge.log import Record
from worldsim.bridge.protocol import Code
from worldsim.bridge.recovery import recover
from worldsim.bridge.replies import check_tellable
from worldsim.bridge.requests import Answer, fault, refusal
from worldsim.bridge.sessions import Held, Sessions
from worldsim.bridge.tasks import Adopt, Advance, Anchor, Close, Fork, Open, Restore, Rewind, Snap, Task
from worldsim.engine.engine import Engine
from worldsim.engine.session import Session
from worldsim.engine.step import Step
from worldsim.errors import BridgeError, WorldsimError

__all__ = ["BrokenError", "Keeper"]

_SNAPSHOTS = 4
"""Snapshots for the journal between two batches: sessions opened together hold nobody up together."""


class BrokenError(Exception):
    """What the engine holds and what the journal says may differ: the server has to end and start again."""


class Keeper:
    """Holds the sessions. Used by one thread.

    Args:
        engine: that dreams.
        sessions: where they are noted.
        journal: where they are written down, or None.
        most: sessions at a time.
        per_lease: of which one lease may have so many.
    """

    def __init__(
        self, engine: Engine, sessions: Sessions, journal: Journal | None, *, most: int, per_lease: int
    ) -> None:
        self.engine, self.sessions, self.journal = engine, sessions, journal
        self._most, self._per_lease = most, per_lease
        self._owed: list[Record] = []
        """Ends that a full disk had no room for."""

    def recall(self, task: Task, lease: str) -> Answer | None:
        """What a task with a seq, but for a step, was answered before; None where it has to be done.

        Raises:
            BridgeError: its seq is neither the next one nor remembered, or the session is not the lease's.
        """
        if not isinstance(task, Anchor | Rewind):
            return None
        return self.sessions.find(task.session, lease).before(task.seq)

    def do(self, task: Task, lease: str) -> Answer:
        """Do anything but a step, once ``recall`` knows no answer.

        Raises:
            WorldsimError: it cannot be done, and nothing was.
            BrokenError: the journal could not be written.
        """
        return _WORK[type(task)](self, task, lease)

    def step(self, batch: Sequence[tuple[Held, Advance]]) -> list[Answer | BridgeError]:
        """One frame for each of some sessions, every one of them once and with its next seq.

        Raises:
            BrokenError: the journal could not be written, or a fault left the engine in an unknown state.
        """
        try:
            self._check_disk()
            steps = self._dream(batch)
            taken = [(held, task) for held, task in batch if isinstance(steps[held], Step)]
            self._write(*(task.record() for _, task in taken), undo=[held.session for held, _ in taken])
        except BridgeError as error:  # a full disk; nobody has moved
            return [error] * len(batch)
        answers: list[Answer | BridgeError] = []
        for held, task in batch:
            step = steps[held]
            answers.append(held.take(task.seq, step) if isinstance(step, Step) else step)
        return answers

    def end(self, lease: str) -> None:
        """Close all sessions of a lease that ran out."""
        for held in self.sessions.of(lease):
            held.session.close()
            self.sessions.remove(held.name)
        self._owe({"op": "end", "lease": lease})

    def keep(self, names: Iterable[str]) -> None:
        """Give the journal snapshots of those sessions among ``names`` whose time has come, a few of them."""
        if self.journal is None:
            return
        taken = 0
        for name in names:
            held = self.sessions.get(name)
            if held is not None and self.journal.due(name):
                self.journal.snapshot(name, held.session.snapshot())
                taken += 1
                if taken == _SNAPSHOTS:
                    return

    def _dream(self, batch: Sequence[tuple[Held, Advance]]) -> Mapping[Held, Step | BridgeError]:
        frames, faults = any(task.frames for _, task in batch), dict[Session, Exception]()
        controls = {held.session: task.control for held, task in batch}
        try:
            steps = self.engine.step(controls, frames=frames, faults=faults)
        except WorldsimError as error:
            if len(batch) == 1:
                return {batch[0][0]: refusal(error)}
            return {held: self._dream([(held, task)])[held] for held, task in batch}
        except Exception as error:
            return self._lose([held for held, _ in batch], error)
        told: dict[Held, Step | BridgeError] = {}
        for held, _ in batch:
            failed = faults.get(held.session)
            told[held] = steps[held.session] if failed is None else self._failed(held, failed)
        return told

    def _failed(self, held: Held, error: Exception) -> BridgeError:
        """After a fault of one session, which is as before or, where the engine has closed it, gone."""
        if isinstance(error, WorldsimError):
            return refusal(error)
        logging.getLogger("worldsim").error("session %s failed", held.name[:4], exc_info=error)
        if held.session.closed:
            self.sessions.remove(held.name)
            self._owe({"op": "close", "session": held.name})
        return fault(error)

    def _lose(self, lost: Sequence[Held], error: Exception) -> Mapping[Held, BridgeError]:
        """After a fault in the middle of a step nobody knows where its sessions are."""
        if self.journal is not None:
            raise BrokenError("a fault in the middle of a step") from error
        for held in lost:
            held.session.close()
            self.sessions.remove(held.name)
        return dict.fromkeys(lost, fault(error))

    def _open(self, task: Open, lease: str) -> Answer:
        old = self._again(task.session, lease, task.origin())
        if old is not None:
            return old
        self._check_room(lease, 1)
        session = self.engine.open(task.seed, task.start if task.context is None else task.context)
        return self._begin(task, session, lease)

    def _restore(self, task: Restore, lease: str) -> Answer:
        old = self._again(task.session, lease, task.origin())
        if old is not None:
            return old
        self._check_room(lease, 1)
        return self._begin(task, self.engine.restore(task.blob), lease)

    def _begin(self, task: Open | Restore, session: Session, lease: str) -> Answer:
        opening = Answer(session.last, 0)
        with self._closing([session]):
            check_tellable(opening)
            self._write({**task.record(), "lease": lease})
        self.sessions.add(Held(task.session, lease, session, task.origin(), opening))
        return opening

    def _fork(self, task: Fork, lease: str) -> Answer:
        parent = self.sessions.find(task.session, lease)
        old = [self._again(child, lease, task.origin()) for child in task.children]
        if old[0] is not None and None not in old:
            return old[0]
        if any(old):
            raise BridgeError("a fork's children must all be new", task.children[0], "choose names at random")
        if task.seq != parent.seq:
            rule, remedy = "a fork must carry the last seq taken", "step or rewind first"
            raise BridgeError(rule, parent.seq, remedy, code=Code.GAP)
        self._check_room(lease, len(task.children))
        opening = Answer(parent.session.last, parent.seq)
        forks = parent.session.fork(len(task.children))
        with self._closing(forks):
            self._write({**task.record(), "lease": lease})
        for name, session in zip(task.children, forks, strict=True):
            self.sessions.add(Held(name, lease, session, task.origin(), opening))
        return opening

    def _rewind(self, task: Rewind, lease: str) -> Answer:
        held = self.sessions.find(task.session, lease)
        self._check_disk()
        step = held.session.rewind(task.frames)
        self._write(task.record())
        return held.take(task.seq, step)

    def _anchor(self, task: Anchor, lease: str) -> Answer:
        held = self.sessions.find(task.session, lease)
        record = task.record() if self.journal is None else self.journal.store(task.record())
        try:
            step = task.take(held.session)
        except Exception as error:
            if self.journal is not None:
                self.journal.drop(record)
            raise self._failed(held, error) from error
        self._write(record, undo=[held.session])
        return held.take(task.seq, step)

    def _snap(self, task: Snap, lease: str) -> Answer:
        held = self.sessions.find(task.session, lease)
        return Answer(seq=held.seq, blob=held.session.snapshot())

    def _close(self, task: Close, lease: str) -> Answer:
        """Closing what is closed is fine: a retry finds it so."""
        if task.session not in self.sessions:
            return Answer()
        held = self.sessions.find(task.session, lease)
        held.session.close()
        self.sessions.remove(task.session)
        self._owe(task.record())
        return Answer(seq=held.seq)

    def _adopt(self, task: Adopt, _: str) -> Answer:
        if self.journal is None:
            raise BridgeError("only a server with a journal takes over another's sessions")
        with self.journal.sibling(task.folder) as other:
            count = len(other.recover())
            if count > self.engine.free or len(self.sessions) + count > self._most:
                rule, remedy = f"the server has room for {self._most} sessions", "start that engine again"
                raise BridgeError(rule, f"{len(self.sessions)} and {count} more", remedy, code=Code.BUSY)
            recover(self.engine, other, self.sessions)
            try:
                self.journal.take_over(other)
            except (BridgeError, OSError) as error:
                raise BrokenError(str(error)) from error
        return Answer()

    def _again(self, name: str, lease: str, origin: tuple[Any, ...]) -> Answer | None:
        """What a request that makes a session was answered before; None if it comes for the first time."""
        if name not in self.sessions:
            return None
        return self.sessions.find(name, lease).begun(origin)

    def _check_room(self, lease: str, count: int) -> None:
        used = len(self.sessions.of(lease))
        if used + count > self._per_lease:
            rule, remedy = f"a lease may have {self._per_lease} sessions", "close some"
            raise BridgeError(rule, f"{used} and {count} more", remedy, code=Code.LIMIT)
        if len(self.sessions) + count > self._most or count > self.engine.free:
            rule, remedy = f"the server has room for {self._most} sessions", "try again later"
            value = f"{len(self.sessions)} and {count} more"
            raise BridgeError(rule, value, remedy, code=Code.BUSY, retry_after_ms=1000)

    @contextlib.contextmanager
    def _closing(self, made: Sequence[Session]) -> Iterator[None]:
        """Sessions that were only just made are closed where nobody can be told of them."""
        try:
            yield
        except BridgeError:
            for session in made:
                session.close()
            raise

    def _check_disk(self) -> None:
        """Raises ``BUSY`` before anything moves that then could not be written down."""
        if self.journal is not None:
            self.journal.check_room()

    def _write(self, *records: Record, undo: Sequence[Session] = ()) -> None:
        """Write down what has happened, and before it what is owed.

        Args:
            records: of what has happened.
            undo: sessions whose newest frame is taken back where the disk is full.

        Raises:
            BridgeError: ``BUSY``, nothing could be written, and nothing has happened any more.
            BrokenError: the engine is ahead of the journal.
        """
        if self.journal is None or not records:
            return
        try:
            self.journal.append(*self._owed, *records)
        except (BridgeError, OSError) as error:
            full = isinstance(error, BridgeError) and error.code == Code.BUSY
            if not full or any(not session.rewindable for session in undo):
                raise BrokenError(str(error)) from error
            for session in undo:
                session.rewind()
            raise
        self._owed.clear()

    def _owe(self, record: Record) -> None:
        """Write down an end, now or, where the disk is full, with what comes next: nobody waits for it."""
        if self.journal is None:
            return
        with contextlib.suppress(BridgeError):
            self._write(record)
            return
        self._owed.append(record)


_WORK: dict[type, Any] = {
    Open: Keeper._open,
    Restore: Keeper._restore,
    Fork: Keeper._fork,
    Rewind: Keeper._rewind,
    Anchor: Keeper._anchor,
    Snap: Keeper._snap,
    Close: Keeper._close,
    Adopt: Keeper._adopt,
}
