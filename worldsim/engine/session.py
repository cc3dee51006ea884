"""One imagined world."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from threading import RLock
from typing import ClassVar, Protocol

import numpy as np

from worldsim.controls import ControlLike
from worldsim.engine.in_process import InProcess
from worldsim.engine.loaded_world import LoadedWorld
from worldsim.engine.scheduler import Scheduler
from worldsim.engine.step import Step
from worldsim.engine.undo import Undo
from worldsim.errors import EngineError


class SessionHost(Protocol):
    """The engine, as its sessions know it."""

    world: LoadedWorld
    scheduler: Scheduler
    lock: RLock
    """Held while a call of the engine or of a session runs."""
    rewind_frames: int
    """Frames that are kept for rewinding."""

    def step(
        self,
        controls: Mapping[Session, ControlLike],
        *,
        budget: float | None = None,
        passes: Mapping[Session, int] | None = None,
    ) -> dict[Session, Step]:
        """Imagine one frame of every session named."""

    def step_chunk(self, chunks: Mapping[Session, Sequence[ControlLike]]) -> dict[Session, list[Step]]:
        """Imagine a frame for each control."""

    def observe(
        self, session: Session, frame: np.ndarray, pose: np.ndarray | None, control: ControlLike
    ) -> Step:
        """Take a real frame as a session's next one."""

    def fork(self, session: Session, count: int, seeds: Sequence[int] | None = None) -> list[Session]:
        """Copies of a session."""

    def undo(self, session: Session, undone: Sequence[Undo]) -> Step:
        """Take a session's newest frames back."""

    def snapshot(self, session: Session) -> bytes:
        """All that a session's future depends on."""

    def temperature(self, session: Session) -> float:
        """The session's temperature."""

    def set_temperature(self, session: Session, value: float) -> None:
        """Set it."""

    def close(self, session: Session) -> None:
        """Free a session's room."""


class Session(InProcess):
    """One imagined world: a handle on its state in an engine.

    Made by ``Engine.open``, ``Session.fork`` and ``Engine.restore``. ``step`` imagines the next frame; to
    step several sessions in one batch call ``Engine.step``.

    Attributes:
        engine: the engine that holds its state.
        number: its number in the engine, unique there.
        seed: seed of its noise.
        start: index into the world's starts; None where the session began from given frames.
        last: the newest ``Step``; right after ``Engine.open`` that of the last given frame.
        closed: True after ``close``.
    """

    copying_remedy: ClassVar[str] = "send Session.snapshot(), or copy it by fork()"

    def __init__(
        self,
        engine: SessionHost,
        number: int,
        *,
        seed: int,
        start: int | None,
        step: Step,
        undo_log: Iterable[Undo] = (),
    ) -> None:
        self.engine, self.number, self.seed = engine, number, seed
        self.start = start
        self.last = step
        self.closed = False
        self._undo_log: deque[Undo] = deque(undo_log, maxlen=engine.rewind_frames)

    @property
    def slot(self) -> int | None:
        """Row in the engine's batch; None while the session is offloaded or closed."""
        return self.engine.scheduler.slot(self.number)

    @property
    def frame(self) -> np.ndarray:
        """The newest frame, uint8 [H, W, 3]."""
        return self.last.frame

    @property
    def pose(self) -> np.ndarray | None:
        """The newest pose, camera-to-world, float64 [4, 4], or None."""
        return self.last.pose

    @property
    def index(self) -> int:
        """Number of the newest frame; 0 is the first of the given ones."""
        return self.last.index

    @property
    def latency(self) -> int:
        """Frames that are imagined together, under controls known ahead; see ``UnitCost.latency``."""
        return self.engine.world.unit_frames

    @property
    def max_rewind(self) -> int:
        """Number of frames that ``rewind`` can take back now."""
        return len(self._undo_log)

    @property
    def temperature(self) -> float:
        """Factor of the sampled noise of the next frames, in [0, 10]: 1 as trained, 0 is deterministic.

        May be set at any time. A fork or a snapshot takes the value of its moment along; ``rewind`` brings
        back the value of then.

        Raises:
            EngineError: a closed session, or set to a value out of range.
        """
        return self.engine.temperature(self)

    @temperature.setter
    def temperature(self, value: float) -> None:
        self.engine.set_temperature(self, value)

    def step(
        self,
        control: ControlLike = None,
        *,
        budget: float | None = None,
        denoising_steps: int | None = None,
    ) -> Step:
        """Imagine one frame under ``control``: ``Control({"forward"})``, ``"forward"``, a number, a pose, ...

        ``ControlSpace.control`` lists all forms; None holds no key.

        Args:
            control: control of the new frame.
            budget: seconds that it may take: K drops as far as that needs, and ``Step.denoising_steps`` tells
                it. In a world of scales the finer ones then keep the bits of the frame before.
            denoising_steps: K of this frame; the engine's by default. With the K that a step told, and the
                same controls, the same frames come again.

        Raises:
            ConfigError: a K that the world does not take. Others: as of ``Engine.step``.
        """
        passes = None if denoising_steps is None else {self: denoising_steps}
        return self.engine.step({self: control}, budget=budget, passes=passes)[self]

    def step_chunk(self, controls: Sequence[ControlLike]) -> list[Step]:
        """Imagine a frame for each of ``controls``, which the model knows in advance.

        Use it for planning in a world whose units have several frames (``World.unit_frames``): each frame is
        imagined under its own control. ``step`` holds its control for a whole unit, and begins a new unit
        when the control changes. Errors are those of ``Engine.step``; frames before one stay.
        """
        return self.engine.step_chunk({self: controls})[self]

    def fork(self, count: int = 1, seeds: Sequence[int] | None = None) -> list[Session]:
        """Make ``count`` copies of the session.

        Under the same controls they imagine the same future; ``seeds`` gives each copy a noise of its own
        from here on.

        Raises:
            EngineError: no room for as many, or another number of seeds.
        """
        return self.engine.fork(self, count, seeds)

    def observe(self, frame: np.ndarray, pose: np.ndarray | None = None, control: ControlLike = None) -> Step:
        """Take a real frame as the next one, so that the session continues from the true state.

        The frame counts as one more step, which ``rewind`` takes back. It resets the uncertainty of the
        camera's pose.

        Args:
            frame: uint8 [H, W, 3].
            pose: its camera-to-world [4, 4]; needed where the world was learnt with poses.
            control: control that led to the frame, no key by default; its own pose is ignored.

        Raises:
            EngineError: a frame of another size or type, no pose where one is needed, or a closed session.
            ControlError, CameraError: as of ``Engine.step``.
        """
        return self.engine.observe(self, frame, pose, control)

    def rewind(self, frames: int = 1) -> Step:
        """Take back ``frames`` frames. The same controls and denoising steps then give the same frames again.

        Raises:
            EngineError: more frames than are kept, or a closed session.
        """
        with self.engine.lock:
            if not 1 <= frames <= len(self._undo_log):
                rule = f"a rewind must be within the {len(self._undo_log)} frames kept"
                raise EngineError(rule, frames, "open the engine with more rewind_frames")
            undone = [self._undo_log[-i] for i in range(1, frames + 1)]
            self.last = self.engine.undo(self, undone)
            for _ in undone:
                self._undo_log.pop()
            return self.last

    def snapshot(self) -> bytes:
        """Serialise the session; ``Engine.restore`` continues it bit for bit."""
        return self.engine.snapshot(self)

    def close(self) -> None:
        """Close the session and free its slot; closing twice is fine."""
        self.engine.close(self)

    def advance(self, step: Step, undo: Undo | None) -> None:
        """Take ``step`` as the newest one, and keep its undo record if given."""
        if undo is not None:
            self._undo_log.append(undo)
        self.last = step

    @property
    def undo_log(self) -> tuple[Undo, ...]:
        """Undo records of the newest frames, oldest first."""
        return tuple(self._undo_log)
