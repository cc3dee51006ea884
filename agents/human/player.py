"""What happens in the window, without the window: the sessions, who steers, pause, saves, futures.

No pygame in here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worldsim.agents.agent import AGENTS, Agent, make_agent
from worldsim.agents.human.commands import SLOTS
from worldsim.agents.human.compare import Twin
from worldsim.agents.human.lane import History, Lane
from worldsim.agents.human.stats import Stats
from worldsim.controls import Control
from worldsim.errors import WorldsimError

if TYPE_CHECKING:
    from worldsim.checkpoint import Context
    from worldsim.engine.engine import Engine
    from worldsim.engine.world import World

DRIVERS = ("human", *AGENTS)
STEPS = (1, 2, 4)
MOST_LANES = 2


@dataclass(frozen=True)
class Notice:
    """Something to tell the person. ``kind`` is "info", "good" or "bad"."""

    text: str
    kind: str = "info"


@dataclass(frozen=True)
class Save:
    """A moment to come back to."""

    blob: bytes
    start: int
    history: History
    ended: bool

    @property
    def index(self) -> int:
        """How many frames after its start."""
        return len(self.history.controls)


class Player:
    """One or two futures of a world, steered by a person or an agent.

    ``tick`` moves time, ``do`` obeys a command by its name, ``notices`` collects what should be said. A
    command that cannot be obeyed says why in a notice; it never raises a WorldsimError.

    ``open_twin`` opens the real source when a comparison is first wanted.
    """

    def __init__(
        self,
        world: World,
        engine: Engine,
        *,
        start: int = 0,
        seed: int = 0,
        driver: str = "human",
        open_twin: Callable[[], Twin] | None = None,
        stats: Stats | None = None,
    ) -> None:
        self.world = world
        self.engine = engine
        self.seed = seed
        self.driver = driver
        self.stats = stats or Stats()
        self.notices: deque[Notice] = deque(maxlen=32)
        self.paused = False
        self.held = Control()
        self.focus = 0
        self.slot = 0
        self.saves: list[Save | None] = [None] * SLOTS
        self.twin: Twin | None = None
        self.closed = False
        self._open_twin = open_twin
        self._rng = np.random.default_rng(seed)
        self.lanes: list[Lane] = []
        self._begin(start % max(len(world.starts), 1))

    @property
    def lane(self) -> Lane:
        """The future that is steered."""
        return self.lanes[self.focus]

    @property
    def context(self) -> Context:
        """The start of the future that is steered."""
        return self.world.starts[self.lane.start]

    @property
    def lacking(self) -> frozenset[str]:
        """Commands that mean nothing in this world."""
        missing = set()
        if not self.world.spec.control_space.look:
            missing.add("mouse")
        if self._open_twin is None:
            missing.add("compare")
        if len(self.world.starts) < 2:
            missing |= {"next_start", "previous_start"}
        return frozenset(missing)

    @property
    def waiting(self) -> bool:
        """Whether the dream waits until the real engine has caught up."""
        return self.twin is not None and (self.twin.stale or self.twin.behind > 0)

    def tick(self, human: Control) -> bool:
        """One frame of time, with what the person holds.

        False if nothing moved: paused, or the real engine catches up.
        """
        if self.waiting:
            self._catch_up()
            return False
        if self.paused:
            return False
        return self._advance(human)

    def rewind(self, frames: int = 1) -> bool:
        """Go back in every future, as far as it remembers. False where the steered one has no more past."""
        reach = min(frames, self.lane.session.rewindable)
        if reach < 1:
            self._say("No further back: this is all that the engine remembers")
            return False
        for lane in self.lanes:
            lane.back(min(reach, lane.session.rewindable))
        if self.twin is not None:
            self.twin.rewind(reach)
        self.stats.pause()
        return True

    def do(self, command: str, human: Control | None = None) -> None:
        """Obey a command of the groups Time and World. ``human`` is what is held, for a single step."""
        try:
            if command.startswith("slot_"):
                self._choose_slot(int(command.removeprefix("slot_")) - 1)
            elif command == "step":
                self._single_step(human or Control())
            else:
                getattr(self, f"_do_{command}")()
        except WorldsimError as error:
            self._say(str(error), "bad")

    def close(self) -> None:
        """Close every session and the real engine."""
        if not self.closed:
            self.closed = True
            self._close_lanes()
            self._close_twin()

    # -- time

    def _advance(self, human: Control) -> bool:
        controls = {lane.session: self._control(lane, human) for lane in self.lanes}
        self.held = controls[self.lane.session]
        try:
            with self.stats.step():
                steps = self.engine.step(controls)
        except WorldsimError as error:
            self.paused = True
            self._say(str(error), "bad")
            return False
        for lane in self.lanes:
            lane.arrived(controls[lane.session], steps[lane.session])
        if self.twin is not None:
            self.twin.advance(self.held)
        if self.lane.ended:
            self._ended()
        return True

    def _control(self, lane: Lane, human: Control) -> Control:
        if lane is self.lane and self.driver == "human":
            return human
        return lane.agent(lane.session, self.world.spec.control_space, self._rng)

    def _ended(self) -> None:
        if self.driver == "human":
            self.paused = True
            self._say("The dream says the episode ends here. Pause walks on, Next start begins elsewhere.")
        else:
            self._do_next_start()

    def _catch_up(self) -> None:
        assert self.twin is not None, "only a twin can be behind"
        try:
            if self.twin.stale:
                self.twin.replay(self.context, self.lane.history.controls)
            self.twin.catch_up()
        except WorldsimError as error:
            self._close_twin()
            self._say(f"Comparison stopped. {error}", "bad")

    def _single_step(self, human: Control) -> None:
        self.paused = True
        self.stats.pause()
        if self.waiting:
            self._catch_up()
        else:
            self._advance(human)

    def _do_pause(self) -> None:
        self.paused = not self.paused
        self.stats.pause()

    # -- saved moments

    def _choose_slot(self, slot: int) -> None:
        self.slot = slot
        save = self.saves[slot]
        self._say(f"Slot {slot + 1}: " + (f"frame {save.index}" if save else "empty"))

    def _do_save(self) -> None:
        lane = self.lane
        save = Save(lane.session.snapshot(), lane.start, lane.history.copy(), lane.ended)
        self.saves[self.slot] = save
        self._say(f"Saved frame {save.index} in slot {self.slot + 1}", "good")

    def _do_restore(self) -> None:
        save = self.saves[self.slot]
        if save is None:
            self._say(f"Slot {self.slot + 1} is empty: save a moment first", "bad")
            return
        session = self.engine.restore(save.blob)
        self.lane.session.close()
        self.lanes[self.focus] = Lane(session, self._new_agent(), save.start, save.history.copy(), save.ended)
        self._jumped()
        self._say(f"Back at frame {save.index} of slot {self.slot + 1}", "good")

    # -- futures

    def _do_fork(self) -> None:
        if len(self.lanes) >= MOST_LANES:
            kept = self.lane
            for lane in self.lanes:
                if lane is not kept:
                    lane.session.close()
            self.lanes, self.focus = [kept], 0
            self._say("One future again")
            return
        lane = self.lane
        (session,) = lane.session.fork(1)
        self.lanes.append(Lane(session, make_agent("scripted"), lane.start, lane.history.copy(), lane.ended))
        self._say("Two futures: an explorer walks the right one", "good")

    def _do_focus(self) -> None:
        if len(self.lanes) < 2:
            self._say("There is one future only; fork it first")
            return
        self.focus = (self.focus + 1) % len(self.lanes)
        self._jumped()

    # -- places and seeds

    def _begin(self, start: int) -> None:
        session = self.engine.open(seed=self.seed, start=start if self.world.starts else None)
        self._close_lanes()
        self.lanes, self.focus = [Lane.begin(session, self._new_agent(), start)], 0
        self._jumped()

    def _do_next_start(self) -> None:
        self._go_to(self.lane.start + 1)

    def _do_previous_start(self) -> None:
        self._go_to(self.lane.start - 1)

    def _go_to(self, start: int) -> None:
        start %= max(len(self.world.starts), 1)
        self._begin(start)
        self._say(f"Start {start + 1} of {len(self.world.starts)}")

    def _do_restart(self) -> None:
        self._begin(self.lane.start)
        self._say("From the start again")

    def _do_reseed(self) -> None:
        self.seed += 1
        self._begin(self.lane.start)
        self._say(f"Seed {self.seed}: the same start, dreamt anew")

    # -- how it is dreamt, and who steers

    def _do_more_steps(self) -> None:
        self._set_steps(+1)

    def _do_fewer_steps(self) -> None:
        self._set_steps(-1)

    def _set_steps(self, by: int) -> None:
        at = min(range(len(STEPS)), key=lambda i: abs(STEPS[i] - self.engine.steps))
        self.engine.steps = STEPS[min(max(at + by, 0), len(STEPS) - 1)]
        self._say(f"K = {self.engine.steps} denoising steps a frame")

    def _do_driver(self) -> None:
        self.driver = DRIVERS[(DRIVERS.index(self.driver) + 1) % len(DRIVERS)]
        self.lane.agent = self._new_agent()
        self._say(
            {"human": "You steer", "scripted": "An explorer steers", "random": "Chance steers"}[self.driver]
        )

    def _do_compare(self) -> None:
        if self.twin is not None:
            self._close_twin()
            return
        if self._open_twin is None:
            self._say("This world has no real engine to compare with", "bad")
            return
        self.twin = self._open_twin()
        self._catch_up()

    # -- helpers

    def _new_agent(self) -> Agent:
        return make_agent("scripted" if self.driver == "human" else self.driver)

    def _jumped(self) -> None:
        """The steered future is no longer what it was a frame ago."""
        self.held = Control()
        self.stats.pause()
        if self.twin is not None:
            self.twin.stale = True

    def _close_lanes(self) -> None:
        for lane in self.lanes:
            lane.session.close()
        self.lanes = []

    def _close_twin(self) -> None:
        if self.twin is not None:
            self.twin.close()
            self.twin = None

    def _say(self, text: str, kind: str = "info") -> None:
        self.notices.append(Notice(text, kind))
