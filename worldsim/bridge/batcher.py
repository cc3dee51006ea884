"""The engine's thread: whatever all clients ask for, in as few and as full batches as can be.

Requests of one session are done in the order in which they came. Of the sessions that wait for a step those
with the earliest deadlines go first. Between two batches there is time for a few other requests: opens,
forks, snapshots.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worldsim.bridge.keeper import BrokenError, Keeper
from worldsim.bridge.metrics import Meter
from worldsim.bridge.patience import Patience
from worldsim.bridge.protocol import Code
from worldsim.bridge.requests import Answer, Request, fault, refusal
from worldsim.bridge.sessions import Held
from worldsim.bridge.tasks import Advance, Anchor, Task
from worldsim.errors import BridgeError, WorldsimError

__all__ = ["Batcher"]

_PATIENT = 1.0
"""Seconds after which a request without a deadline counts as due: it may be overtaken, but not for ever."""
_OTHERS = 0.25
"""Share of a step's time that other requests may take between two batches."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One task of a request."""

    request: Request
    position: int
    task: Task

    @property
    def due(self) -> float:
        """Who goes first."""
        deadline = self.request.deadline
        return self.request.arrived + _PATIENT if deadline is None else deadline

    @property
    def late(self) -> bool:
        """Whether an answer is worth nothing any more."""
        deadline = self.request.deadline
        return deadline is not None and time.monotonic() > deadline


@dataclass(frozen=True, slots=True)
class End:
    """A lease ran out."""

    lease: str


class Stop:
    """Nothing comes after this."""


class Batcher:
    """Does requests on the engine until it is stopped.

    Args:
        keeper: does them.
        meter: counts them.
        done: is handed the requests that are answered, from the engine's thread.
        batch: sessions of one batch at most.
    """

    def __init__(
        self, keeper: Keeper, meter: Meter, done: Callable[[list[Request]], None], *, batch: int
    ) -> None:
        self._keeper, self._meter, self._done, self._batch = keeper, meter, done, batch
        self._inbox: queue.SimpleQueue[Sequence[Request] | End | Stop] = queue.SimpleQueue()
        self._queues: dict[str, deque[Ticket]] = {}
        self._patience = Patience()
        self._answered: list[Request] = []
        self._stopping = False

    def put(self, requests: Sequence[Request]) -> None:
        """Ask for some things; from any thread. The requests come back through ``done``."""
        self._inbox.put(requests)

    def end(self, lease: str) -> None:
        """Close the sessions of a lease; from any thread."""
        self._inbox.put(End(lease))

    def stop(self) -> None:
        """Do what was asked for so far, then return from ``run``; from any thread."""
        self._inbox.put(Stop())

    @property
    def step_seconds(self) -> float:
        """What a batch takes."""
        return self._patience.step_seconds

    def run(self) -> None:
        """The thread's work.

        Raises:
            BrokenError: the server has to end; nothing that was not written down has been answered.
        """
        while not self._stopping or self._queues:
            self._receive()
            self._linger()
            self._do_others()
            self._do_steps()
            self._deliver()

    def _receive(self) -> None:
        """All that has come in; waits for it if there is nothing to do."""
        if not self._queues and not self._stopping:
            self._take(self._inbox.get())
        self._drain()

    def _drain(self) -> None:
        while True:
            try:
                self._take(self._inbox.get_nowait())
            except queue.Empty:
                return

    def _linger(self) -> None:
        """Wait a little for sessions that are about to ask."""
        until = time.monotonic() + self._patience.window
        while self._patience.waiting and not self._stopping and self._stepping():
            left = until - time.monotonic()
            try:
                self._take(self._inbox.get(timeout=max(left, 0)))
                self._drain()
            except queue.Empty:
                self._patience.give_up()

    def _stepping(self) -> bool:
        """Whether a step waits that would have company, and nothing else does."""
        heads = [waiting[0].task for waiting in self._queues.values()]
        return 0 < len(heads) < self._batch and all(isinstance(task, Advance) for task in heads)

    def _take(self, item: Sequence[Request] | End | Stop) -> None:
        if isinstance(item, Stop):
            self._stopping = True
        elif isinstance(item, End):
            self._end(item.lease)
        else:
            for request in item:
                self._line_up(request)

    def _line_up(self, request: Request) -> None:
        for position, task in enumerate(request.tasks):
            if not isinstance(task, BridgeError):
                self._queues.setdefault(task.session, deque()).append(Ticket(request, position, task))
                self._patience.asked(task.session, request.arrived)
        if not request.missing:
            self._answered.append(request)

    def _end(self, lease: str) -> None:
        """Close a lease's sessions; what it still asked for is refused."""
        rule, remedy = "a request's lease must be alive", "say hello again"
        error = BridgeError(rule, lease[:4] + "...", remedy, code=Code.UNKNOWN_SESSION)
        for name in list(self._queues):
            for ticket in list(self._queues[name]):
                if ticket.request.envelope.lease == lease:
                    self._queues[name].remove(ticket)
                    self._answer(ticket, error)
            if not self._queues[name]:
                del self._queues[name]
        for held in self._keeper.sessions.of(lease):
            self._patience.forget(held.name)
        self._keeper.end(lease)

    def _do_others(self) -> None:
        """What is no step, for a while."""
        until = time.monotonic() + max(0.01, _OTHERS * self._patience.step_seconds)
        done: list[str] = []
        for name in list(self._queues):
            if not isinstance(self._queues[name][0].task, Advance):
                self._do_until(name, until)
                done.append(name)
            if time.monotonic() > until:
                break
        self._deliver()
        self._keeper.keep(done)

    def _do_until(self, name: str, until: float) -> None:
        """What a session asks for before its next step; what takes too long waits behind others."""
        waiting = self._queues.pop(name)
        while waiting and not isinstance(waiting[0].task, Advance):
            self._do(waiting.popleft())
            if time.monotonic() > until:
                break
        if waiting:
            self._queues[name] = waiting

    def _do(self, ticket: Ticket) -> None:
        self._answer(ticket, self._attempt(ticket))
        name = ticket.task.session
        if name in self._keeper.sessions:
            self._patience.answered(name, time.monotonic())
        else:
            self._patience.forget(name)

    def _attempt(self, ticket: Ticket) -> Answer | BridgeError:
        try:
            old = self._keeper.recall(ticket.task, ticket.request.envelope.lease)
            if old is not None or ticket.late:
                return old or _late()
            return self._work(ticket)
        except WorldsimError as error:
            return refusal(error)
        except BrokenError:
            raise
        except Exception as error:
            logging.getLogger("worldsim").exception("%s failed", ticket.request.envelope.op)
            return fault(error)

    def _work(self, ticket: Ticket) -> Answer:
        began = time.monotonic()
        answer = self._keeper.do(ticket.task, ticket.request.envelope.lease)
        if isinstance(ticket.task, Anchor):
            self._meter.anchored(time.monotonic() - began, began - ticket.request.arrived)
        return answer

    def _do_steps(self) -> None:
        """One batch."""
        ready = [(ticket, held) for name in list(self._queues) for ticket, held in self._next(name)]
        if not ready:
            return
        ready.sort(key=lambda pair: pair[0].due)
        batch = [(ticket, held, ticket.task) for ticket, held in ready[: self._batch]]
        began = time.monotonic()
        pairs = [(held, task) for _, held, task in batch if isinstance(task, Advance)]
        answers = self._keeper.step(pairs)
        now = time.monotonic()
        self._patience.stepped(now - began)
        self._meter.stepped(len(pairs), now - began, [began - ticket.request.arrived for ticket, *_ in batch])
        for (ticket, held, _), answer in zip(batch, answers, strict=True):
            self._drop_head(held.name)
            self._answer(ticket, answer)
            # Neither who has asked already is waited for, nor who was told to ask later.
            if held.name not in self._queues and ticket.request.peer.refused < began:
                self._patience.answered(held.name, now)
        self._deliver()
        self._keeper.keep(held.name for _, held, _ in batch)

    def _next(self, name: str) -> list[tuple[Ticket, Held]]:
        """The session's next step, if there is one: those that need no work are answered on the way."""
        waiting = self._queues[name]
        while waiting and isinstance(task := waiting[0].task, Advance):
            ticket = waiting[0]
            try:
                held = self._keeper.sessions.find(name, ticket.request.envelope.lease)
                old = held.before(task.seq)
                if old is None and not ticket.late:
                    return [(ticket, held)]
                self._answer(ticket, old or _late())
            except BridgeError as error:
                self._answer(ticket, error)
            waiting.popleft()
        if not waiting:
            del self._queues[name]
        return []

    def _drop_head(self, name: str) -> None:
        waiting = self._queues[name]
        waiting.popleft()
        if not waiting:
            del self._queues[name]

    def _answer(self, ticket: Ticket, answer: Answer | BridgeError) -> None:
        if ticket.request.answer(ticket.position, answer):
            self._answered.append(ticket.request)

    def _deliver(self) -> None:
        if self._answered:
            answered, self._answered = self._answered, []
            self._done(answered)


def _late() -> BridgeError:
    rule, remedy = "a request must be reached before its deadline", "ask for less, or give it more time"
    return BridgeError(rule, None, remedy, code=Code.LATE)
