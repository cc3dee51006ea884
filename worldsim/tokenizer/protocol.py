"""What every tokenizer offers. Shapes: B batch, N tokens, C latent channels, D view channels, H x W frame."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Past:
    """What a decoder keeps of the frame before."""

    frame: Tensor
    """[B, 3, H, W] in [-1, 1]."""
    reach: Tensor
    """Forward depth [B, H, W] in metres; zeros where the tokenizer knows none."""

    @staticmethod
    def blank(batch: int, size: tuple[int, int], device: torch.device) -> Past:
        """The past of a world without one: grey frames of ``size``, nothing known of their depth."""
        return Past(torch.zeros(batch, 3, *size, device=device), torch.zeros(batch, *size, device=device))

    def pick(self, index: Tensor) -> Past:
        """A copy of some rows."""
        return Past(self.frame[index], self.reach[index])

    def put(self, index: Tensor, other: Past) -> None:
        """Overwrite some rows with those of ``other``."""
        self.frame[index], self.reach[index] = other.frame, other.reach


@dataclass(frozen=True, slots=True)
class Motion:
    """How the camera gets to the new frame, and where that is."""

    control: Tensor
    """Keys, look and normalised twist of the step [B, M]; what a tokenizer without poses has to go by."""
    planar: Tensor | None
    """x, y, z, yaw of the new frame's camera [B, 4]; None where the source has no poses."""
    back: Tensor | None
    """Points of the new camera to points of the previous one [B, 4, 4]."""


@dataclass(frozen=True, slots=True)
class View:
    """What is known of the new frame before its latent: the decoder and the generator both start from it."""

    prior: Tensor
    """What memory of the place says [B, 3, H, W]."""
    warped: Tensor
    """The previous frame, moved along with the camera [B, 3, H, W]."""
    valid: Tensor
    """How far the warp is to be believed [B, 1, H, W] in [0, 1]."""
    grid: Tensor
    """Where ``warped`` was read in the previous frame [B, H, W, 2], in [-1, 1]."""
    past: Tensor
    """The previous frame itself [B, 3, H, W]."""
    reach: Tensor
    """Forward depth of the new frame [B, H, W] in metres."""
    tokens: Tensor
    """The same, small: conditioning for the generator [B, N, D]."""
    control: Tensor
    """``Motion.control`` [B, M]."""

    def detach(self) -> View:
        """The same without gradients."""
        return replace(self, **{field.name: getattr(self, field.name).detach() for field in fields(self)})


class Tokenizer(Protocol):
    """Frames to latents and back, given the past. A tokenizer that needs no past ignores it."""

    @property
    def tokens(self) -> int:
        """Tokens per frame, N."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens."""

    @property
    def channels(self) -> int:
        """Latent channels, C."""

    @property
    def view_channels(self) -> int:
        """Channels of ``View.tokens``, D."""

    @property
    def recalls(self) -> bool:
        """Whether a view reads the frame before."""

    def view(self, past: Past, motion: Motion) -> View:
        """What is known of the new frame before its latent."""

    def surroundings(self, planar: Tensor | None) -> Tensor | None:
        """What is around a camera [B, 4] for the dynamics [B, S]; None where the tokenizer has no place."""

    def encode(self, frame: Tensor, view: View) -> Tensor:
        """Frame [B, 3, H, W] to latent [B, N, C], bounded to (-1, 1)."""

    def decode(self, latent: Tensor, view: View) -> Tensor:
        """Latent [B, N, C] to frame [B, 3, H, W]."""

    def blank(self, batch: int, device: torch.device) -> Past:
        """The past of a world without one: a grey frame."""
