"""Who sits in which slot. Holds no tensor and moves none: it says what must be moved.

Active sessions, those about to be stepped, are never put out of their slots; the one that has been idle for
longest gives way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from worldsim.errors import EngineError


@dataclass(frozen=True, slots=True)
class Move:
    """A session that changes places."""

    session: int
    slot: int
    """The slot that it gets, or that it leaves to be parked."""


@dataclass(frozen=True, slots=True)
class Plan:
    """First ``park``, then ``seat``."""

    park: tuple[Move, ...] = ()
    seat: tuple[Move, ...] = ()


class Scheduler:
    """Seats up to ``sessions`` sessions, known by number, in ``slots`` slots."""

    def __init__(self, slots: int, sessions: int) -> None:
        self.slots, self.sessions = slots, sessions
        self._free = list(range(slots))[::-1]
        self._seated: OrderedDict[int, int] = OrderedDict()  # the one idle for longest first
        self._parked: set[int] = set()
        self._next = 0

    @property
    def free(self) -> int:
        """Sessions that can still be admitted."""
        return self.sessions - len(self._seated) - len(self._parked)

    @property
    def parked(self) -> int:
        """Sessions without a slot."""
        return len(self._parked)

    def slot(self, session: int) -> int | None:
        """Where a session sits; None while it is parked."""
        return self._seated.get(session)

    def check(self, count: int = 1) -> None:
        """Raises EngineError unless ``count`` more sessions can be admitted."""
        if count > self.free:
            rule = f"sessions must fit the {self.sessions} that the engine has room for"
            used, remedy = self.sessions - self.free, "close one, or open the engine with more slots"
            raise EngineError(rule, f"{count} more, {used} in use", remedy)

    def admit(self) -> int:
        """A number for a new session, which begins parked.

        Raises:
            EngineError: the engine is full.
        """
        self.check()
        number, self._next = self._next, self._next + 1
        self._parked.add(number)
        return number

    def plan(self, active: Iterable[int]) -> Plan:
        """Seat all of ``active``, at most ``slots`` sessions; the moves that this takes have been noted."""
        wanted = list(active)
        for session in wanted:
            if session in self._seated:
                self._seated.move_to_end(session)
        missing = [session for session in wanted if session not in self._seated]
        park = tuple(self._evict() for _ in range(len(missing) - len(self._free)))
        seat = tuple(Move(session, self._take(session)) for session in missing)
        return Plan(park, seat)

    def revoke(self, plan: Plan) -> None:
        """Undo the moves of a plan that could not be made, the newest of all plans."""
        for move in plan.seat:
            self.park(move.session)
        for move in plan.park:
            self._parked.discard(move.session)
            self._free.remove(move.slot)
            self._seated[move.session] = move.slot

    def park(self, session: int) -> int:
        """Take a session's slot from it; returns the slot, whose memory must be parked."""
        slot = self._seated.pop(session)
        self._parked.add(session)
        self._free.append(slot)
        return slot

    def leave(self, session: int) -> None:
        """Forget a session and free its slot."""
        self._parked.discard(session)
        slot = self._seated.pop(session, None)
        if slot is not None:
            self._free.append(slot)

    def _evict(self) -> Move:
        session = next(iter(self._seated))
        return Move(session, self.park(session))

    def _take(self, session: int) -> int:
        self._parked.discard(session)
        self._seated[session] = self._free.pop()
        return self._seated[session]
