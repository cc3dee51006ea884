"""Assignment of sessions to slots. It holds no tensors: it plans which states must be moved.

Active sessions, those about to be stepped, keep their slots; the session that has been idle for longest is
evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from worldsim.errors import EngineError


@dataclass(frozen=True, slots=True)
class SlotChange:
    """A session that gets or leaves a slot."""

    session: int
    slot: int
    """The slot that it gets, or that it leaves to be offloaded."""


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """Slot changes of one step: first ``offload``, then ``load``."""

    offload: tuple[SlotChange, ...] = ()
    load: tuple[SlotChange, ...] = ()


class Scheduler:
    """Assigns up to ``sessions`` sessions, known by number, to ``slots`` slots."""

    def __init__(self, slots: int, sessions: int) -> None:
        self.slots, self.sessions = slots, sessions
        self._free = list(range(slots))[::-1]
        self._resident: OrderedDict[int, int] = OrderedDict()  # the one idle for longest first
        self._offloaded: set[int] = set()
        self._next = 0

    @property
    def free(self) -> int:
        """Sessions that can still be admitted."""
        return self.sessions - len(self._resident) - len(self._offloaded)

    @property
    def offloaded(self) -> int:
        """Sessions without a slot."""
        return len(self._offloaded)

    def slot(self, session: int) -> int | None:
        """Slot of a session; None while it is offloaded."""
        return self._resident.get(session)

    def check(self, count: int = 1) -> None:
        """Raises EngineError unless ``count`` more sessions can be admitted."""
        if count > self.free:
            rule = f"sessions must fit the {self.sessions} that the engine has room for"
            used, remedy = self.sessions - self.free, "close one, or open the engine with more slots"
            raise EngineError(rule, f"{count} more, {used} in use", remedy)

    def admit(self) -> int:
        """Number of a new session, which begins offloaded.

        Raises:
            EngineError: the engine is full.
        """
        self.check()
        number, self._next = self._next, self._next + 1
        self._offloaded.add(number)
        return number

    def plan(self, active: Iterable[int]) -> SlotPlan:
        """Assign slots to all of ``active``, at most ``slots`` sessions; returns the changes."""
        wanted = list(active)
        for session in wanted:
            if session in self._resident:
                self._resident.move_to_end(session)
        missing = [session for session in wanted if session not in self._resident]
        offload = tuple(self._evict() for _ in range(len(missing) - len(self._free)))
        load = tuple(SlotChange(session, self._take(session)) for session in missing)
        return SlotPlan(offload, load)

    def revoke(self, plan: SlotPlan) -> None:
        """Undo the changes of the newest plan, which could not be carried out."""
        for move in plan.load:
            self.offload(move.session)
        for move in plan.offload:
            self._offloaded.discard(move.session)
            self._free.remove(move.slot)
            self._resident[move.session] = move.slot

    def offload(self, session: int) -> int:
        """Free a session's slot; returns the slot, whose state must be offloaded."""
        slot = self._resident.pop(session)
        self._offloaded.add(session)
        self._free.append(slot)
        return slot

    def remove(self, session: int) -> None:
        """Forget a session and free its slot."""
        self._offloaded.discard(session)
        slot = self._resident.pop(session, None)
        if slot is not None:
            self._free.append(slot)

    def _evict(self) -> SlotChange:
        session = next(iter(self._resident))
        return SlotChange(session, self.offload(session))

    def _take(self, session: int) -> int:
        self._offloaded.discard(session)
        self._resident[session] = self._free.pop()
        return self._resident[session]
