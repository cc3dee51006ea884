"""Batcher: the engine's thread, which joins the steps of all clients into batches.

Requests of one session are executed in order of arrival. Of the sessions that wait for a step, those with the
earliest deadlines go first. Between two batches there is limited time for other requests: opens, forks,
snapshots.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worldsim.bridge.server.batch_window import BatchWindow
from worldsim.bridge.server.metrics import ServerMetrics
from worldsim.bridge.server.requests import Answer, Request, internal_error, to_bridge_error
from worldsim.bridge.server.session_manager import JournalDivergedError, SessionManager
from worldsim.bridge.server.sessions import HostedSession
from worldsim.bridge.server.tasks import ObserveTask, StepTask, Task
from worldsim.bridge.wire.protocol import Code
from worldsim.errors import BridgeError, WorldsimError

__all__ = ["Batcher"]

_DEFAULT_DEADLINE = 1.0
"""Assumed deadline in seconds of a request without one, so that it is not overtaken for ever."""
_OTHER_TASKS_SHARE = 0.25
"""Share of a step's time for other requests between two batches."""


@dataclass(frozen=True, slots=True)
class QueuedTask:
    """One task of a request, in its session's queue."""

    request: Request
    position: int
    task: Task

    @property
    def due(self) -> float:
        """Deadline by which tasks are ordered: that of the request, or else the end of its budget."""
        deadline = self.request.deadline
        if deadline is None and self.budget_end is not None:
            return self.budget_end
        return self.request.arrived + _DEFAULT_DEADLINE if deadline is None else deadline

    @property
    def budget_end(self) -> float | None:
        """Time by which the task should be answered; None if it has no budget."""
        if not isinstance(self.task, StepTask) or self.task.budget_s is None:
            return None
        return self.request.arrived + self.task.budget_s

    @property
    def expired(self) -> bool:
        """True if the deadline has passed."""
        deadline = self.request.deadline
        return deadline is not None and time.monotonic() > deadline


@dataclass(frozen=True, slots=True)
class LeaseEnd:
    """Message to the batcher: a lease has expired."""

    lease: str


class StopSignal:
    """Last message to the batcher."""


class Batcher:
    """Executes requests on the engine until it is stopped.

    Args:
        manager: executes tasks.
        metrics: counters.
        done: called with answered requests, from the engine's thread.
        batch: largest number of sessions in a batch.
    """

    def __init__(
        self,
        manager: SessionManager,
        metrics: ServerMetrics,
        done: Callable[[list[Request]], None],
        *,
        batch: int,
    ) -> None:
        self._manager, self._metrics, self._on_answered, self._max_batch = manager, metrics, done, batch
        self._inbox: queue.SimpleQueue[Sequence[Request] | LeaseEnd | StopSignal] = queue.SimpleQueue()
        self._queues: dict[str, deque[QueuedTask]] = {}
        self._window = BatchWindow()
        self._answered: list[Request] = []
        self._stopping = False

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; may be called from any thread. They come back through ``done``."""
        self._inbox.put(requests)

    def end_lease(self, lease: str) -> None:
        """Close the sessions of a lease; may be called from any thread."""
        self._inbox.put(LeaseEnd(lease))

    def stop(self) -> None:
        """Finish queued requests, then return from ``run``; may be called from any thread."""
        self._inbox.put(StopSignal())

    @property
    def step_seconds(self) -> float:
        """Smoothed duration of a batch."""
        return self._window.step_seconds

    def run(self) -> None:
        """Run the engine's thread.

        Raises:
            JournalDivergedError: the server has to end; every answered request is in the journal.
        """
        while not self._stopping or self._queues:
            self._receive()
            self._wait_for_batch()
            self._run_other_tasks()
            self._run_batch()
            self._deliver()

    def _receive(self) -> None:
        """Take all new messages; block if there is nothing to do."""
        if not self._queues and not self._stopping:
            self._handle_item(self._inbox.get())
        self._drain()

    def _drain(self) -> None:
        while True:
            try:
                self._handle_item(self._inbox.get_nowait())
            except queue.Empty:
                return

    def _wait_for_batch(self) -> None:
        """Wait up to the batch window for sessions that are about to step."""
        until = time.monotonic() + self._window.seconds
        while self._window.expecting and not self._stopping and self._only_steps_queued():
            left = until - time.monotonic()
            try:
                self._handle_item(self._inbox.get(timeout=max(left, 0)))
                self._drain()
            except queue.Empty:
                self._window.give_up()

    def _only_steps_queued(self) -> bool:
        """True if only steps are queued, and fewer than a batch holds."""
        heads = [waiting[0].task for waiting in self._queues.values()]
        return 0 < len(heads) < self._max_batch and all(isinstance(task, StepTask) for task in heads)

    def _handle_item(self, item: Sequence[Request] | LeaseEnd | StopSignal) -> None:
        if isinstance(item, StopSignal):
            self._stopping = True
        elif isinstance(item, LeaseEnd):
            self._end_lease(item.lease)
        else:
            for request in item:
                self._enqueue(request)

    def _enqueue(self, request: Request) -> None:
        for position, task in enumerate(request.tasks):
            if not isinstance(task, BridgeError):
                self._queues.setdefault(task.session, deque()).append(QueuedTask(request, position, task))
                self._window.record_request(task.session, request.arrived)
        if not request.unanswered:
            self._answered.append(request)

    def _end_lease(self, lease: str) -> None:
        """Close the sessions of a lease and refuse its queued requests."""
        rule, remedy = "a request's lease must be alive", "say hello again"
        error = BridgeError(rule, lease[:4] + "...", remedy, code=Code.UNKNOWN_SESSION)
        for name in list(self._queues):
            for queued in list(self._queues[name]):
                if queued.request.envelope.lease == lease:
                    self._queues[name].remove(queued)
                    self._answer(queued, error)
            if not self._queues[name]:
                del self._queues[name]
        for hosted in self._manager.sessions.of_lease(lease):
            self._window.forget(hosted.name)
        self._manager.end_lease(lease)

    def _run_other_tasks(self) -> None:
        """Run tasks other than steps for a limited time."""
        until = time.monotonic() + max(0.01, _OTHER_TASKS_SHARE * self._window.step_seconds)
        done: list[str] = []
        for name in list(self._queues):
            if not isinstance(self._queues[name][0].task, StepTask):
                self._run_session_tasks(name, until)
                done.append(name)
            if time.monotonic() > until:
                break
        self._deliver()
        self._manager.take_due_snapshots(done)

    def _run_session_tasks(self, name: str, until: float) -> None:
        """Run the tasks of a session before its next step, for a limited time."""
        waiting = self._queues.pop(name)
        while waiting and not isinstance(waiting[0].task, StepTask):
            self._run_task(waiting.popleft())
            if time.monotonic() > until:
                break
        if waiting:
            self._queues[name] = waiting

    def _run_task(self, queued: QueuedTask) -> None:
        self._answer(queued, self._attempt(queued))
        name = queued.task.session
        if name in self._manager.sessions:
            self._window.record_answer(name, time.monotonic())
        else:
            self._window.forget(name)

    def _attempt(self, queued: QueuedTask) -> Answer | BridgeError:
        try:
            old = self._manager.remembered_reply(queued.task, queued.request.envelope.lease)
            if old is not None or queued.expired:
                return old or _deadline_exceeded()
            return self._execute(queued)
        except WorldsimError as error:
            return to_bridge_error(error)
        except JournalDivergedError:
            raise
        except Exception as error:
            logging.getLogger("worldsim").exception("%s failed", queued.request.envelope.op)
            return internal_error(error)

    def _execute(self, queued: QueuedTask) -> Answer:
        began = time.monotonic()
        answer = self._manager.run(queued.task, queued.request.envelope.lease)
        if isinstance(queued.task, ObserveTask):
            self._metrics.record_observation(time.monotonic() - began, began - queued.request.arrived)
        return answer

    def _run_batch(self) -> None:
        """Step one batch."""
        ready = [(queued, hosted) for name in list(self._queues) for queued, hosted in self._next_step(name)]
        if not ready:
            return
        ready.sort(key=lambda pair: pair[0].due)
        chosen = ready[: self._max_batch]
        hurried = [pair for pair in chosen if pair[0].budget_end is not None]
        others = [pair for pair in chosen if pair[0].budget_end is None]
        for batch in filter(None, (hurried, others)):  # a budget is not kept while others are waited for
            self._step_batch(batch)

    def _step_batch(self, batch: Sequence[tuple[QueuedTask, HostedSession]]) -> None:
        """Step the sessions of a batch, and answer."""
        began = time.monotonic()
        pairs = [(hosted, queued.task) for queued, hosted in batch if isinstance(queued.task, StepTask)]
        ends = [queued.budget_end for queued, _ in batch]
        budgets = [None if end is None else max(end - began, 0.0) for end in ends]
        answers = self._manager.step(pairs, budgets)
        now = time.monotonic()
        self._window.record_batch(now - began)
        self._metrics.record_batch(
            len(pairs), now - began, [began - queued.request.arrived for queued, _ in batch]
        )
        for (queued, hosted), answer in zip(batch, answers, strict=True):
            self._pop_task(hosted.name)
            self._answer(queued, answer)
            # Not expected: a session that has asked already, or whose client was refused meanwhile.
            if hosted.name not in self._queues and queued.request.connection.last_refused < began:
                self._window.record_answer(hosted.name, now)
        self._deliver()
        self._manager.take_due_snapshots(hosted.name for _, hosted in batch)

    def _next_step(self, name: str) -> list[tuple[QueuedTask, HostedSession]]:
        """Return the session's next step, if any; retries and expired steps are answered on the way."""
        waiting = self._queues[name]
        while waiting and isinstance(task := waiting[0].task, StepTask):
            queued = waiting[0]
            try:
                hosted = self._manager.sessions.find(name, queued.request.envelope.lease)
                old = hosted.remembered_reply(task.seq)
                if old is None and not queued.expired:
                    return [(queued, hosted)]
                self._answer(queued, old or _deadline_exceeded())
            except BridgeError as error:
                self._answer(queued, error)
            waiting.popleft()
        if not waiting:
            del self._queues[name]
        return []

    def _pop_task(self, name: str) -> None:
        waiting = self._queues[name]
        waiting.popleft()
        if not waiting:
            del self._queues[name]

    def _answer(self, queued: QueuedTask, answer: Answer | BridgeError) -> None:
        if queued.request.answer(queued.position, answer):
            self._answered.append(queued.request)

    def _deliver(self) -> None:
        if self._answered:
            answered, self._answered = self._answered, []
            self._on_answered(answered)


def _deadline_exceeded() -> BridgeError:
    rule, remedy = "a request must be reached before its deadline", "ask for less, or give it more time"
    return BridgeError(rule, None, remedy, code=Code.DEADLINE_EXCEEDED)
