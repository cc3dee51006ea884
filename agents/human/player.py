"""State of the window without the window: sessions, who steers, pause, saves, branches.

No pygame in here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worldsim.agents.agent import AGENTS, Agent, make_agent
from worldsim.agents.human.branch import Branch
from worldsim.agents.human.commands import SLOTS
from worldsim.agents.human.reference_run import ReferenceRun
from worldsim.agents.human.save import Save
from worldsim.agents.human.stats import Stats
from worldsim.controls import Control
from worldsim.errors import WorldsimError

if TYPE_CHECKING:
    from worldsim.context import Context
    from worldsim.engine.engine import Engine
    from worldsim.engine.world import World

DRIVERS = ("human", *AGENTS)
POLICY_DRIVER = "dream"
"""A policy that learnt in the dream; only where there is one."""
STEERED_BY = {"human": "you", "scripted": "explorer", "random": "chance", POLICY_DRIVER: "dream's policy"}
MAX_BRANCHES = 2
TEMPERATURE_STEP = 0.1
STEP_SHARE = 0.8
"""Share of a frame's time that its step may take; the rest draws it."""
HOTTEST = 10.0
"""Highest temperature that an engine takes."""


@dataclass(frozen=True)
class Notice:
    """Something to tell the person. ``kind`` is "info", "good" or "bad"."""

    text: str
    kind: str = "info"


class WorldPlayer:
    """One or two futures of a world, steered by a person or an agent.

    ``tick`` moves time, ``do`` obeys a command by its name, ``notices`` collects what should be said. A
    command that cannot be obeyed says why in a notice; it never raises a WorldsimError.

    ``open_reference`` opens the real source when a comparison is first wanted; ``make_policy`` makes an agent
    of a policy that learnt in this world, where there is one.
    """

    def __init__(
        self,
        world: World,
        engine: Engine,
        *,
        start: int = 0,
        seed: int = 0,
        temperature: float = 1.0,
        driver: str = "human",
        open_reference: Callable[[], ReferenceRun] | None = None,
        make_policy: Callable[[], Agent] | None = None,
        stats: Stats | None = None,
    ) -> None:
        self.world = world
        self.engine = engine
        self.seed = seed
        self.temperature = temperature
        """Factor of the sampled noise of all futures."""
        self.driver = driver
        self.stats = stats or Stats()
        self.notices: deque[Notice] = deque(maxlen=32)
        self.paused = False
        self.held = Control()
        self.frame_seconds: float | None = None
        """Time between two frames; None: as fast as it goes."""
        self.drawn_steps = engine.denoising_steps
        """Denoising steps of the newest frame: fewer than the engine's where it had to be coarse."""
        self.focus = 0
        self.slot = 0
        self.saves: list[Save | None] = [None] * SLOTS
        self.reference: ReferenceRun | None = None
        self.closed = False
        self._open_reference, self._make_policy = open_reference, make_policy
        self._rng = np.random.default_rng(seed)
        self.branches: list[Branch] = []
        self._begin(start % max(len(world.starts), 1))

    @property
    def branch(self) -> Branch:
        """The future that is steered."""
        return self.branches[self.focus]

    @property
    def context(self) -> Context:
        """The start of the future that is steered."""
        return self.world.starts[self.branch.start]

    @property
    def lacking(self) -> frozenset[str]:
        """Commands that mean nothing in this world."""
        missing = set()
        if not self.world.spec.control_space.yaw:
            missing.add("mouse")
        if self._open_reference is None:
            missing.add("compare")
        if len(self.world.starts) < 2:
            missing |= {"next_start", "previous_start"}
        if len(self.world.units) < 2:
            missing.add("next_unit")
        return frozenset(missing)

    @property
    def waiting(self) -> bool:
        """True while the dream waits for the reference run to catch up."""
        return self.reference is not None and (self.reference.stale or self.reference.behind > 0)

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
        reach = min(frames, self.branch.session.max_rewind)
        if reach < 1:
            self._say("No further back: this is all that the engine remembers")
            return False
        for branch in self.branches:
            branch.back(min(reach, branch.session.max_rewind))
            branch.session.temperature = self.temperature  # the moment had its own
        if self.reference is not None:
            self.reference.rewind(reach)
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
            self._close_branches()
            self._close_reference()

    # -- time

    @property
    def _budget(self) -> float | None:
        """Seconds of a step, where a frame may rather be coarse than late."""
        if self.frame_seconds is None or not self.world.draws_coarse_frames:
            return None
        return STEP_SHARE * self.frame_seconds

    def _advance(self, human: Control) -> bool:
        controls = {branch.session: self._control(branch, human) for branch in self.branches}
        self.held = controls[self.branch.session]
        try:
            with self.stats.step():
                steps = self.engine.step(controls, budget=self._budget)
        except WorldsimError as error:
            self.paused = True
            self._say(str(error), "bad")
            return False
        for branch in self.branches:
            branch.arrived(controls[branch.session], steps[branch.session])
        self.drawn_steps = steps[self.branch.session].denoising_steps
        if self.reference is not None:
            self.reference.advance(self.held)
        if self.branch.ended:
            self._ended()
        return True

    def _control(self, branch: Branch, human: Control) -> Control:
        if branch is self.branch and self.driver == "human":
            return human
        return branch.agent(branch.session, self.world.spec.control_space, self._rng)

    def _ended(self) -> None:
        if self.driver == "human":
            self.paused = True
            self._say("The dream says the episode ends here. Pause walks on, Next start begins elsewhere.")
        else:
            self._do_next_start()

    def _catch_up(self) -> None:
        assert self.reference is not None, "only a reference run can be behind"
        try:
            if self.reference.stale:
                self.reference.replay(self.context, self.branch.trajectory.controls)
            self.reference.catch_up()
        except WorldsimError as error:
            self._close_reference()
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
        branch = self.branch
        save = Save(branch.session.snapshot(), branch.start, branch.trajectory.copy(), branch.ended)
        self.saves[self.slot] = save
        self._say(f"Saved frame {save.index} in slot {self.slot + 1}", "good")

    def _do_restore(self) -> None:
        save = self.saves[self.slot]
        if save is None:
            self._say(f"Slot {self.slot + 1} is empty: save a moment first", "bad")
            return
        session = self.engine.restore(save.blob)
        self.branch.session.close()
        self.branches[self.focus] = Branch(
            session, self._new_agent(), save.start, save.trajectory.copy(), save.ended
        )
        self.temperature = session.temperature
        self._jumped()
        self._say(f"Back at frame {save.index} of slot {self.slot + 1}", "good")

    # -- futures

    def _do_fork(self) -> None:
        if len(self.branches) >= MAX_BRANCHES:
            kept = self.branch
            for branch in self.branches:
                if branch is not kept:
                    branch.session.close()
            self.branches, self.focus = [kept], 0
            self._say("One future again")
            return
        branch = self.branch
        (session,) = branch.session.fork(1)
        self.branches.append(
            Branch(session, make_agent("scripted"), branch.start, branch.trajectory.copy(), branch.ended)
        )
        self._say("Two futures: an explorer walks the right one", "good")

    def _do_focus(self) -> None:
        if len(self.branches) < 2:
            self._say("There is one future only; fork it first")
            return
        self.focus = (self.focus + 1) % len(self.branches)
        self._jumped()

    # -- places and seeds

    def _begin(self, start: int) -> None:
        place = start if self.world.starts else None
        session = self.engine.open(self.seed, place, self.temperature)
        self._close_branches()
        self.branches, self.focus = [Branch.begin(session, self._new_agent(), start)], 0
        self._jumped()

    def _do_next_start(self) -> None:
        self._go_to(self.branch.start + 1)

    def _do_previous_start(self) -> None:
        self._go_to(self.branch.start - 1)

    def _go_to(self, start: int) -> None:
        start %= max(len(self.world.starts), 1)
        self._begin(start)
        self._say(f"Start {start + 1} of {len(self.world.starts)}")

    def _do_restart(self) -> None:
        self._begin(self.branch.start)
        self._say("From the start again")

    def _do_reseed(self) -> None:
        self.seed += 1
        self._begin(self.branch.start)
        self._say(f"Seed {self.seed}: the same start, dreamt anew")

    # -- how it is dreamt, and who steers

    def _do_more_steps(self) -> None:
        self._set_steps(+1)

    def _do_fewer_steps(self) -> None:
        self._set_steps(-1)

    def _set_steps(self, by: int) -> None:
        allowed = self.world.allowed_denoising_steps
        at = min(range(len(allowed)), key=lambda i: abs(allowed[i] - self.engine.denoising_steps))
        self.engine.denoising_steps = allowed[min(max(at + by, 0), len(allowed) - 1)]
        self._say(f"K = {self.engine.denoising_steps} denoising steps a frame")

    def _do_hotter(self) -> None:
        self._set_temperature(self.temperature + TEMPERATURE_STEP)

    def _do_cooler(self) -> None:
        self._set_temperature(self.temperature - TEMPERATURE_STEP)

    def _set_temperature(self, value: float) -> None:
        self.temperature = round(min(max(value, 0.0), HOTTEST), 2)
        for branch in self.branches:
            branch.session.temperature = self.temperature
        self._say(f"Temperature {self.temperature:g}")

    def _do_next_unit(self) -> None:
        """Go on under the next unit that the world was trained for; what was before cannot be rewound."""
        if len(self.world.units) < 2:
            self._say("This world was trained for one unit only")
            return
        before, self.world = self.engine, self.world.for_unit(self.world.units[1])
        self.engine = self.world.engine(
            slots=before.slots,
            context=before.context,
            denoising_steps=before.denoising_steps,
            rewind_frames=before.rewind_frames,
        )
        for branch in self.branches:
            session = self.engine.restore(branch.session.snapshot())
            branch.session.close()
            branch.session = session
        self.stats.pause()
        self._say(f"Unit {self.world.unit}: latency {self.world.unit_frames}")

    def _do_driver(self) -> None:
        drivers = DRIVERS if self._make_policy is None else (*DRIVERS, POLICY_DRIVER)
        self.driver = drivers[(drivers.index(self.driver) + 1) % len(drivers)]
        self.branch.agent = self._new_agent()
        self._say("You steer" if self.driver == "human" else f"{STEERED_BY[self.driver]} steers".capitalize())

    def _do_compare(self) -> None:
        if self.reference is not None:
            self._close_reference()
            return
        if self._open_reference is None:
            self._say("This world has no real engine to compare with", "bad")
            return
        self.reference = self._open_reference()
        self._catch_up()

    # -- helpers

    def _new_agent(self) -> Agent:
        if self.driver == POLICY_DRIVER and self._make_policy is not None:
            return self._make_policy()
        return make_agent("scripted" if self.driver == "human" else self.driver)

    def _jumped(self) -> None:
        """The steered future is no longer what it was a frame ago."""
        self.held = Control()
        self.stats.pause()
        if self.reference is not None:
            self.reference.stale = True

    def _close_branches(self) -> None:
        for branch in self.branches:
            branch.session.close()
        self.branches = []

    def _close_reference(self) -> None:
        if self.reference is not None:
            self.reference.close()
            self.reference = None

    def _say(self, text: str, kind: str = "info") -> None:
        self.notices.append(Notice(text, kind))
