"""One address before several engines.

A session lives on one engine; the front knows on which, and passes requests and replies on. Leases are known
to all engines and written down by each. So a front holds nothing that would be lost with it: started again,
it asks its engines which sessions they have.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldsim.bridge.fields import Fields
from worldsim.bridge.front.fleet import Fleet, Seat
from worldsim.bridge.front.gather import Gathered, Replies, busy, join_steps, row_of, split_items, sum_info
from worldsim.bridge.front.link import Link
from worldsim.bridge.leases import Lease, Leases, read_records
from worldsim.bridge.metrics import Meter
from worldsim.bridge.peers import Peer, Peers
from worldsim.bridge.protocol import REPLY, Code, Limits, Message, decode, encode
from worldsim.bridge.replies import accept, refuse
from worldsim.bridge.requests import Envelope, read_name, read_rest
from worldsim.bridge.sockets import Incoming, Sockets
from worldsim.bridge.zmtp import Charge
from worldsim.errors import BridgeError

__all__ = ["Front"]

_AT_ONCE = 64
_TICK = 0.05
_BEAT = 1.0
_DRAIN = 30.0
_MAKERS = ("open", "restore")
_SESSIONS = ("step", "rewind", "anchor", "fork", "snapshot", "close")


class Front:
    """Serves clients until it is stopped.

    Args:
        address: of the data socket.
        words: of each engine's command line, after ``worldsim``.
        keys: folder of keys, or None.
        state: folder of the engines' journals, or None.
        ttl: seconds that a lease lasts without a sign of life.
        limits: of one client.

    Raises:
        BridgeError: an address that is taken or needs keys.
    """

    def __init__(
        self,
        address: str,
        words: Sequence[Sequence[str]],
        *,
        keys: Path | None = None,
        state: Path | None = None,
        ttl: float = 30.0,
        limits: Limits | None = None,
    ) -> None:
        self.limits, self.meter = limits or Limits(), Meter()
        self._leases = Leases(ttl)
        self._peers = Peers(self.limits.rate, self.limits.malformed)
        self._sockets = Sockets(address, keys)
        self.address = self._sockets.address
        """Of the data socket, with its port."""
        self.fleet = Fleet(words, state, self._sockets)
        self._draining = self._stopping = False
        self._settled = False
        """Whether all engines have said which leases they have."""
        self.turned = time.monotonic()
        self.ended = threading.Event()
        self.fault: BaseException | None = None
        """What ended the front, if anything did."""
        self._thread = threading.Thread(target=self._serve, name="worldsim-front", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether its thread does its work."""
        return self.fault is None and not self.ended.is_set()

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self.alive and not self._draining and bool(self.fleet.ready)

    def watch(self) -> None:
        """Add what there is to see to the meter."""
        self.meter.watch("sessions", "Sessions that are open.", lambda: len(self.fleet.seats))
        self.meter.watch("engines", "Engines that are ready.", lambda: len(self.fleet.ready))
        self.meter.watch("leases", "Leases that are alive.", lambda: len(self._leases))
        self.meter.watch("waiting", "Requests on their way.", lambda: self.fleet.waiting)

    def await_engines(self, asked: threading.Event) -> None:
        """Return when all engines are ready, or it has been asked to end."""
        while not (asked.wait(0.1) or self.ended.is_set() or self.fleet.whole):
            pass

    def stop(self) -> None:
        """Refuse what is new, have the rest answered, end the engines. Stopping twice is fine."""
        self._draining = self._stopping = True
        self._thread.join()

    def __enter__(self) -> Front:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serve(self) -> None:
        try:
            self._run()
        except BaseException as error:
            logging.getLogger("worldsim").critical("the front has to end", exc_info=error)
            self.fault = error
        finally:
            self._sockets.close()
            self.fleet.close()
            self.ended.set()

    def _run(self) -> None:
        tick = beat = 0.0
        goodbye = None
        while goodbye is None or (self._busy and time.monotonic() < goodbye):
            self._sockets.poll(_TICK)
            now = self.turned = time.monotonic()
            self._leases.listen(now)
            self.fleet.receive()
            for control in (True, False):
                self._receive(now, control=control)
            if now - tick > _TICK:
                tick = now
                self._look_around(now)
            if now - beat > _BEAT:
                beat = now
                self.fleet.beat(iter(self._leases))
            if self._stopping and goodbye is None:
                goodbye = now + _DRAIN

    @property
    def _busy(self) -> bool:
        """Whether there is anything left to answer or to send."""
        return bool(self.fleet.waiting or self._sockets.unsent)

    def _look_around(self, now: float) -> None:
        for lease in self._leases.expire(now):
            for name in [name for name, seat in self.fleet.seats.items() if seat.lease == lease.token]:
                del self.fleet.seats[name]
        self._peers.prune(now)
        self.fleet.look_around(now, lambda: iter(self._leases), self._recall)
        self._settled = self._settled or self.fleet.whole

    def _recall(self, packed: bytes) -> list[Lease]:
        """Take in leases that an engine has; returns those that are new here."""
        new = [record for record in read_records(packed) if record["lease"] not in self._leases]
        for record in new:
            self._leases.recover(record, self.turned)
        tokens = {record["lease"] for record in new}
        return [lease for lease in self._leases if lease.token in tokens]

    def _need(self, envelope: Envelope, peer: Peer, now: float) -> Lease:
        """The lease of a request; before all engines have told theirs, one that is not known may be alive."""
        if envelope.lease not in self._leases and not self._settled:
            raise busy("a server's engines must be ready", 500)
        return self._leases.need(envelope.lease, peer.key, now)

    def _receive(self, now: float, *, control: bool) -> None:
        for _ in range(_AT_ONCE):
            incoming = self._sockets.receive(control=control)
            if incoming is None:
                return
            peer = self._peers.meet(control, incoming.identity, incoming.key, now)
            try:
                self._take(incoming, peer, now)
            except Exception:  # one message must never end the service of all others
                logging.getLogger("worldsim").exception("a message could not be handled")

    def _take(self, incoming: Incoming, peer: Peer, now: float) -> None:
        envelope = Envelope()
        try:
            message = decode(incoming.parts)
            fields = Fields(message.header, "a request")
            envelope = read_name(fields)
            read_rest(fields, envelope)
            if not peer.requests.take(now):
                raise busy(f"a client may send {self.limits.rate} requests a second", 1000 * (1 - now % 1))
            if peer.control:
                self._answer_control(envelope, fields, peer, now)
            else:
                self._pass_on(envelope, message, peer, now, incoming.charge)
            self.meter.request(envelope.op)
        except BridgeError as error:
            self._refuse(peer, envelope, error, now)

    def _refuse(self, peer: Peer, envelope: Envelope, error: BridgeError, now: float) -> None:
        self.meter.refused(error.code)
        if error.code in (Code.BAD_REQUEST, Code.VERSION):
            self.meter.malformed()
            if not peer.malformed.take(now):
                return
        self._send(peer, refuse(envelope, error))

    def _send(self, peer: Peer, parts: list[Any]) -> None:
        """What there is no room for is dropped, and asked for again by the client."""
        self._sockets.send(peer.identity, parts, control=peer.control)

    def _answer_control(self, envelope: Envelope, fields: Fields, peer: Peer, now: float) -> None:
        if envelope.op == "hello":
            client = fields.text("client", 64)
            fields.end()
            self._greet(envelope, client, peer, now)
            return
        fields.end()
        if envelope.op == "heartbeat":
            self._need(envelope, peer, now)
            self._send(peer, accept(envelope, {}))
        elif envelope.op == "info":
            self._tell(envelope, peer)
        else:
            known = "the control socket takes hello, heartbeat, info"
            raise BridgeError("a request's op must be known", envelope.op, known)

    def _greet(self, envelope: Envelope, client: str, peer: Peer, now: float) -> None:
        """A lease is one once all engines know it."""
        lease = self._leases.find(envelope.lease, peer.key, now)
        if not self.fleet.ready or (envelope.lease and not self.fleet.whole):
            raise busy("a server's engines must be ready", 500)
        if lease is None:
            self._check_open()
            lease = self._leases.grant(peer.key, client, now, envelope.lease, peer.identity.hex())
        gathered = Gathered(
            len(self.fleet.ready),
            good=lambda replies: self._welcome(envelope, peer, lease, replies),
            bad=lambda error: self._send(peer, refuse(envelope, error)),
        )
        for link in self.fleet.links:
            if link.ready:
                self.fleet.hello(link, lease, gathered.of(link))
            elif link.process is not None:
                self.fleet.hello(link, lease, lambda _: None)

    def _welcome(self, envelope: Envelope, peer: Peer, lease: Lease, replies: Replies) -> None:
        for link, reply in replies:
            self.fleet.seat(reply.header["sessions"], link, lease.token)
        seats = self.fleet.seats.items()
        last = {name: seq for _, reply in replies for name, seq in reply.header["sessions"].items()}
        sessions = {name: last.get(name, seat.seq) for name, seat in seats if seat.lease == lease.token}
        facts = {
            name: value for name, value in replies[0][1].header.items() if name not in ("op", "id", "ok")
        }
        own = {"lease": lease.token, "ttl_s": self._leases.ttl, "limits": self.limits.to_dict()}
        self._send(peer, accept(envelope, {**facts, **own, "sessions": sessions}))

    def _tell(self, envelope: Envelope, peer: Peer) -> None:
        links = self.fleet.ready
        if not links:
            raise busy("a server's engines must be ready", 500)

        def tell(replies: Replies) -> None:
            total = sum_info([reply.header for _, reply in replies])
            values = {name: value for name, value in total.items() if name not in ("op", "id", "ok", "trace")}
            self._send(peer, accept(envelope, {**values, "draining": self._draining}))

        gathered = Gathered(
            len(links), good=tell, bad=lambda error: self._send(peer, refuse(envelope, error))
        )
        for link in links:
            self.fleet.ask(link, {"op": "info"}, key="", then=gathered.of(link), control=True)

    def _pass_on(
        self, envelope: Envelope, message: Message, peer: Peer, now: float, charge: Charge
    ) -> None:
        self._check_open()
        if not peer.has_room(envelope.session, self.limits.waiting):
            most = self.limits.waiting
            raise busy(f"a client may have {most} requests waiting, each session an equal part", 100)
        lease = self._need(envelope, peer, now)
        if envelope.op == "step_many":
            self._split(envelope, message, peer, lease)
            return
        if envelope.op not in (*_MAKERS, *_SESSIONS):
            known = ", ".join((*_MAKERS, *_SESSIONS, "step_many"))
            raise BridgeError("a request's op must be known", envelope.op, f"the data socket takes {known}")
        name = str(message.header.get("session"))
        link = self._find(name) or (self._place(name, lease) if envelope.op in _MAKERS else None)
        if link is None and envelope.op == "close" and self.fleet.whole:
            self._send(peer, accept(envelope, {}))
            return
        if link is None or not link.ready:
            raise self._nowhere(name)
        self._await(peer, lease, envelope.session)

        def answer(reply: Message | None, _: Charge = charge) -> None:
            self._release(peer, lease, envelope.session)
            self._note(message.header, lease, link, reply)
            self._reply(peer, envelope, reply)

        self.fleet.ask(link, message.header, message.payloads, key=peer.key, then=answer)

    def _find(self, name: str) -> Link | None:
        seat = self.fleet.seats.get(name)
        return None if seat is None else seat.link

    def _place(self, name: str, lease: Lease) -> Link | None:
        """An engine for a new session. While one is away the session may be there already."""
        link = self.fleet.emptiest() if self.fleet.whole else None
        if link is not None and len(name) == 32:
            self.fleet.seats[name] = Seat(link, lease.token)
        return link

    def _nowhere(self, name: str) -> BridgeError:
        if name in self.fleet.seats or not self.fleet.whole:
            return busy("a session's engine must be ready", 500)
        return BridgeError("a session must be open", name[:40], "open it", code=Code.UNKNOWN_SESSION)

    def _note(self, header: dict[str, Any], lease: Lease, link: Link, reply: Message | None) -> None:
        """What a reply tells about where sessions are."""
        if reply is None:
            return
        op, ok, name = header["op"], reply.header["ok"], header.get("session")
        seat = self.fleet.seats.get(name) if isinstance(name, str) else None
        if ok and op == "fork":
            self.fleet.seats.update({child: Seat(link, lease.token) for child in header["children"]})
        elif ok and op == "close":
            self.fleet.seats.pop(str(name), None)
        elif ok and seat is not None and op in ("step", "rewind", "anchor"):
            seat.seq = reply.header["step"]["seq"]
        elif not ok and seat is not None and seat.lease == lease.token and seat.seq == 0:
            made = op in _MAKERS and reply.header["error"]["code"] not in (Code.BAD_REQUEST, Code.GAP)
            if made or reply.header["error"]["code"] == Code.UNKNOWN_SESSION:
                del self.fleet.seats[str(name)]

    def _split(self, envelope: Envelope, message: Message, peer: Peer, lease: Lease) -> None:
        """A ``step_many`` to all engines that it concerns."""
        items = message.header.get("items")
        if not isinstance(items, list) or not 1 <= len(items) <= self.limits.items:
            rule = f"a step_many may have 1 to {self.limits.items} items"
            raise BridgeError(rule, type(items).__name__, "send several", code=Code.LIMIT)
        numbers = {name: seat.link.number for name, seat in self.fleet.seats.items() if seat.link.ready}
        parts, nowhere = split_items(items, numbers)
        rows = {at: row_of(items[at], self._nowhere(str(_name(items[at])))) for at in nowhere}
        self._await(peer, lease, envelope.session)

        def fail(error: BridgeError) -> None:
            self._release(peer, lease, envelope.session)
            self._send(peer, refuse(envelope, error))

        def join(replies: Replies) -> None:
            self._release(peer, lease, envelope.session)
            joined, payloads = join_steps(len(items), replies, rows)
            head = {"op": envelope.op, "id": envelope.id, "ok": True, "items": joined}
            head |= {} if envelope.trace is None else {"trace": envelope.trace}
            self._send(peer, encode(head, payloads, REPLY))

        if not parts:
            join([])
            return
        gathered = Gathered(len(parts), good=join, bad=fail)
        for number, positions in parts.items():
            header = {**message.header, "items": [items[at] for at in positions]}
            link = self.fleet.links[number]
            self.fleet.ask(link, header, message.payloads, key=peer.key, then=gathered.of(positions))

    def _await(self, peer: Peer, lease: Lease, session: str) -> None:
        peer.take(session)
        lease.waiting += 1

    def _release(self, peer: Peer, lease: Lease, session: str) -> None:
        peer.release(session)
        self._leases.release(lease.token, self.turned)

    def _reply(self, peer: Peer, envelope: Envelope, reply: Message | None) -> None:
        if reply is None:
            self._send(peer, refuse(envelope, busy("a session's engine must be ready", 500)))
        else:
            self._send(peer, encode({**reply.header, "id": envelope.id}, reply.payloads, REPLY))

    def _check_open(self) -> None:
        if self._draining:
            rule, remedy = "a server takes no requests at its end", "reconnect later"
            raise BridgeError(rule, None, remedy, code=Code.DRAINING)


def _name(item: Any) -> Any:
    return item.get("session") if isinstance(item, dict) else None
