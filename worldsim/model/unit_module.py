"""A generator's view of its unit: the layout of tokens, the parts that are drawn in turn, rotations.

Shapes: B batch, T units, N tokens, R registers, P parts, n tokens of a part, d channels of a head.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from worldsim.errors import ConfigError
from worldsim.model.blocks import Direction, PartView, UnitTime
from worldsim.model.rope import rope_frequencies
from worldsim.model.unit_layout import UnitLayout
from worldsim.units import Unit


class LayoutSizes(Protocol):
    """Sizes of a generator that its layout follows from."""

    @property
    def width(self) -> int:
        """Features of a token, D."""

    @property
    def heads(self) -> int:
        """Attention heads."""

    @property
    def registers(self) -> int:
        """Extra tokens of a unit, R."""

    @property
    def time_axis(self) -> bool:
        """Positions have an axis of time even where units have one frame."""


class UnitModule(nn.Module):
    """A module whose tokens are those of a unit; the same weights may serve several units."""

    config: LayoutSizes
    tokens: int
    positions: Tensor
    mask: Tensor | None
    part_of: Tensor | None
    """Part of each token and register, int64 [N + R]; None where a unit has one part."""
    direction: Direction
    _rope: Tensor | None
    _time: UnitTime | None
    _views: list[PartView]
    _kernel: Any

    def _lay_out(self, unit: Unit, direction: Direction) -> None:
        """Set all that follows from the unit and from the direction in which it is seen."""
        # A unit of one frame needs no axis of time: all of a head turns with rows and columns.
        has_time = unit.frames > 1 or self.config.time_axis
        layout = UnitLayout(unit, self.config.registers, direction, has_time)
        self.layout, self.order, self.direction = layout, layout.order, direction
        for name in ("positions", "mask", "part_of"):
            self.register_buffer(name, getattr(layout, name), persistent=False)
        self._rope, self._time, self._views = None, None, []

    def for_unit(self, unit: Unit) -> Self:
        """The same weights under another unit of as many frames and tokens; they share memory.

        Raises:
            ConfigError: the unit has others.
        """
        if (unit.frames, unit.tokens) != self.layout.shape:
            rule = "units of one generator must have {} frames and {} tokens".format(*self.layout.shape)
            raise ConfigError(rule, (unit.frames, unit.tokens), "train a world of its own for this unit")
        other = copy.copy(self)
        other.__dict__["_buffers"], device = dict(self._buffers), self.positions.device
        other._kernel = None
        other._lay_out(unit, self.direction)
        return other.to(device)

    def look(self, direction: Direction) -> Self:
        """See units in another direction from now on; a world's own generator looks forward."""
        device = self.positions.device
        self._lay_out(self.layout.unit, direction)
        return self.to(device)

    @property
    def time(self) -> UnitTime | None:
        """Frames and places of a unit's tokens; None where units have one frame."""
        device = self.positions.device
        if self._time is None or self._time.places.device != device:
            self._time = self.layout.time(self.config.width // self.config.heads, device)
        return self._time

    @property
    def views(self) -> list[PartView]:
        """The parts of a unit, and what each sees."""
        if not self._views or self._views[0].tokens.device != self.positions.device:
            self._views = self.layout.views(self.rope, self.mask, self.config.width // self.config.heads)
        return self._views

    @property
    def rope(self) -> Tensor:
        """Rotations of the tokens' spatial queries and keys, complex [N + R, d / 2].

        Made once a device and no buffer: casting the weights must not round it.
        """
        if self._rope is None or self._rope.device != self.positions.device:
            head_dim = self.config.width // self.config.heads
            axes = self.positions.shape[1]
            dims = (
                (head_dim // 2, head_dim // 2) if axes == 2 else (head_dim // 2, head_dim // 4, head_dim // 4)
            )
            self._rope = rope_frequencies(self.positions, dims)
        return self._rope

    @property
    def part_tokens(self) -> list[Tensor]:
        """Tokens of each part, int64 [n]."""
        return [view.tokens for view in self.views]

    def per_token(self, x: Tensor) -> Tensor:
        """Numbers of each part of a unit [B, T, P] as those of its tokens [B, T, N]; of units as they are."""
        if x.ndim == 2 or self.part_of is None:
            return x
        return x[..., self.part_of[: self.tokens]]

    def per_part(self, x: Tensor) -> Tensor:
        """Means over the tokens [B, T, N] of each part [B, T, P]; [B, T] where a unit has one part."""
        if self.part_of is None:
            return x.mean(-1)
        parts, number = len(self.order), self.part_of[: self.tokens]
        total = x.new_zeros(*x.shape[:-1], parts).index_add(-1, number, x)
        return total / torch.bincount(number, minlength=parts)
