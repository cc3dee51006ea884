"""A message on its way through a server's hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from worldsim.bridge.fields import Fields
from worldsim.bridge.peers import Peer
from worldsim.bridge.protocol import decode
from worldsim.bridge.requests import Envelope, read_name, read_rest
from worldsim.bridge.step_header import StepHeader, read_step
from worldsim.bridge.zmtp import Charge

__all__ = ["Letter"]


@dataclass(slots=True)
class Letter:
    """As it came; from ``open`` on with what is known of it, even if the rest turns out to be malformed."""

    parts: Sequence[bytes]
    peer: Peer
    arrived: float
    """On the monotonic clock, in seconds."""
    charge: Charge
    """For its bytes."""
    envelope: Envelope = field(default_factory=Envelope)
    step: StepHeader | None = None
    """All that it asks for if that is one step of one session."""
    fields: Fields = field(init=False)
    """What it asks for otherwise."""

    @property
    def key(self) -> str:
        """Whose it is: the authenticated key of the client, by way of a front or not."""
        return self.envelope.key or self.peer.key

    @property
    def payloads(self) -> Sequence[bytes]:
        """Raw bytes each."""
        return self.parts[2:]

    def open(self, *, front: bool) -> None:
        """Read the envelope; ``step`` or ``fields`` then holds the rest.

        Args:
            front: whether a front sent it.

        Raises:
            BridgeError: it is malformed.
        """
        self.step = step = None if self.peer.control else read_step(self.parts, front=front)
        if step is not None:
            patience = None if step.deadline_ms is None else step.deadline_ms / 1000
            self.envelope = Envelope(
                step.op, step.id, step.lease, step.trace, patience, step.client, step.session
            )
            return
        self.fields = Fields(decode(self.parts).header, "a request")
        self.envelope = read_name(self.fields)
        read_rest(self.fields, self.envelope, front=front)
