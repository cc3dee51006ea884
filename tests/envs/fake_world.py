"""A world whose every figure is known beforehand, behind the engine's interface.

Frames are noise that depends on the seed and on all controls so far; the reward is 1 for each frame with
"forward" down; uncertainty grows by 0.1 a frame; an episode terminates at its frame ``ends_at``.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from worldsim import camera
from worldsim.controls import Control, ControlSpace
from worldsim.engine.step import Step
from worldsim.envs.sources.doom import DOOM_KEYS

ACTIONS = ((), ("forward",), ("turn_left",), ("turn_right",), ("forward", "turn_left"))


def control_space(*, pose: bool = True, yaw: bool = True) -> ControlSpace:
    """The key space of the Doom worlds, small."""
    return ControlSpace(keys=DOOM_KEYS, yaw=yaw, pose=pose, discrete_actions=ACTIONS)


@dataclass
class FakeWorld:
    """Stands for ``worldsim.World``."""

    ends_at: int = 1000
    size: tuple[int, int] = (12, 16)
    has_pose: bool = True
    name: str = "fake"
    unit_frames: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    starts: tuple[None, ...] = (None,) * 8
    engines: list[FakeEngine] = field(default_factory=list)

    @property
    def tells_uncertainty(self) -> bool:
        return self.has_pose

    @property
    def spec(self) -> SimpleNamespace:
        controls = control_space(pose=self.has_pose)
        return SimpleNamespace(size=self.size, fps=17.5, control_space=controls, has_pose=self.has_pose)

    def engine(self, slots: int = 8, denoising_steps: int = 2, rewind_frames: int = 64) -> FakeEngine:
        self.engines.append(FakeEngine(self, slots, denoising_steps))
        return self.engines[-1]


@dataclass
class FakeEngine:
    """Stands for ``worldsim.engine.Engine``."""

    world: FakeWorld
    slots: int
    denoising_steps: int
    open_sessions: list[FakeSession] = field(default_factory=list)

    def open(self, seed: int = 0, start: Any = None, temperature: float = 1.0) -> FakeSession:
        assert len(self.open_sessions) < self.slots, "more sessions than slots"
        self.open_sessions.append(FakeSession(self, seed, start))
        return self.open_sessions[-1]

    def step(self, controls: dict[FakeSession, Control]) -> dict[FakeSession, Step]:
        return {session: session.advance(control) for session, control in controls.items()}


@dataclass(eq=False)
class FakeSession:
    """Stands for ``worldsim.engine.session.Session``; ``start`` keeps what it was opened with."""

    latency = 1

    engine: FakeEngine
    seed: int
    start: Any

    def __post_init__(self) -> None:
        number = self.start if isinstance(self.start, int) else None
        self._hash = zlib.crc32(repr((self.seed, number)).encode())
        frame, pose = self._paint(), np.eye(4) if self.engine.world.has_pose else None
        if hasattr(self.start, "frames"):
            frame = self.start.frames[-1]
        self.last = Step(frame, pose, False, 0.0, False, 0.0, 0)

    @property
    def frame(self) -> np.ndarray:
        return self.last.frame

    def step(self, control: Control) -> Step:
        return self.engine.step({self: control})[self]

    def advance(self, control: Control) -> Step:
        keys = self.engine.world.spec.control_space.vector(control)
        self._hash = zlib.crc32(keys.tobytes(), self._hash)
        index = self.last.index + 1
        given = control.pose is not None
        pose = control.pose if given else self.last.pose
        if pose is not None and not given:
            pose = pose @ camera.exp(np.array([0, 0, float(keys[0]), 0, float(keys[-1]), 0]))
        ended = index >= self.engine.world.ends_at
        self.last = Step(self._paint(), pose, given, float(keys[0]), ended, 0.1 * index, index)
        return self.last

    def close(self) -> None:
        self.engine.open_sessions.remove(self)

    def _paint(self) -> np.ndarray:
        shape = (*self.engine.world.size, 3)
        return np.random.default_rng(self._hash).integers(0, 256, shape, dtype=np.uint8)
