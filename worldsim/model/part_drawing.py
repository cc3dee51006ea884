"""Drawing a unit part by part: each part sees those before it, finished ([Units]).

Shapes: B batch, T units, N latent tokens, n tokens of a part, P parts, C latent channels, D width.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from worldsim.model.blocks import RMS_EPS, Block, HeldKV, PartView, rms
from worldsim.model.passes import PreparedUnit
from worldsim.model.unit_layout import UnitLayout


class PartDrawing(nn.Module):
    """The part of a transformer that draws units of several parts."""

    layout: UnitLayout
    order: tuple[tuple[int, ...], ...]
    tokens: int
    positions: Tensor
    mask: Tensor | None
    part_of: Tensor | None
    """Part of each token and register, int64 [N + R]; None where a unit has one part."""
    blocks: nn.ModuleList
    latent_in: nn.Linear
    norm: nn.RMSNorm
    out: nn.Linear
    _views: list[PartView]

    @property
    @abstractmethod
    def rope(self) -> Tensor:
        """Rotations of the tokens' spatial queries and keys, complex [N + R, d / 2]."""

    @property
    @abstractmethod
    def channels_of_head(self) -> int:
        """Channels of a head, d."""

    @property
    @abstractmethod
    def predicts_velocity(self) -> bool:
        """True where the last layer gives the velocity from noise to the clean latent."""

    @property
    def views(self) -> list[PartView]:
        """The parts of a unit, and what each sees."""
        if not self._views or self._views[0].tokens.device != self.positions.device:
            self._views = self.layout.views(self.rope, self.mask, self.channels_of_head)
        return self._views

    def denoise_part(self, prepared: PreparedUnit, noisy: Tensor, index: int, part: int) -> Tensor:
        """The clean latent [B, n, C] of a unit's ``part``, from a ``noisy`` one, given those ``settle`` took.

        With all tokens of ``order`` in one part it is ``denoise``.
        """
        x = self._run_part(prepared, noisy, index, part, None)
        t = prepared.t[:, index : index + 1]
        x = rms(x, RMS_EPS) * self.norm.weight
        return self._to_clean(noisy[:, None], t, self.out(x.to(self.out.weight.dtype)).float())[:, 0]

    def settle(self, prepared: PreparedUnit, latent: Tensor, part: int) -> None:
        """Let later parts see a ``part``'s finished ``latent`` [B, n, C]; parts are settled in order."""
        if part == 0:
            prepared.held[:] = [HeldKV() for _ in self.blocks]
        fresh: list[tuple[Tensor, Tensor]] = []
        self._run_part(prepared, latent, prepared.t.shape[1] - 1, part, fresh)
        for held, pair in zip(prepared.held, fresh, strict=True):
            held.extend(pair)

    def _run_part(
        self,
        prepared: PreparedUnit,
        latent: Tensor,
        index: int,
        part: int,
        fresh: list[tuple[Tensor, Tensor]] | None,
    ) -> Tensor:
        """The blocks over one part of a unit [B, 1, n, D]; its keys and values are added to ``fresh``."""
        view, pasts = self.views[part], iter(prepared.cache.read())
        held = prepared.held if part else [HeldKV() for _ in self.blocks]
        x = self.latent_in(latent[:, None].to(self.latent_in.weight.dtype)).float()
        x = x + prepared.embedded[:, :, view.tokens]
        modulation = prepared.modulation[:, index : index + 1]
        for block, modulations, known in zip(self.blocks, modulation.unbind(-2), held, strict=True):
            assert isinstance(block, Block)
            x, pair = block.part(x, modulations, view, next(pasts) if block.temporal else None, known)
            if fresh is not None:
                fresh.append(pair)
        return x

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

    def _to_clean(self, noisy: Tensor, t: Tensor, given: Tensor) -> Tensor:
        """The clean latent from what the last layer gives, both [B, T, N, C]."""
        if self.predicts_velocity:
            left = 1 - self.per_token(t)
            return noisy + left.reshape(*left.shape, *[1] * (noisy.ndim - left.ndim)) * given
        return given
