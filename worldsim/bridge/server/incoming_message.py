"""Incoming message, parsed step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from worldsim.bridge.server.connections import ClientConnection
from worldsim.bridge.server.requests import Envelope, read_envelope, read_op_and_id
from worldsim.bridge.wire.header_fields import HeaderFields
from worldsim.bridge.wire.protocol import decode
from worldsim.bridge.wire.step_header import StepHeader, read_step
from worldsim.bridge.wire.zmtp import Reservation

__all__ = ["IncomingMessage"]


@dataclass(slots=True)
class IncomingMessage:
    """Message as received; ``open`` fills in the envelope, as far as it can be read."""

    parts: Sequence[bytes]
    connection: ClientConnection
    arrived: float
    """On the monotonic clock, in seconds."""
    reservation: Reservation
    """Memory reserved for its bytes."""
    envelope: Envelope = field(default_factory=Envelope)
    step: StepHeader | None = None
    """Parsed header, if the request is one step of one session."""
    header: dict[str, Any] | None = None
    """Header of any other request."""
    fields: HeaderFields = field(init=False)
    """Fields of ``header`` that have not been taken."""

    @property
    def key(self) -> str:
        """Authenticated key of the client, with or without a router in between."""
        return self.envelope.key or self.connection.key

    @property
    def payloads(self) -> Sequence[bytes]:
        """Raw payloads."""
        return self.parts[2:]

    def open(self, *, behind_router: bool) -> None:
        """Read the envelope; ``step``, or ``header`` and ``fields``, then hold the rest.

        Args:
            behind_router: whether a router sent it.

        Raises:
            BridgeError: it is malformed.
        """
        self.step = step = (
            None if self.connection.control else read_step(self.parts, behind_router=behind_router)
        )
        if step is not None:
            timeout_s = None if step.deadline_ms is None else step.deadline_ms / 1000
            self.envelope = Envelope(
                step.op, step.id, step.lease, step.trace, timeout_s, step.client_key, step.session
            )
            return
        self.header = decode(self.parts).header
        self.fields = HeaderFields(self.header, "a request")
        self.envelope = read_op_and_id(self.fields)
        read_envelope(self.fields, self.envelope, behind_router=behind_router)
