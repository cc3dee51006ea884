"""A small engine without a model: a textured maze drawn by ray casting.

It keeps the real engine's contract, is exact and quick.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from types import SimpleNamespace

import numpy as np

from worldsim import camera
from worldsim.controls import Control, ControlSpace
from worldsim.data.spec import SourceSpec
from worldsim.envs.sources.doom import DOOM_KEYS
from worldsim.errors import EngineError

MAZE = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1],
        [1, 0, 0, 0, 2, 0, 3, 3, 3, 3, 0, 1],
        [1, 0, 0, 0, 0, 0, 3, 0, 0, 3, 0, 1],
        [1, 2, 2, 0, 2, 2, 3, 0, 0, 3, 0, 1],
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1],
        [1, 0, 3, 3, 3, 0, 2, 2, 0, 3, 0, 1],
        [1, 0, 3, 0, 0, 0, 2, 0, 0, 0, 0, 1],
        [1, 0, 0, 0, 3, 0, 2, 0, 0, 2, 0, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
)
CELL = 2.0
TINTS = np.array([[0, 0, 0], [150, 110, 80], [110, 125, 110], [140, 80, 70]], dtype=np.float64)


def space(yaw: bool = True) -> ControlSpace:
    """The keys of Doom."""
    return ControlSpace(
        keys=DOOM_KEYS, yaw=yaw, pose=True, discrete_actions=((), *((key,) for key in DOOM_KEYS))
    )


def _wall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    i = np.clip((y / CELL).astype(int), 0, MAZE.shape[0] - 1)
    j = np.clip((x / CELL).astype(int), 0, MAZE.shape[1] - 1)
    return MAZE[i, j]


def render(x: float, y: float, yaw: float, size: tuple[int, int], tint: float = 1.0) -> np.ndarray:
    """uint8 [H, W, 3]: the maze seen from a place."""
    h, w = size
    slope = np.linspace(-1, 1, w) * 0.9
    angle = yaw - np.arctan(slope)
    reach = np.arange(0.05, 24, 0.05)[:, None]
    px, py = x + reach * np.cos(angle), y + reach * np.sin(angle)
    hit = _wall(px, py)
    first = np.argmax(hit > 0, axis=0)
    at = (first, np.arange(w))
    depth = reach[first, 0] * np.cos(angle - yaw)
    u = ((px[at] + py[at]) * 8 / CELL).astype(int)
    rows = (np.arange(h)[:, None] + 0.5 - h / 2) / (0.55 * w) * depth[None] + 0.5
    bricks = 0.75 + 0.25 * (((rows * 8).astype(int) + u[None]) % 2)
    shade = np.clip(2.2 / (depth + 1.0), 0.08, 1.0)
    wall = TINTS[hit[at]][None] * (bricks * shade[None])[..., None]
    far = np.clip(np.abs(np.arange(h) + 0.5 - h / 2) / (h / 2), 0, 1)[:, None, None]
    ground = np.where(np.arange(h)[:, None, None] < h / 2, [60.0, 64, 74], [96.0, 84, 62]) * far
    inside = ((rows >= 0) & (rows <= 1))[..., None]
    return np.clip(np.where(inside, wall, ground) * tint, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class State:
    """Everything that a fake session's future depends on."""

    x: float
    y: float
    yaw: float
    index: int = 0
    seed: int = 0


def move(state: State, control: Control) -> State:
    """One frame of walking; walls stop."""
    keys = control.keys
    turn = 0.12 * (("turn_left" in keys) - ("turn_right" in keys)) - control.yaw
    yaw = state.yaw + turn
    ahead, left = (
        ("forward" in keys) - ("backward" in keys),
        ("strafe_left" in keys) - ("strafe_right" in keys),
    )
    dx = 0.25 * (ahead * np.cos(yaw) - left * np.sin(yaw))
    dy = 0.25 * (ahead * np.sin(yaw) + left * np.cos(yaw))
    x = state.x + dx if not _wall(np.array(state.x + 2 * dx), np.array(state.y)) else state.x
    y = state.y + dy if not _wall(np.array(x), np.array(state.y + 2 * dy)) else state.y
    return replace(state, x=float(x), y=float(y), yaw=float(yaw), index=state.index + 1)


@dataclass(frozen=True)
class FakeStep:
    """As the engine's Step."""

    frame: np.ndarray
    pose: np.ndarray | None
    pose_given: bool
    reward: float
    terminated: bool
    uncertainty: float
    index: int
    denoising_steps: int = 2


@dataclass(eq=False)
class FakeSession:
    """As the engine's Session."""

    engine: FakeEngine
    states: list[State]
    start: int
    open: bool = True
    temperature: float = 1.0

    @property
    def state(self) -> State:
        return self.states[-1]

    @property
    def frame(self) -> np.ndarray:
        s = self.state
        return render(s.x, s.y, s.yaw, self.engine.world.spec.size, 1.0 - 0.1 * (s.seed % 3))

    @property
    def pose(self) -> np.ndarray:
        return camera.from_planar(self.state.x, self.state.y, 1.0, self.state.yaw)

    @property
    def index(self) -> int:
        return self.state.index

    @property
    def seed(self) -> int:
        return self.state.seed

    @property
    def max_rewind(self) -> int:
        return len(self.states) - 1

    def step(self, control: Control) -> FakeStep:
        return self.engine.step({self: control})[self]

    def fork(self, n: int) -> list[FakeSession]:
        return [self.engine.add(list(self.states), self.start, self.temperature) for _ in range(n)]

    def rewind(self, frames: int) -> None:
        if frames >= len(self.states):
            raise EngineError("a session goes back no further than its trajectory", frames, "rewind less")
        del self.states[-frames:]

    def snapshot(self) -> bytes:
        return json.dumps([[asdict(state) for state in self.states], self.start]).encode()

    def close(self) -> None:
        self.open = False
        self.engine.sessions.discard(self)


@dataclass
class FakeEngine:
    """As the engine."""

    world: SimpleNamespace
    denoising_steps: int = 2
    slots: int = 4
    rewind_frames: int = 48
    ends_at: int = 10**9
    sessions: set[FakeSession] = field(default_factory=set)

    def add(self, states: list[State], start: int, temperature: float = 1.0) -> FakeSession:
        if len(self.sessions) >= self.slots:
            raise EngineError("every session needs a slot", len(self.sessions), "close one")
        session = FakeSession(self, states, start, temperature=temperature)
        self.sessions.add(session)
        return session

    def open(self, seed: int = 0, start: int | None = None, temperature: float = 1.0) -> FakeSession:
        number = seed % len(STARTS) if start is None else start
        return self.add([replace(STARTS[number], seed=seed)], number, temperature)

    def restore(self, blob: bytes) -> FakeSession:
        states, start = json.loads(blob)
        return self.add([State(**state) for state in states], start)

    def step(
        self, controls: dict[FakeSession, Control], budget: float | None = None
    ) -> dict[FakeSession, FakeStep]:
        """A budget leaves a single pass."""
        steps = {}
        passes = self.denoising_steps if budget is None else 1
        for session, control in controls.items():
            assert session.open, "a closed session was stepped"
            self.world.spec.control_space.validate(control)
            session.states.append(move(session.state, control))
            del session.states[: -self.rewind_frames]
            ended = session.index >= self.ends_at
            uncertainty = min(session.index / 400, 1.0)
            steps[session] = FakeStep(
                session.frame, session.pose, False, 0.0, ended, uncertainty, session.index, passes
            )
        return steps


STARTS = (State(3.0, 3.0, 0.0), State(13.0, 3.0, 0.0), State(3.0, 15.0, 1.0))


class FakeSource:
    """The maze itself, as a real source."""

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec
        self.closed = False

    def reset(self, seed: int) -> SimpleNamespace:
        self.state = STARTS[seed]
        return self._seen()

    def step(self, control: Control) -> SimpleNamespace:
        self.state = move(self.state, control)
        return self._seen()

    def close(self) -> None:
        self.closed = True

    def _seen(self) -> SimpleNamespace:
        s = self.state
        frame = render(s.x, s.y, s.yaw, self.spec.size)
        pose = camera.from_planar(s.x, s.y, 1.0, s.yaw)
        return SimpleNamespace(
            frame=frame, pose=pose, reward=0.0, terminated=False, truncated=False, depth=None
        )


def fake_world(size: tuple[int, int] = (120, 160), yaw: bool = True) -> SimpleNamespace:
    """As a World; ``engine()`` gives a FakeEngine."""
    spec = SourceSpec(
        name="doom-maze",
        size=size,
        fps=17.5,
        control_space=space(yaw),
        has_pose=True,
        unit_metres=1 / 32,
        tics=2,
    )
    starts = [
        SimpleNamespace(seed=i, action_prefix=np.zeros((2, len(DOOM_KEYS) + 1), np.float32))
        for i in range(len(STARTS))
    ]
    world = SimpleNamespace(
        name="doom-maze",
        spec=spec,
        starts=starts,
        params=28_412_345,
        allowed_denoising_steps=(1, 2, 4),
        draws_coarse_frames=False,
        unit="frame",
        units=("frame",),
        unit_frames=1,
        device="cpu",
        dtype="float32",
        card="",
        config=None,
    )
    world.for_unit = lambda unit: world
    world.engine = lambda **options: FakeEngine(
        world, options.get("denoising_steps") or 2, options.get("slots", 4)
    )
    return world
