"""Remote session: a session of a server's engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import numpy as np

from worldsim.bridge.client.errors import UnansweredError, UnknownSessionError, error_from_reply
from worldsim.bridge.client.serial_queue import SerialQueue
from worldsim.bridge.client.step import RemoteStep, checked_codec, checked_reply, read_step, read_steps
from worldsim.bridge.client.world import RemoteWorld
from worldsim.bridge.wire.protocol import Message, describe
from worldsim.controls import Control, ControlLike, check_chunk
from worldsim.errors import BridgeError

__all__ = ["RemoteSession", "Requester", "new_name"]

T = TypeVar("T")


def new_name() -> str:
    """Return a new session name: 32 random hexadecimal digits."""
    return uuid4().hex


class Requester(Protocol):
    """Connection that sessions send their requests on: a ``Client``."""

    codec: str
    """Default codec of a step's frame."""
    timeout: float
    """Seconds after which a request is given up."""
    world: RemoteWorld

    def request(
        self, header: Mapping[str, Any], payloads: Sequence[Any] = (), *, seconds: float | None = None
    ) -> Future[Message]:
        """Send a request under the lease; ``seconds`` to wait, the time-out by default."""

    def wait(self, answer: Future[T]) -> T:
        """Block until a future is done; return its result."""

    def read_control(self, given: ControlLike) -> Control:
        """Return the control that ``given`` stands for, validated against the world."""

    def encode_control(self, given: ControlLike) -> dict[str, Any]:
        """Return a control as a header entry."""

    def encode_frame(self, frame: np.ndarray) -> np.ndarray:
        """Return a read-only copy of a real frame, validated against the world."""

    def register(self, session: RemoteSession, step: RemoteStep) -> RemoteSession:
        """Keep a new session that begins at ``step``."""

    def unregister(self, session: RemoteSession) -> None:
        """Forget a session."""


class RemoteSession:
    """Remote counterpart of ``worldsim.engine.session.Session``; safe to use from several threads.

    Made by ``Client.open``, ``fork``, ``Client.restore`` and ``Client.resume``. Its requests are carried out
    one at a time, in the order in which they were asked for: a ``step_async`` may follow another at once, and
    an ``observe_async`` a step.

    Raises:
        UnansweredError: no reply in time. ``Client.resume`` then tells how far the session has come; until
            then its steps are refused.
        EngineError: what the world itself refused. Other BridgeErrors: see ``docs/protocol.md``.
    """

    def __init__(
        self, client: Requester, name: str, *, seed: int | None = None, start: int | None = None
    ) -> None:
        self.client, self.name, self.seed = client, name, seed
        self.start = start
        """Start index given to ``open``; None if the seed chose it, or if unknown."""
        self.seq = 0
        """Number of steps, observed frames and rewinds taken."""
        self.closed = False
        self.queue = SerialQueue()
        self._last: RemoteStep | None = None
        self._out_of_sync = False

    @property
    def last(self) -> RemoteStep:
        """Newest step.

        Raises:
            BridgeError: none yet, in a session that was resumed by another client than its own.
        """
        if self._last is None:
            raise BridgeError("a resumed session's frame comes with its next step", self.name, "step it")
        return self._last

    @property
    def latency(self) -> int:
        """Frames that are imagined together, under controls that are known ahead."""
        return self.client.world.unit_frames

    @property
    def frame(self) -> np.ndarray | None:
        """The newest frame, uint8 [H, W, 3], read-only; None where it was asked for as "latent" or "none"."""
        return self.last.frame

    @property
    def pose(self) -> np.ndarray | None:
        """The newest camera-to-world, float64 [4, 4], read-only, or None."""
        return self.last.pose

    @property
    def index(self) -> int:
        """Number of the newest frame; 0 is the first of the given ones."""
        return self.last.index

    def step(
        self,
        control: ControlLike = None,
        *,
        codec: str | None = None,
        deadline: float | None = None,
        budget: float | None = None,
    ) -> RemoteStep:
        """Imagine one frame under ``control`` (no key by default).

        Args:
            control: control held during the frame.
            codec: "raw", "jpeg", "latent" or "none"; the client's by default.
            deadline: seconds after which DeadlineExceededError is raised and the session has not advanced.
            budget: seconds within which the server should answer: it takes as many denoising steps as fit, at
                least the fewest; see ``RemoteStep.denoising_steps``.
        """
        return self.client.wait(self.step_async(control, codec=codec, deadline=deadline, budget=budget))

    def step_async(
        self,
        control: ControlLike = None,
        *,
        codec: str | None = None,
        deadline: float | None = None,
        budget: float | None = None,
    ) -> Future[RemoteStep]:
        """Asynchronous ``step``: return a future of the step."""
        chosen = checked_codec(codec or self.client.codec)
        fields: dict[str, Any] = {"control": self.client.encode_control(control), "codec": chosen}
        if budget is not None:
            fields["budget_ms"] = max(0.0, budget * 1000)
        return self._request_step("step", fields, deadline)

    def step_chunk(
        self,
        controls: Sequence[ControlLike],
        *,
        codec: str | None = None,
        deadline: float | None = None,
    ) -> list[RemoteStep]:
        """Imagine as many frames as there are ``controls``, in order, by one request.

        Where a unit has several frames (``RemoteWorld.unit_frames``) it is imagined under all their controls,
        while ``step`` holds its one control for the whole unit. Each frame counts as one step in ``seq``.

        Args:
            controls: one or more, at most ``world.limits["chunk"]``.
            codec: as of ``step``.
            deadline: as of ``step``; frames that are not reached by then are not imagined.

        Raises:
            WorldsimError: the first failure; the session has taken the frames before it, see ``last``.
        """
        return self.client.wait(self.step_chunk_async(controls, codec=codec, deadline=deadline))

    def step_chunk_async(
        self,
        controls: Sequence[ControlLike],
        *,
        codec: str | None = None,
        deadline: float | None = None,
    ) -> Future[list[RemoteStep]]:
        """Asynchronous ``step_chunk``: return a future of the steps."""
        self.check()
        check_chunk(controls)
        chosen = checked_codec(codec or self.client.codec)
        fields: dict[str, Any] = {"codec": chosen}
        fields["controls"] = [self.client.encode_control(control) for control in controls]
        if deadline is not None:
            fields["deadline_ms"] = max(1, round(deadline * 1000))

        def read(reply: Message) -> list[RemoteStep]:
            with checked_reply("step_chunk"):
                items = reply.header["items"]
                made = [item["step"] for item in items if "error" not in item]
                shape = self.client.world.frame_shape(chosen)
                steps = [self.accept(step) for step in read_steps(made, reply.payloads, chosen, shape)]
                errors = [item["error"] for item in items if "error" in item]
            if errors:
                raise error_from_reply(errors[0])
            return steps

        return self._in_order(lambda: self._send_next("step_chunk", fields), read)

    def observe(
        self,
        frame: np.ndarray,
        pose: np.ndarray | None = None,
        control: ControlLike = None,
        *,
        deadline: float | None = None,
    ) -> RemoteStep:
        """Observe a real frame as the next one; later frames are imagined from it.

        It counts as one more step, which ``rewind`` takes back.

        Args:
            frame: uint8 [H, W, 3], copied; it does not travel back.
            pose: its camera-to-world [4, 4]; needed where the world was learnt with poses.
            control: control held while getting there, no key by default; its own pose is not read.
            deadline: as of ``step``.

        Raises:
            EngineError: a frame of another size or type, or no pose where one is needed.
            ControlError: a key that the world does not know, or a pose of another shape or with NaN in it.
        """
        return self.client.wait(self.observe_async(frame, pose, control, deadline=deadline))

    def observe_async(
        self,
        frame: np.ndarray,
        pose: np.ndarray | None = None,
        control: ControlLike = None,
        *,
        deadline: float | None = None,
    ) -> Future[RemoteStep]:
        """Asynchronous ``observe``: return a future of the step."""
        given = self.client.encode_frame(frame)
        entry = self.client.encode_control(replace(self.client.read_control(control), pose=pose))
        fields = {"frame": describe(given), "control": entry, "codec": "none"}
        return self._request_step("observe", fields, deadline, given)

    def rewind(self, frames: int = 1) -> RemoteStep:
        """Take back ``frames`` frames. The same controls give the same frames again."""
        return self.client.wait(self._request_step("rewind", {"frames": frames}))

    def fork(self, count: int = 1) -> list[RemoteSession]:
        """Return ``count`` sessions with this one's past and seed: the same controls give the same future."""
        names = [new_name() for _ in range(count)]

        def send() -> Future[Message]:
            return self._ask("fork", {"seq": self.seq, "children": names})

        def read(reply: Message) -> list[RemoteSession]:
            step = read_step(reply)
            return [self.client.register(self._child(name), step) for name in names]

        return self.client.wait(self._in_order(send, read))

    def snapshot(self) -> bytes:
        """Return the session's state as bytes; ``Client.restore`` continues it bit for bit."""

        def read(reply: Message) -> bytes:
            with checked_reply("snapshot"):
                return bytes(reply.payloads[0])

        return self.client.wait(self._in_order(lambda: self._ask("snapshot", {}), read))

    def close(self) -> None:
        """Close it on the server; closing twice is fine, also if the server has closed it."""
        if not self.closed:
            self.client.wait(self.close_async())

    def close_async(self, seconds: float | None = None) -> Future[None]:
        """Asynchronous ``close``: return a future; ``seconds`` to wait, the client's time-out by default."""
        self.closed = True
        self.client.unregister(self)

        def send() -> Future[Message]:
            asked = self._ask("close", {}, seconds)
            known: Future[Message] = Future()
            asked.add_done_callback(lambda _: _ignore_unknown_session(asked, known))
            return known

        return self._in_order(send, lambda _: None)

    def accept(self, step: RemoteStep) -> RemoteStep:
        """Store ``step`` as the newest one."""
        self.seq, self._last = step.seq, step
        return step

    def mark_out_of_sync(self) -> None:
        """Mark ``seq`` as unknown after an unanswered request."""
        self._out_of_sync = True

    def resync(self, seq: int) -> None:
        """Set ``seq`` to the server's."""
        self.seq, self._out_of_sync = seq, False

    def check(self) -> None:
        """Raise BridgeError if the session is closed or out of sync."""
        if self.closed:
            raise UnknownSessionError("a session must be open", self.name, "open a new one")
        if self._out_of_sync:
            rule = "a session must be resumed after a request that was not answered"
            raise BridgeError(rule, self.name, "call client.resume()")

    def _child(self, name: str) -> RemoteSession:
        return RemoteSession(self.client, name, seed=self.seed, start=self.start)

    def _request_step(
        self,
        op: str,
        fields: dict[str, Any],
        deadline: float | None = None,
        given: np.ndarray | None = None,
    ) -> Future[RemoteStep]:
        """Send a request that changes the session; its reply becomes the newest step."""
        self.check()
        if deadline is not None:
            fields["deadline_ms"] = max(1, round(deadline * 1000))

        def send() -> Future[Message]:
            return self._send_next(op, fields, () if given is None else (given,))

        def read(reply: Message) -> RemoteStep:
            step = read_step(reply)
            return self.accept(step if given is None else replace(step, frame=given))

        return self._in_order(send, read)

    def _send_next(self, op: str, fields: Mapping[str, Any], payloads: Sequence[Any] = ()) -> Future[Message]:
        """Send a request with the next ``seq``, in its turn."""
        self.check()
        asked = self._ask(op, {"seq": self.seq + 1, **fields}, payloads=payloads)
        asked.add_done_callback(lambda _: self._check_answered(asked))
        return asked

    def _check_answered(self, asked: Future[Message]) -> None:
        if isinstance(asked.exception(), UnansweredError):
            self.mark_out_of_sync()

    def _ask(
        self, op: str, fields: dict[str, Any], seconds: float | None = None, payloads: Sequence[Any] = ()
    ) -> Future[Message]:
        return self.client.request({"op": op, "session": self.name, **fields}, payloads, seconds=seconds)

    def _in_order(self, send: Callable[[], Future[Message]], read: Callable[[Message], T]) -> Future[T]:
        """Call ``send`` in its turn; return a future of ``read`` of its reply."""
        answer: Future[T] = Future()
        answer.set_running_or_notify_cancel()

        def end(asked: Future[Message]) -> None:
            try:
                value = read(asked.result())
            except Exception as error:  # whatever it is, it belongs to whoever asked
                self.queue.release()
                answer.set_exception(error)
            else:
                self.queue.release()
                answer.set_result(value)

        def begin() -> None:
            try:
                asked = send()
            except Exception as error:
                asked = Future()
                asked.set_exception(error)
            asked.add_done_callback(end)

        self.queue.enqueue(begin)
        return answer


def _ignore_unknown_session(asked: Future[Message], known: Future[Message]) -> None:
    """Resolve a ``close``, for which an unknown session is a success."""
    error = asked.exception()
    if error is None or isinstance(error, UnknownSessionError):
        known.set_result(Message({}) if error else asked.result())
    else:
        known.set_exception(error)
