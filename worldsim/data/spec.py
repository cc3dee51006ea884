"""Specification of a source: frames, clock, controls, camera. Saved with data and with worlds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from worldsim.camera import Intrinsics
from worldsim.controls import ControlSpace
from worldsim.errors import DataError

__all__ = ["SourceSpec", "StaticSceneSpec"]


@dataclass(frozen=True, kw_only=True)
class StaticSceneSpec:
    """Properties of a source in which nothing moves but the camera.

    Raises:
        DataError: a ceiling that is not above the floor, or a damping outside [0, 1].
    """

    floor_height: float
    """Height of the floor in metres."""
    ceiling_height: float
    """Height of the ceiling in metres."""
    idle_damping: float = 0.85
    """Share of its speed that the camera keeps per frame while no key is held."""

    def __post_init__(self) -> None:
        if self.ceiling_height <= self.floor_height:
            raise DataError(
                "a static scene's ceiling must be above its floor", (self.floor_height, self.ceiling_height)
            )
        if not 0 <= self.idle_damping <= 1:
            raise DataError("a static scene's idle damping must be in [0, 1]", self.idle_damping)


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """A source's fixed properties; ``config.to_dict`` and ``config.from_dict`` take it to JSON and back.

    Raises:
        DataError: a size or a rate that is not positive, poses without the length of their unit, or a prompt
            that is the source's name.
    """

    name: str
    """Name that ``make_source`` takes, e.g. "doom-maze", "gym:CarRacing-v3" or "my_module:my-source"."""
    size: tuple[int, int]
    """Height and width of a frame in pixels."""
    fps: float
    """Frames per second at the source's own pace."""
    control_space: ControlSpace
    intrinsics: Intrinsics | None = None
    """The pinhole of a frame of ``size``, or None where the source has no camera."""
    has_pose: bool = False
    """True where every observation has a camera pose."""
    unit_metres: float | None = None
    """Length of the source's own unit in metres; poses are already in metres. None without poses."""
    tics: int = 1
    """The source's own simulation steps per frame."""
    static_scene: StaticSceneSpec | None = None
    """Set where nothing moves but the camera: the recipes then learn the scene as a field."""

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.fps <= 0 or self.tics < 1:
            rule = "a source's size, rate and tics must be positive"
            raise DataError(rule, (self.size, self.fps, self.tics))
        if self.name in self.control_space.prompts:
            raise DataError("a prompt must not be the source's name, which stands for none", self.name)
        if self.has_pose and self.unit_metres is None:
            raise DataError("a source with poses must state the length of its unit", self.name)

    def at_size(self, size: tuple[int, int]) -> SourceSpec:
        """The same source with frames of ``size`` (height, width); the intrinsics follow."""
        sy, sx = size[0] / self.size[0], size[1] / self.size[1]
        intrinsics = None if self.intrinsics is None else self.intrinsics.scaled(sx, sy)
        return replace(self, size=size, intrinsics=intrinsics)
