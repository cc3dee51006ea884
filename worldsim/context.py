"""Context of a session: the given frames that it starts from, with their controls and poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from worldsim.controls import ControlSpace
from worldsim.errors import DataError

__all__ = ["Context"]


@dataclass(frozen=True)
class Context:
    """Given frames that a session starts from.

    Raises:
        DataError: the arrays do not belong together.
    """

    frames: np.ndarray
    """uint8 [T, H, W, 3], T >= 1; also a list of frames, or one frame [H, W, 3]."""
    controls: Any = None
    """float32 [T, M]: control vectors that led into each frame; the first row is ignored. Also a list with
    one control per frame, in any form that ``ControlSpace.control`` reads; None: no key."""
    poses: np.ndarray | None = None
    """Camera-to-world, float64 [T, 4, 4]."""
    seed: int | None = None
    """Seed of the source's episode."""
    action_prefix: np.ndarray | None = None
    """float32 [P, M]: controls that take the source from ``reset(seed)`` to the last frame."""

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # the instance is frozen
        set_field(self, "frames", _stacked(self.frames, "frames"))
        if self.frames.ndim == 3:
            set_field(self, "frames", self.frames[None])
        if self.poses is not None:
            poses = _stacked(self.poses, "poses").astype(np.float64)
            set_field(self, "poses", poses[None] if poses.ndim == 2 else poses)
        if hasattr(self.controls, "__array__"):
            array = np.asarray(self.controls)  # a tensor's numbers; of objects, a list
            set_field(self, "controls", array if array.dtype.kind in "biuf" else array.tolist())
        shape = self.frames.shape
        if self.frames.dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or shape[0] < 1:
            rule = "a context's frames must be uint8 [T, H, W, 3]"
            raise DataError(rule, f"{self.frames.dtype} {list(shape)}")
        of = f"a context of {shape[0]} frames needs"
        if isinstance(self.controls, np.ndarray):
            if self.controls.ndim != 2 or len(self.controls) != shape[0]:
                raise DataError(f"{of} controls [{shape[0]}, M]", list(self.controls.shape))
            if not np.isfinite(self.controls).all():
                raise DataError("a context's controls must be finite", self.controls.tolist())
        elif self.controls is not None and not (
            isinstance(self.controls, Sequence)
            and not isinstance(self.controls, str)
            and len(self.controls) == shape[0]
        ):
            raise DataError(f"{of} as many controls", self.controls, "give a list, one control a frame")
        if self.poses is not None and self.poses.shape != (shape[0], 4, 4):
            raise DataError(f"{of} poses [{shape[0]}, 4, 4]", list(self.poses.shape))

    def fitted(self, space: ControlSpace) -> Context:
        """The same context with its controls as an array [T, M].

        Raises:
            ControlError: controls that the space does not take.
        """
        return replace(self, controls=space.rows(self.controls, len(self.frames)))

    def newest(self, frames: int) -> Context:
        """The context of the last ``frames`` frames at most; ``action_prefix`` stays the same."""
        poses = None if self.poses is None else self.poses[-frames:]
        return replace(self, frames=self.frames[-frames:], controls=self.controls[-frames:], poses=poses)


def _stacked(given: Any, name: str) -> np.ndarray:
    """One array from an array, a tensor, or a list of them."""
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        rule = f"a context's {name} must be one array, all of one shape"
        raise DataError(rule, None, str(error)) from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"a context's {name} must be numbers", str(array.dtype))
    return array
