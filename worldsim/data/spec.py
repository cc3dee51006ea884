"""What a source is: its frames, its clock, its controls, its camera. Saved with data and with worlds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from worldsim.camera import Intrinsics
from worldsim.controls import ControlSpace
from worldsim.errors import DataError

__all__ = ["SourceSpec"]


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """A source's fixed properties; ``config.to_dict`` and ``config.from_dict`` take it to JSON and back.

    Raises:
        DataError: a size or a rate that is not positive, or poses without the length of their unit.
    """

    name: str
    """What ``make_source`` takes, e.g. "doom-maze" or "gym:CarRacing-v3"."""
    size: tuple[int, int]
    """Height and width of a frame in pixels."""
    fps: float
    """Frames per second at the source's own pace."""
    control_space: ControlSpace
    intrinsics: Intrinsics | None = None
    """The pinhole of a frame of ``size``, or None where the source has no camera."""
    has_pose: bool = False
    """Whether every observation comes with a camera pose."""
    unit_metres: float | None = None
    """Length of the source's own unit in metres; poses are already in metres. None without poses."""
    tics: int = 1
    """The source's own simulation steps per frame."""

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.fps <= 0 or self.tics < 1:
            rule = "a source's size, rate and tics must be positive"
            raise DataError(rule, (self.size, self.fps, self.tics))
        if self.has_pose and self.unit_metres is None:
            raise DataError("a source with poses must state the length of its unit", self.name)

    def at_size(self, size: tuple[int, int]) -> SourceSpec:
        """The same source with frames of ``size`` (height, width); the intrinsics follow."""
        sy, sx = size[0] / self.size[0], size[1] / self.size[1]
        intrinsics = None if self.intrinsics is None else self.intrinsics.scaled(sx, sy)
        return replace(self, size=size, intrinsics=intrinsics)
