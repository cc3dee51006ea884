"""One step of several sessions at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from worldsim.bridge.client.errors import RETRYABLE, UnansweredError, error_from_reply
from worldsim.bridge.client.session import RemoteSession, Requester
from worldsim.bridge.client.step import checked_reply, read_steps
from worldsim.bridge.wire.protocol import REPLY, Code, Message
from worldsim.errors import BridgeError, WorldsimError

__all__ = ["BatchedStep"]

_PAUSE = 0.1
"""Default retry delay in seconds."""


class BatchedStep:
    """A ``step_many`` in as few messages as possible, retried for sessions that were refused.

    Args:
        client: of the sessions.
        entries: each session's control, as a header holds it.
        codec: what the frames come as.
        deadline: seconds after which they would be of no use, or None.
        budget: seconds within which they should be answered, with fewer denoising steps if need be, or None.
    """

    def __init__(
        self,
        client: Requester,
        entries: Mapping[RemoteSession, dict[str, Any]],
        codec: str,
        deadline: float | None,
        budget: float | None = None,
    ) -> None:
        self._client, self._entries, self._codec = client, entries, codec
        self._fields: dict[str, Any] = {"op": "step_many", "codec": codec}
        if deadline is not None:
            self._fields["deadline_ms"] = max(1, round(deadline * 1000))
        if budget is not None:
            self._fields["budget_ms"] = max(0.0, budget * 1000)

    def step(self) -> dict[RemoteSession, WorldsimError]:
        """Step every session in its turn; return the errors."""
        in_order = sorted(self._entries, key=lambda session: session.name)
        for session in in_order:  # an order that all agree on: nobody waits for somebody who waits
            session.queue.acquire()
        try:
            for session in in_order:
                session.check()
            return self._step(list(self._entries))
        finally:
            for session in in_order:
                session.queue.release()

    def _step(self, sessions: Sequence[RemoteSession]) -> dict[RemoteSession, WorldsimError]:
        end = time.monotonic() + self._client.timeout
        failures: dict[RemoteSession, WorldsimError] = {}
        while sessions:
            found = self._ask_all(sessions)
            waits = {} if time.monotonic() > end else _retry_delays(found)
            failures |= {session: error for session, error in found.items() if session not in waits}
            sessions = list(waits)
            time.sleep(max(waits.values(), default=0.0))
        return failures

    def _ask_all(self, sessions: Sequence[RemoteSession]) -> dict[RemoteSession, WorldsimError]:
        asked = [pair for part in self._parts(sessions) for pair in self._ask(part)]
        found: dict[RemoteSession, WorldsimError] = {}
        for part, answer in asked:
            found |= self._take(part, answer)
        return found

    def _parts(self, sessions: Sequence[RemoteSession]) -> list[Sequence[RemoteSession]]:
        """Split sessions into groups that fit into one message."""
        world = self._client.world
        most = world.limits.get("items", 256)
        if size := world.frame_bytes(self._codec):
            most = max(1, min(most, REPLY.payload // size))
        return [sessions[i : i + most] for i in range(0, len(sessions), most)]

    def _ask(self, part: Sequence[RemoteSession]) -> list[tuple[Sequence[RemoteSession], Future[Message]]]:
        """Send one message, or two if the controls are too long for one."""
        items = [
            {"session": session.name, "seq": session.seq + 1, "control": self._entries[session]}
            for session in part
        ]
        try:
            return [(part, self._client.request({**self._fields, "items": items}))]
        except BridgeError as error:
            if error.code != Code.RESOURCE_EXHAUSTED or len(part) == 1:
                raise
        half = len(part) // 2
        return self._ask(part[:half]) + self._ask(part[half:])

    def _take(
        self, part: Sequence[RemoteSession], answer: Future[Message]
    ) -> dict[RemoteSession, WorldsimError]:
        """Pass each session its step; return the errors."""
        try:
            reply = answer.result()
        except UnansweredError as error:
            for session in part:
                session.mark_out_of_sync()
            return dict.fromkeys(part, error)
        except WorldsimError as error:
            return dict.fromkeys(part, error)
        shape = self._client.world.frame_shape(self._codec)
        with checked_reply("step_many"):
            items = list(zip(part, reply.header["items"], strict=True))
            moved = [(session, item["step"]) for session, item in items if "error" not in item]
            steps = read_steps([step for _, step in moved], reply.payloads, self._codec, shape)
        for (session, _), step in zip(moved, steps, strict=True):
            session.accept(step)
        return {session: error_from_reply(item["error"]) for session, item in items if "error" in item}


def _retry_delays(found: Mapping[RemoteSession, WorldsimError]) -> dict[RemoteSession, float]:
    """Return retry delays in seconds of the sessions that may be retried."""
    return {
        session: _PAUSE if error.retry_after_ms is None else error.retry_after_ms / 1000
        for session, error in found.items()
        if isinstance(error, BridgeError) and error.code in RETRYABLE
    }
