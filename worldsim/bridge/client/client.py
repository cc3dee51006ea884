"""Client of one server: its world and sessions."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import numpy as np

from worldsim.bridge.client.batched_step import BatchedStep
from worldsim.bridge.client.connection import ServerConnection
from worldsim.bridge.client.errors import UnansweredError, UnknownSessionError
from worldsim.bridge.client.keys import ClientKeys
from worldsim.bridge.client.local_address import check_owner, default_address
from worldsim.bridge.client.session import RemoteSession, new_name
from worldsim.bridge.client.step import RemoteStep, checked_codec, checked_reply, read_step
from worldsim.bridge.client.world import RemoteWorld
from worldsim.bridge.wire.protocol import Message, describe
from worldsim.controls import Control, ControlLike, check_mapping
from worldsim.errors import BridgeError, EngineError

__all__ = ["Client", "GivenFrames"]

T = TypeVar("T")

_CLOSE_TIMEOUT = 10.0
"""Longest wait in seconds for sessions to be closed; afterwards they end with the lease."""


class GivenFrames(Protocol):
    """Frames to start from, such as a ``worldsim.Context``."""

    @property
    def frames(self) -> np.ndarray:
        """uint8 [T, H, W, 3]"""

    @property
    def controls(self) -> Any:
        """float32 [T, M]: control vectors that led into each frame; the first row is ignored. Or a list of
        controls, one a frame."""

    @property
    def poses(self) -> np.ndarray | None:
        """Camera-to-world, float64 [T, 4, 4], or None."""


class Client:
    """Client of a ``worldsim serve`` process; safe to use from several threads.

        with Client("doom-maze") as client:
            session = client.open(seed=7)
            step = session.step(Control({"forward"}))

    Requests are retried after a time-out, a reconnection or an ``UNAVAILABLE``; each is executed once. A
    thread sends heartbeats, so that sessions live as long as their client.

    Args:
        address: data socket of the server, ``ipc://PATH`` or ``tcp://HOST:PORT``; or the name of a world
            that this user serves on this machine at its default address.
        keys: for a server that asks for them.
        codec: default codec of frames: "raw", "jpeg", "latent" or "none".
        timeout: seconds after which a request is given up.
        lease: lease of a disconnected client, whose sessions are then in ``sessions``. It is secret.
        name: name of this client in the server's journal.

    Raises:
        BridgeError: no answer in time, a key that the server does not know, another version, or without keys
            a local server that is another user's.
        DependencyError: the codec "jpeg", and no Pillow is installed.
    """

    def __init__(
        self,
        address: str,
        keys: ClientKeys | None = None,
        *,
        codec: str = "raw",
        timeout: float = 30.0,
        lease: str | None = None,
        name: str = "python",
    ) -> None:
        self.address = address if "://" in address else default_address(address)
        self.codec, self.timeout, self.name = checked_codec(codec), timeout, name
        if keys is None:
            check_owner(self.address)
        self._sessions: dict[str, RemoteSession] = {}
        self._lock = threading.Lock()
        self._connection = ServerConnection(self.address, keys)
        try:
            self._hello(lease)
        except BaseException:
            self._connection.close()
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        """Refuse to be pickled or copied: BridgeError."""
        rule = "a connection cannot be pickled"
        remedy = "make the client, or the environment, in the process that uses it"
        raise BridgeError(rule, self.address, remedy)

    @property
    def lease(self) -> str:
        """Secret lease that owns the sessions."""
        return self._connection.lease or ""

    @property
    def sessions(self) -> tuple[RemoteSession, ...]:
        """Open sessions."""
        with self._lock:
            return tuple(self._sessions.values())

    def open(
        self, seed: int = 0, start: int | GivenFrames | None = None, temperature: float = 1.0
    ) -> RemoteSession:
        """Begin a session.

        Args:
            seed: 0 to 2**64 - 1; the same seed, start and controls give the same frames.
            start: index into the world's starts, given frames, or None: a start picked by the seed.
            temperature: factor of the sampled noise, in [0, 10]: 1 as trained, 0 is deterministic.
        """
        fields: dict[str, Any] = {"op": "open", "seed": int(seed)}
        if temperature != 1:
            fields["temperature"] = float(temperature)
        if start is None or isinstance(start, int | np.integer):
            number = None if start is None else int(start)
            return self._begin({**fields, "start": number}, (), seed=int(seed), start=number)
        if not hasattr(start, "frames"):
            rule, remedy = "a start must be a number or a Context", "write Context(frames, controls, poses)"
            raise EngineError(rule, type(start).__name__, remedy)
        context, payloads = self._encode_context(start)
        return self._begin({**fields, "context": context}, payloads, seed=int(seed))

    def restore(self, snapshot: bytes) -> RemoteSession:
        """Open a session from a snapshot; it continues bit for bit like the original."""
        return self._begin({"op": "restore"}, [snapshot])

    def step_many(
        self,
        controls: Mapping[RemoteSession, ControlLike],
        *,
        codec: str | None = None,
        deadline: float | None = None,
        budget: float | None = None,
    ) -> dict[RemoteSession, RemoteStep]:
        """Step several sessions by one frame, in as few messages as possible; arguments as of a session's.

        Raises:
            WorldsimError: the first of the sessions' failures; the others have moved, see their ``seq``.
        """
        self._check_may_block()
        check_mapping(controls)
        entries = {session: self.encode_control(control) for session, control in controls.items()}
        failures = BatchedStep(self, entries, checked_codec(codec or self.codec), deadline, budget).step()
        for error in failures.values():
            raise error
        return {session: session.last for session in controls}

    def resume(self) -> tuple[RemoteSession, ...]:
        """Send ``hello`` with the same lease again: update the sessions and their ``seq``.

        Sessions that the server has closed are marked as closed. Call it after an ``UnansweredError``.
        """
        self._hello(self._connection.lease)
        return self.sessions

    def info(self) -> dict[str, Any]:
        """Return the server's state and load; see ``docs/protocol.md``."""
        reply = self.wait(self._connection.request({"op": "info"}, seconds=self.timeout, control=True))
        return {name: value for name, value in reply.header.items() if name not in ("op", "id", "ok")}

    def close(self, *, keep_sessions: bool = False) -> None:
        """Close all sessions and disconnect; closing twice is fine.

        Args:
            keep_sessions: leave them to another client with this one's ``lease``.
        """
        closing = (
            []
            if keep_sessions
            else [session.close_async(min(_CLOSE_TIMEOUT, self.timeout)) for session in self.sessions]
        )
        for one in closing:
            one.exception()
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(
        self, header: Mapping[str, Any], payloads: Sequence[Any] = (), *, seconds: float | None = None
    ) -> Future[Message]:
        """Send a request about sessions under the lease, to be answered within ``seconds`` (the time-out)."""
        patience = self.timeout if seconds is None else seconds
        return self._connection.request({**header, "lease": self.lease}, payloads, seconds=patience)

    def wait(self, answer: Future[T]) -> T:
        """Return the future's result, or raise its error.

        Raises:
            BridgeError: asked from a future's callback, which would wait for itself.
        """
        self._check_may_block()
        return answer.result()

    def read_control(self, given: ControlLike) -> Control:
        """Return the control that ``given`` stands for. ControlError if the world does not take it."""
        return self.world.control_space.control(given)

    def encode_control(self, given: ControlLike) -> dict[str, Any]:
        """Return a control as a header entry, without empty fields. ControlError if it is not taken."""
        control = self.read_control(given)
        pose = None if control.pose is None else control.pose.ravel().tolist()
        entry = {"keys": sorted(control.keys), "yaw": control.yaw, "pose": pose, "prompt": control.prompt}
        entry["action"] = None if control.action is None else list(control.action)
        return {name: value for name, value in entry.items() if value}

    def encode_frame(self, frame: np.ndarray) -> np.ndarray:
        """Return a read-only copy of a real frame. EngineError if the world does not take it."""
        shape, frame = (*self.world.size, 3), np.asarray(frame)
        if frame.shape != shape or frame.dtype != np.uint8:
            rule = f"a frame must be uint8 {list(shape)}"
            raise EngineError(rule, f"{frame.dtype} {list(frame.shape)}", "resize it")
        copy = np.array(frame, order="C")
        copy.flags.writeable = False
        return copy

    def register(self, session: RemoteSession, step: RemoteStep) -> RemoteSession:
        """Add a new session that begins at ``step``; its seq begins at 0."""
        session.accept(replace(step, seq=0))
        with self._lock:
            self._sessions[session.name] = session
        return session

    def unregister(self, session: RemoteSession) -> None:
        """Remove a session from ``sessions``."""
        with self._lock:
            self._sessions.pop(session.name, None)

    def _check_may_block(self) -> None:
        if self._connection.in_io_thread:
            rule = "what waits for a reply must not be called from a future's callback"
            raise BridgeError(rule, None, "call step_async there, or wait in another thread")

    def _hello(self, lease: str | None) -> None:
        header = {"op": "hello", "client": self.name, "lease": lease}
        try:
            hello = self.wait(self._connection.request(header, seconds=self.timeout, control=True)).header
        except UnansweredError as error:
            remedy = "start `worldsim serve`, which prints its address"
            raise UnansweredError(f"hello to {self.address}", self.timeout, remedy) from error
        self.world = RemoteWorld.read(hello)
        with checked_reply("hello"):
            self._connection.lease = hello["lease"]
            self._sync_sessions(hello.get("sessions") or {})

    def _sync_sessions(self, taken: Mapping[str, int]) -> None:
        """Update the sessions to those of the server, name -> last seq taken."""
        with self._lock:
            for name in self._sessions.keys() - taken.keys():
                self._sessions.pop(name).closed = True
            for name, seq in taken.items():
                self._sessions.setdefault(name, RemoteSession(self, name)).resync(seq)

    def _begin(
        self,
        fields: dict[str, Any],
        payloads: Sequence[Any],
        seed: int | None = None,
        start: int | None = None,
    ) -> RemoteSession:
        session = RemoteSession(self, new_name(), seed=seed, start=start)
        header = {**fields, "session": session.name}
        try:
            reply = self.wait(self.request(header, payloads))
        except UnknownSessionError:  # the lease ended: this machine slept, or the server began anew
            self.resume()
            reply = self.wait(self.request(header, payloads))
        return self.register(session, read_step(reply))

    def _encode_context(self, given: GivenFrames) -> tuple[dict[str, Any], list[Any]]:
        frames = np.ascontiguousarray(given.frames, np.uint8)
        controls = self.world.control_space.rows(given.controls, len(frames))
        arrays: dict[str, np.ndarray | None] = {
            "frames": frames,
            "controls": np.ascontiguousarray(controls, "<f4"),
            "poses": None if given.poses is None else np.ascontiguousarray(given.poses, "<f8"),
        }
        sent = [array for array in arrays.values() if array is not None]
        parts = iter(range(len(sent)))
        entry = {name: None if a is None else describe(a, next(parts)) for name, a in arrays.items()}
        return entry, sent
