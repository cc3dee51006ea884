"""A server's sessions made again from its journal: bit for bit as they were when it ended."""

from __future__ import annotations

from collections.abc import Callable

from worldsim.bridge.journal import Journal, Recovered
from worldsim.bridge.log import Record
from worldsim.bridge.protocol import REMEMBERED
from worldsim.bridge.requests import Answer
from worldsim.bridge.sessions import Held, Sessions
from worldsim.bridge.tasks import Anchor, Open, origin_of, read_control
from worldsim.engine.engine import Engine
from worldsim.engine.session import Session
from worldsim.engine.step import Step

__all__ = ["recover"]


def recover(
    engine: Engine, journal: Journal, sessions: Sessions, *, progress: Callable[[float], None] | None = None
) -> None:
    """Make all sessions of a journal again.

    Args:
        engine: with room for them and with the same settings as then.
        journal: of the server that ended.
        sessions: where they are noted.
        progress: told the share that is done, 0..1.

    Raises:
        WorldsimError: a session cannot be made again: damaged files, or an engine with other settings.
    """
    replays: list[_Replay] = []
    try:
        replays.extend(_Replay(engine, tale) for tale in journal.recover())
        length = max((len(replay.tale.events) for replay in replays), default=0)
        for done in range(length):
            left = [replay for replay in replays if len(replay.tale.events) > done]
            _advance(engine, journal, left, done)
            if progress is not None:
                progress((done + 1) / length)
    except BaseException:
        for replay in replays:
            replay.session.close()
        raise
    for replay in replays:
        sessions.add(replay.held)


class _Replay:
    """One session on its way."""

    def __init__(self, engine: Engine, tale: Recovered) -> None:
        self.tale = tale
        session = _base(engine, tale)
        self.held = Held(tale.session, tale.lease, session, origin_of(tale.origin), None, tale.seq)
        first = tale.events[0][0] if tale.events else tale.seq + 1
        if first <= 1:
            self._open(session.last)

    @property
    def session(self) -> Session:
        return self.held.session

    def note(self, seq: int, step: Step) -> None:
        """What it answered then, and would be asked for again."""
        if seq <= 0:
            self._open(step)
        elif seq > self.tale.seq - REMEMBERED:
            self.held.replies[seq] = Answer(step, seq)

    def _open(self, step: Step) -> None:
        origin = self.tale.origin
        self.held.opening = Answer(step, origin["seq"] if origin["op"] == "fork" else 0)


def _base(engine: Engine, tale: Recovered) -> Session:
    base = tale.base
    if base["op"] != "open":
        return engine.restore(base["blob"])
    task = Open.of_record(base)
    return engine.open(task.seed, task.start if task.context is None else task.context)


def _advance(engine: Engine, journal: Journal, replays: list[_Replay], done: int) -> None:
    """The next event of each."""
    controls = {}
    for replay in replays:
        seq, event = replay.tale.events[done]
        if event["op"] == "step":
            controls[replay.session] = read_control(event["control"])
        else:
            replay.note(seq, _redo(journal, replay.session, event))
    steps = engine.step(controls) if controls else {}
    for replay in replays:
        if replay.session in steps:
            replay.note(replay.tale.events[done][0], steps[replay.session])


def _redo(journal: Journal, session: Session, event: Record) -> Step:
    """A rewind, or an anchor, whose frame is read only now: those of all sessions together may be many."""
    if event["op"] == "rewind":
        return session.rewind(event["frames"])
    return Anchor.of_record(journal.load(event)).take(session)
