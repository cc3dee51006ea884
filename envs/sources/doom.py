"""ViZDoom scenarios as sources: frames, keys, yaw, camera poses in metres, depth."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from worldsim.camera import Intrinsics, from_planar
from worldsim.controls import Control, ControlSpace
from worldsim.data.spec import SourceSpec, StaticSceneSpec
from worldsim.envs.sources.source import Observation
from worldsim.errors import DependencyError, SourceError, install
from worldsim.pixels import resize_area
from worldsim.utils.scratch_folder import ScratchFolder

__all__ = ["DOOM_KEYS", "SCENARIOS", "DoomSource", "Scenario"]

DOOM_KEYS = ("forward", "backward", "strafe_left", "strafe_right", "turn_left", "turn_right")
"""Keys of the maze."""

UNIT_METRES = 1 / 32
"""Length of a Doom map unit, by convention."""
_NATIVE = (120, 160)
_TICS = 2
_TIC_RATE = 35
# The renderer stretches the world's height by 1.2, as the old screens did: fy = 1.2 * fx. Focal length and
# centre were fitted on where floors and ceilings meet walls of known distance.
_INTRINSICS = Intrinsics(80.0, 96.0, 80.0, 59.5)
# The depth buffer's bytes are truncated map units over 7.13, fitted on walls of known distance. Floors and
# ceilings read about a tenth too near with it.
_DEPTH_STEP = 7.13 * UNIT_METRES
_DEPTH_OFFSET = 0.9

_BUTTONS = {
    "forward": "MOVE_FORWARD",
    "backward": "MOVE_BACKWARD",
    "strafe_left": "MOVE_LEFT",
    "strafe_right": "MOVE_RIGHT",
    "turn_left": "TURN_LEFT",
    "turn_right": "TURN_RIGHT",
    "attack": "ATTACK",
}
_YAW_BUTTON = "TURN_LEFT_RIGHT_DELTA"
_VARIABLES = ("CAMERA_POSITION_X", "CAMERA_POSITION_Y", "CAMERA_POSITION_Z", "CAMERA_ANGLE")
_chdir_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One ViZDoom scenario as a source."""

    config: str
    """File name of the scenario that comes with ViZDoom."""
    controls: ControlSpace
    max_tics: int
    """Length after which an episode is truncated."""
    objects: Mapping[str, str] = field(default_factory=dict)
    """Kind of object that labels tell of -> its class in the engine."""
    static_scene: StaticSceneSpec | None = None
    """Set where nothing moves but the camera."""


_MAZE_ACTIONS = (
    (),
    ("forward",),
    ("backward",),
    ("turn_left",),
    ("turn_right",),
    ("strafe_left",),
    ("strafe_right",),
    ("forward", "turn_left"),
    ("forward", "turn_right"),
    ("forward", "strafe_left"),
    ("forward", "strafe_right"),
    ("backward", "turn_left"),
    ("backward", "turn_right"),
)
_DODGES = ("strafe_left", "strafe_right")
_TURNS = ("turn_left", "turn_right")
SCENARIOS = {
    "doom-maze": Scenario(
        config="my_way_home.cfg",
        controls=ControlSpace(keys=DOOM_KEYS, yaw=True, pose=True, discrete_actions=_MAZE_ACTIONS),
        max_tics=2100,
        # ViZDoom's friction leaves 0.82 of a speed after two tics.
        static_scene=StaticSceneSpec(floor_height=0.0, ceiling_height=4.0, idle_damping=0.85),
    ),
    "take-cover": Scenario(
        config="take_cover.cfg",
        controls=ControlSpace(
            keys=_DODGES, yaw=False, pose=True, discrete_actions=((), *((key,) for key in _DODGES))
        ),
        max_tics=2100,
        objects={"fireball": "DoomImpBall", "monster": "DoomImp"},
    ),
    "defend-the-center": Scenario(
        config="defend_the_center.cfg",
        controls=ControlSpace(
            keys=(*_TURNS, "attack"),
            yaw=False,
            pose=True,
            discrete_actions=(
                (),
                *((key,) for key in (*_TURNS, "attack")),
                *((key, "attack") for key in _TURNS),
            ),
        ),
        max_tics=2100,
        objects={"monster": "Demon", "marine": "MarineChainsawVzd"},
    ),
    "health-gathering": Scenario(
        config="health_gathering.cfg",
        controls=ControlSpace(
            keys=("forward", *_TURNS),
            yaw=False,
            pose=True,
            discrete_actions=(
                (),
                ("forward",),
                *((key,) for key in _TURNS),
                *(("forward", key) for key in _TURNS),
            ),
        ),
        max_tics=2100,
        objects={"medikit": "Medikit"},
    ),
}


class DoomSource:
    """A ViZDoom scenario at 160x120 or a whole fraction of it, two tics a frame, without HUD or weapon.

    Args:
        name: a key of ``SCENARIOS``.
        size: height and width of the frames.
        depth: whether observations carry depth, ``float32 [120, 160]`` whatever the frame's size. It comes
            from a buffer of 8 bits, in steps of 0.22 m.
        labels: whether observations tell which pixels show an object of the scenario's kinds, if it has any.
            A pixel of a smaller frame does where at least half of it does.

    Raises:
        DependencyError: vizdoom is not installed.
        SourceError: a size that does not divide 120x160.
    """

    def __init__(
        self, name: str, size: tuple[int, int] | None = None, *, depth: bool = False, labels: bool = False
    ) -> None:
        size = size or _NATIVE
        if min(size) < 1 or _NATIVE[0] % size[0] or _NATIVE[1] % size[1]:
            raise SourceError("a Doom frame's size must divide 120x160", size, "e.g. 60x80")
        self._scenario = SCENARIOS[name]
        space = self._scenario.controls
        native = SourceSpec(
            name=name,
            size=_NATIVE,
            fps=_TIC_RATE / _TICS,
            control_space=space,
            intrinsics=_INTRINSICS,
            has_pose=True,
            unit_metres=UNIT_METRES,
            tics=_TICS,
            static_scene=self._scenario.static_scene,
        )
        self.spec = native.at_size(size)
        self._has_depth = depth
        self._objects = self._scenario.objects if labels else {}
        scratch = ScratchFolder("doom")
        self._game = _start_game(self._scenario, depth, bool(self._objects), str(scratch.path))
        self._finalizer = weakref.finalize(self, _stop_game, self._game, scratch)
        self._walls: np.ndarray | None = None
        self._last: Observation | None = None
        self._tics = 0

    def reset(self, seed: int) -> Observation:
        """Begin the episode that ``seed`` in [0, 2**32) fixes."""
        if not 0 <= seed < 2**32:
            raise SourceError("a Doom seed must be in [0, 2**32)", seed)
        self._open().set_seed(int(seed))
        self._game.new_episode()
        self._tics = 0
        self._last = self._observe(reward=0.0)
        return self._last

    def step(self, control: Control) -> Observation:
        """Hold ``control`` for one frame of two tics."""
        if control.pose is not None:
            raise SourceError(
                "a real environment cannot be put at a pose", "a pose", "steer with keys and yaw"
            )
        last = self._last
        if last is None or last.terminated or last.truncated:
            raise SourceError("a step needs a running episode", None, "call reset(seed) first")
        reward = self._open().make_action(self._action(control), _TICS)
        self._tics += _TICS
        self._last = self._observe(reward)
        return self._last

    def walls(self) -> np.ndarray | None:
        """``float64 [n, 4]``: blocking lines x1, y1, x2, y2 in metres; None before the first reset."""
        return self._walls

    def close(self) -> None:
        """Stop the engine; further calls do nothing."""
        self._finalizer()
        self._game = None

    def _open(self) -> Any:
        if self._game is None:
            raise SourceError("a source must be open", "a closed one", "make a new one")
        return self._game

    def _action(self, control: Control) -> list[float]:
        space = self.spec.control_space
        action = space.multi_hot(control).tolist()
        # The delta is in degrees, positive to the right, and applied on each tic.
        return [*action, math.degrees(control.yaw) / _TICS] if space.yaw else action

    def _observe(self, reward: float) -> Observation:
        state = self._game.get_state()
        if state is None:
            assert self._last is not None, "an episode cannot end on its reset"
            last = self._last
            return replace(last, reward=reward, terminated=True, truncated=False)
        if self._walls is None:
            self._walls = _blocking_lines(state.sectors)
        x, y, z, degrees = state.game_variables
        return Observation(
            frame=np.array(resize_area(state.screen_buffer, self.spec.size)),
            pose=from_planar(x * UNIT_METRES, y * UNIT_METRES, z * UNIT_METRES, math.radians(degrees)),
            reward=reward,
            truncated=self._tics >= self._scenario.max_tics,
            depth=_metres(state.depth_buffer) if self._has_depth else None,
            labels=_masks(state, self._objects, self.spec.size) if self._objects else None,
        )


def _metres(depth: np.ndarray) -> np.ndarray:
    return (depth.astype(np.float32) + _DEPTH_OFFSET) * _DEPTH_STEP


def _masks(state: Any, objects: Mapping[str, str], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Mask of each kind of object, ``bool [H, W]``."""
    masks = {}
    for kind, name in objects.items():
        values = [label.value for label in state.labels if label.object_name == name]
        height, width = size
        blocks = np.isin(state.labels_buffer, values).reshape(height, -1, width, _NATIVE[1] // width)
        masks[kind] = blocks.mean((1, 3)) >= 0.5
    return masks


def _blocking_lines(sectors: Any) -> np.ndarray:
    lines = {
        (line.x1, line.y1, line.x2, line.y2)
        for sector in sectors
        for line in sector.lines
        if line.is_blocking
    }
    return np.array(sorted(lines), dtype=np.float64).reshape(-1, 4) * UNIT_METRES


def _start_game(scenario: Scenario, depth: bool, labels: bool, home: str) -> Any:
    try:
        import vizdoom
    except ImportError as error:
        rule = "this source needs the package vizdoom"
        raise DependencyError(rule, None, install("doom")) from error
    game = vizdoom.DoomGame()
    game.load_config(os.path.join(vizdoom.scenarios_path, scenario.config))
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    for render in ("hud", "minimal_hud", "weapon", "crosshair", "messages", "screen_flashes"):
        getattr(game, f"set_render_{render}")(False)
    game.set_depth_buffer_enabled(depth)
    game.set_labels_buffer_enabled(labels)
    game.set_sectors_info_enabled(True)
    # Time is counted by the source: ViZDoom does not tell a time-out from an end.
    game.set_episode_timeout(0)
    buttons = [_BUTTONS[key] for key in scenario.controls.keys] + [_YAW_BUTTON] * scenario.controls.yaw
    game.set_available_buttons([getattr(vizdoom.Button, name) for name in buttons])
    game.set_available_game_variables([getattr(vizdoom.GameVariable, name) for name in _VARIABLES])
    game.set_doom_config_path(os.path.join(home, "vizdoom.ini"))
    _tie_to_this_process(game, os.path.join(os.path.dirname(vizdoom.__file__), "vizdoom"), home)
    with _working_directory(home):  # the engine leaves files where it starts
        game.init()
    return game


def _tie_to_this_process(game: Any, engine: str, home: str) -> None:
    """If the system can, start the engine so that it dies with this process, even by kill -9.

    ViZDoom's engine is a process of its own, which would wait for ever for one that is gone.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None or not os.path.exists(engine):
        return
    launcher = os.path.join(home, "engine")
    with open(launcher, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec "{setpriv}" --pdeathsig KILL "{engine}" "$@"\n')
    os.chmod(launcher, 0o700)
    if os.access(launcher, os.X_OK):  # not where temporary files may not be executed
        game.set_vizdoom_path(launcher)


def _stop_game(game: Any, scratch: ScratchFolder) -> None:
    game.close()
    scratch.close()


@contextlib.contextmanager
def _working_directory(path: str) -> Iterator[None]:
    with _chdir_lock:  # it belongs to the whole process: hold it only while the engine starts
        before = os.getcwd()
        os.chdir(path)
        try:
            yield
        finally:
            os.chdir(before)
