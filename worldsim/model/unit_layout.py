"""A unit as the transformer lays it out: positions, masks, parts, and places over time.

Shapes: B batch, T units, N tokens, R registers, P parts, d channels of a head.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from worldsim.model.blocks import Direction, PartView, UnitTime
from worldsim.model.rope import rope_frequencies
from worldsim.units import Unit
from worldsim.units.protocol import frame_major


class UnitLayout:
    """Constants of a unit with ``registers`` at its end, seen in a ``direction``.

    Args:
        unit: the tokens of one autoregressive step.
        registers: extra tokens, R.
        direction: "forward": a token sees what the unit's mask allows; "backward": the same, mirrored;
            "full": all.
        has_time: True where positions have an axis of time.
    """

    def __init__(self, unit: Unit, registers: int, direction: Direction, has_time: bool) -> None:
        self.unit, self.registers, self.direction = unit, registers, direction
        self.tokens, self.frames, self.order = unit.tokens, unit.frames, unit.order()
        self.time_frames = _time_frames(unit)
        """Frames in which a token has a place; 1 where it sees itself alone in past units."""
        positions = torch.from_numpy(unit.positions()[:, int(not has_time) :]) + 1
        self.positions = torch.cat([positions, positions.new_zeros(registers, positions.shape[1])])
        """int64 [N + R, axes]; registers are at 0."""
        self.mask = self._mask()
        """bool [N + R, N + R]; None: every token sees every other."""
        self.part_of = self._part_of()
        """Part of each token and register, int64 [N + R]; None where there is one part."""

    @property
    def shape(self) -> tuple[int, int]:
        """Frames and tokens: generators of units that have the same share weights."""
        return self.frames, self.tokens

    def time(self, channels: int, device: torch.device) -> UnitTime | None:
        """Frames and places of all tokens; None where units have one frame. ``channels`` of a head."""
        if self.time_frames == 1:
            return None
        return self._time(torch.arange(self.tokens, device=device), channels, self.registers)

    def views(self, rope: Tensor, mask: Tensor | None, channels: int) -> list[PartView]:
        """The parts in order, and what each sees; ``rope`` [N + R, d / 2] and ``mask`` are on the device."""
        views, earlier = [], torch.empty(0, dtype=torch.int64, device=rope.device)
        for part in self.order:
            tokens = torch.tensor(part, device=rope.device)
            earlier = torch.cat([earlier, tokens])
            seen = None if mask is None else mask[tokens][:, earlier]
            seen = None if seen is None or bool(seen.all()) else seen
            views.append(PartView(tokens, rope[tokens], seen, self._time(tokens, channels, 0)))
        return views

    def _time(self, tokens: Tensor, channels: int, registers: int) -> UnitTime:
        places, rope = self.tokens // self.time_frames, None
        if self.time_frames > 1:
            rope = rope_frequencies((tokens // places)[:, None], (channels,))
        return UnitTime(self.time_frames, self.tokens, registers, tokens % places, rope)

    def _mask(self) -> Tensor | None:
        own = self.unit.mask()
        seen = {"forward": own, "backward": own.T, "full": np.ones_like(own)}[self.direction]
        mask = np.pad(seen, (0, self.registers), constant_values=True)
        if len(self.order) > 1 and self.direction != "full":
            mask[: self.tokens, self.tokens :] = False  # a register sees parts that are not drawn yet
        return None if mask.all() else torch.from_numpy(mask)

    def _part_of(self) -> Tensor | None:
        if len(self.order) == 1:
            return None
        part_of = torch.full((self.tokens + self.registers,), len(self.order) - 1)
        for number, tokens in enumerate(self.order):
            part_of[list(tokens)] = number
        return part_of


def _time_frames(unit: Unit) -> int:
    """The unit's frames where its tokens are frame-major and every frame has the same places; else 1."""
    if unit.tokens % unit.frames:
        return 1
    positions, places = unit.positions(), unit.tokens // unit.frames
    regular = frame_major(unit.frames, (1, places))[:, 0]
    repeated = np.tile(positions[:places, 1:], (unit.frames, 1))
    alike = (positions[:, 0] == regular).all() and (positions[:, 1:] == repeated).all()
    return unit.frames if alike else 1
