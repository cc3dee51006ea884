"""A message on its way through a server's hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from worldsim.bridge.server.connections import ClientConnection
from worldsim.bridge.server.requests import Envelope, read_envelope, read_op_and_id
from worldsim.bridge.wire.header_fields import HeaderFields
from worldsim.bridge.wire.protocol import decode
from worldsim.bridge.wire.step_header import StepHeader, read_step
from worldsim.bridge.wire.zmtp import Reservation

__all__ = ["IncomingMessage"]


@dataclass(slots=True)
class IncomingMessage:
    """As it came; from ``open`` on with what is known of it, even if the rest turns out to be malformed."""

    parts: Sequence[bytes]
    connection: ClientConnection
    arrived: float
    """On the monotonic clock, in seconds."""
    reservation: Reservation
    """For its bytes."""
    envelope: Envelope = field(default_factory=Envelope)
    step: StepHeader | None = None
    """All that it asks for if that is one step of one session."""
    fields: HeaderFields = field(init=False)
    """What it asks for otherwise."""

    @property
    def key(self) -> str:
        """Whose it is: the authenticated key of the client, by way of a router or not."""
        return self.envelope.key or self.connection.key

    @property
    def payloads(self) -> Sequence[bytes]:
        """Raw bytes each."""
        return self.parts[2:]

    def open(self, *, behind_router: bool) -> None:
        """Read the envelope; ``step`` or ``fields`` then holds the rest.

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
        self.fields = HeaderFields(decode(self.parts).header, "a request")
        self.envelope = read_op_and_id(self.fields)
        read_envelope(self.fields, self.envelope, behind_router=behind_router)
