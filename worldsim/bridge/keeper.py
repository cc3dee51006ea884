"""Does tasks on the engine, and has each in the journal before anybody hears of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from worldsim.bridge.journal import Journal
from worldsim.bridge.protocol import Code
from worldsim.bridge.recovery import recover
from worldsim.bridge.requests import Answer, refusal
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
        steps = self._dream(batch)
        taken = [(held, task) for held, task in batch if isinstance(steps[held], Step)]
        self._write(*(task.record() for _, task in taken))
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
        self._write({"op": "end", "lease": lease})

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
        frames = any(task.frames for _, task in batch)
        try:
            steps = self.engine.step({held.session: task.control for held, task in batch}, frames=frames)
        except WorldsimError as error:
            if len(batch) == 1:
                return {batch[0][0]: refusal(error)}
            return {held: self._dream([(held, task)])[held] for held, task in batch}
        except Exception as error:
            return self._lose([held for held, _ in batch], error)
        return {held: steps[held.session] for held, _ in batch}

    def _lose(self, lost: Sequence[Held], error: Exception) -> Mapping[Held, BridgeError]:
        """After a fault in the middle of a step nobody knows where its sessions are."""
        if self.journal is not None:
            raise BrokenError("a fault in the middle of a step") from error
        for held in lost:
            held.session.close()
            self.sessions.remove(held.name)
        rule, remedy = "the server must not fail", "open the session again, and report this"
        answer = BridgeError(rule, f"{type(error).__name__}: {error}"[:200], remedy, code=Code.INTERNAL)
        return dict.fromkeys(lost, answer)

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
        self._write({**task.record(), "lease": lease})
        for name, session in zip(task.children, forks, strict=True):
            self.sessions.add(Held(name, lease, session, task.origin(), opening))
        return opening

    def _rewind(self, task: Rewind, lease: str) -> Answer:
        held = self.sessions.find(task.session, lease)
        step = held.session.rewind(task.frames)
        self._write(task.record())
        return held.take(task.seq, step)

    def _anchor(self, task: Anchor, lease: str) -> Answer:
        held = self.sessions.find(task.session, lease)
        try:
            step = task.take(held.session)
        except WorldsimError:
            raise
        except Exception as error:
            raise self._lose([held], error)[held] from error
        self._write(task.record())
        return held.take(task.seq, step)

    def _snap(self, task: Snap, lease: str) -> Answer:
        held = self.sessions.find(task.session, lease)
        return Answer(seq=held.seq, blob=held.session.snapshot())

    def _close(self, task: Close, lease: str) -> Answer:
        """Closing what is closed is fine: a retry finds it so."""
        if task.session not in self.sessions:
            return Answer()
        held = self.sessions.find(task.session, lease)
        self._write(task.record())
        held.session.close()
        self.sessions.remove(task.session)
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

    def _write(self, *records: dict[str, Any]) -> None:
        if self.journal is None or not records:
            return
        try:
            self.journal.append(*records)
        except (BridgeError, OSError) as error:
            raise BrokenError(str(error)) from error


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
