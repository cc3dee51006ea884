"""Recovery of a server's sessions from its journal, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

from worldsim.bridge.journal.journal import Journal, ReplayPlan
from worldsim.bridge.journal.wal import Record
from worldsim.bridge.server.requests import Answer
from worldsim.bridge.server.sessions import HostedSession, Sessions
from worldsim.bridge.server.tasks import ObserveTask, OpenTask, origin_from_record, read_control, read_plan
from worldsim.bridge.wire.protocol import REMEMBERED
from worldsim.engine.engine import Engine
from worldsim.engine.session import Session
from worldsim.engine.step import Step

__all__ = ["recover"]


def recover(
    engine: Engine, journal: Journal, sessions: Sessions, *, progress: Callable[[float], None] | None = None
) -> None:
    """Replay all sessions of a journal.

    Args:
        engine: with room for them, configured as before.
        journal: of the server that ended.
        sessions: table that they are added to.
        progress: called with the share that is done, 0..1.

    Raises:
        WorldsimError: a session cannot be recovered: damaged files, or an engine configured differently.
    """
    replays: list[_Replay] = []
    try:
        replays.extend(_Replay(engine, plan) for plan in journal.recover())
        length = max((len(replay.plan.events) for replay in replays), default=0)
        for done in range(length):
            left = [replay for replay in replays if len(replay.plan.events) > done]
            _replay_next(engine, journal, left, done)
            if progress is not None:
                progress((done + 1) / length)
    except BaseException:
        for replay in replays:
            replay.session.close()
        raise
    for replay in replays:
        sessions.add(replay.hosted)


class _Replay:
    """Replay of one session."""

    def __init__(self, engine: Engine, plan: ReplayPlan) -> None:
        self.plan = plan
        session = _restore_base(engine, plan)
        self.hosted = HostedSession(
            plan.session, plan.lease, session, origin_from_record(plan.origin), None, plan.seq
        )
        first = plan.events[0][0] if plan.events else plan.seq + 1
        if first <= 1:
            self._record_opening(session.last)

    @property
    def session(self) -> Session:
        return self.hosted.session

    def record_reply(self, seq: int, step: Step) -> None:
        """Remember a reply that a client may still repeat."""
        if seq <= 0:
            self._record_opening(step)
        elif seq > self.plan.seq - REMEMBERED:
            self.hosted.replies[seq] = Answer(step, seq)

    def _record_opening(self, step: Step) -> None:
        origin = self.plan.origin
        self.hosted.opening = Answer(step, origin["seq"] if origin["op"] == "fork" else 0)


def _restore_base(engine: Engine, plan: ReplayPlan) -> Session:
    base = plan.base
    if base["op"] != "open":
        return engine.restore(base["blob"])
    task = OpenTask.from_record(base)
    return engine.open(task.seed, task.start if task.context is None else task.context, task.temperature)


def _replay_next(engine: Engine, journal: Journal, replays: list[_Replay], done: int) -> None:
    """Replay the next event of each session, steps as one batch."""
    controls, plans, passes = {}, {}, {}
    for replay in replays:
        seq, event = replay.plan.events[done]
        if event["op"] == "step":
            controls[replay.session] = read_control(event["control"])
            if plan := read_plan(event):
                plans[replay.session] = plan
            if "denoising_steps" in event:
                passes[replay.session] = event["denoising_steps"]
        else:
            replay.record_reply(seq, _replay_event(journal, replay.session, event))
    steps = engine.step(controls, passes=passes, plans=plans) if controls else {}
    for replay in replays:
        if replay.session in steps:
            replay.record_reply(replay.plan.events[done][0], steps[replay.session])


def _replay_event(journal: Journal, session: Session, event: Record) -> Step:
    """Replay a rewind or an observed frame, which is loaded only now to save memory."""
    if event["op"] == "rewind":
        return session.rewind(event["frames"])
    return ObserveTask.from_record(journal.load(event)).apply(session)
