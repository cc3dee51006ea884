"""A frame predictor of recurrent convolutions: last frame and controls in, next frame out.

Frames are cut into patches that become channels, as PredRNN does it; controls are spread over all cells. The
next frame is the last one plus what the network says. Two layers, small on purpose: these train on two cores
in the minutes that a world takes.

Shapes: B sequences, T frames, H x W frame, M keys and yaw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import ConfigError
from worldsim.evaluation.baselines.cells import ConvLSTMCell, SpatioTemporalCell
from worldsim.tokenizer.layers import block_grid, crop, pad_blocks

__all__ = ["KINDS", "BaselineConfig", "BaselineNetwork", "Kind", "State"]

Kind = Literal["convlstm", "predrnn"]
KINDS: tuple[Kind, ...] = ("convlstm", "predrnn")


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineConfig:
    """TaskSizes."""

    kind: Kind
    size: tuple[int, int]
    """Height and width of a frame."""
    control: int
    """Keys and yaw, M."""
    hidden: int = 48
    layers: int = 2
    patch: int = 5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"a baseline must be one of {', '.join(KINDS)}", self.kind)
        block_grid(self.size, self.patch)


@dataclass(frozen=True, slots=True)
class State:
    """Recurrent state per layer [B, C, h, w], and the memory that layers pass on."""

    hidden: tuple[Tensor, ...]
    cell: tuple[Tensor, ...]
    memory: Tensor


class BaselineNetwork(nn.Module):
    """See the module."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config = config
        pixels, width = 3 * config.patch**2, config.hidden
        self.enter = nn.Conv2d(pixels + config.control, width, 1)
        make = ConvLSTMCell if config.kind == "convlstm" else SpatioTemporalCell
        self.cells = nn.ModuleList(make(width, width) for _ in range(config.layers))
        self.leave = nn.Conv2d(width, pixels, 1)

    def start(self, batch: int) -> State:
        """Nothing seen yet."""
        config = self.config
        grid = block_grid(config.size, config.patch)
        zero = self.leave.weight.new_zeros(batch, config.hidden, *grid)
        return State((zero,) * config.layers, (zero,) * config.layers, zero)

    def step(self, frame: Tensor, control: Tensor, state: State) -> tuple[Tensor, State]:
        """The next frame [B, 3, H, W] after ``frame`` under the control [B, M] that leads into it."""
        patches = F.pixel_unshuffle(pad_blocks(frame, self.config.patch), self.config.patch)
        held = control[:, :, None, None].expand(-1, -1, *patches.shape[2:])
        x, memory = self.enter(torch.cat([patches, held], 1)), state.memory
        hidden, cell = list(state.hidden), list(state.cell)
        for i, layer in enumerate(self.cells):
            if isinstance(layer, SpatioTemporalCell):
                hidden[i], cell[i], memory = layer(x, hidden[i], cell[i], memory)
            else:
                hidden[i], cell[i] = layer(x, hidden[i], cell[i])
            x = hidden[i]
        moved = crop(F.pixel_shuffle(self.leave(x), self.config.patch), self.config.size)
        return frame + moved, State(tuple(hidden), tuple(cell), memory)

    def forward(self, frames: Tensor, controls: Tensor, given: Tensor | int) -> Tensor:
        """Frames 1 .. T - 1 foretold, [B, T - 1, 3, H, W], of ``frames`` [B, T, 3, H, W] and ``controls``.

        ``given`` frames are read; from then on the network reads its own (an int), or where a mask
        ``bool [B, T]`` says so (scheduled sampling).
        """
        length = controls.shape[1]
        state, shown, last = self.start(len(frames)), [], frames[:, 0]
        for t in range(1, length):
            last, state = self.step(last, controls[:, t], state)
            shown.append(last)
            last = last.clamp(-1, 1)
            if not isinstance(given, int):
                last = torch.where(given[:, t, None, None, None], frames[:, t], last)
            elif t < given:
                last = frames[:, t]
        return torch.stack(shown, 1)
