"""The bitwise tokenizer: a frame as bits on several scales, decoded on top of the previous frame ([VideoAR]).

The encoder sees the frame alone, so that its bits do not depend on how the frame was reached, and errors of
the past never enter them. The decoder sees the previous frame: what stays need not be coded, and the bits
carry the innovation. A gate for each pixel blends the decoded colour and the previous frame.

With a temporal factor F above 1 the bits are those of F consecutive frames, which the encoder sees together;
they are decoded one on top of the other.

Shapes: B batch, N tokens, C bits of a token, F frames, H x W frame, h x w cells, gh x gw finest grid, D
width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.camera import Intrinsics
from worldsim.casting import cast
from worldsim.errors import ConfigError
from worldsim.kernels.dense_layers import use_dense_layers
from worldsim.kernels.library import variant
from worldsim.registry import register
from worldsim.tokenizer.layers import block_grid, crop, pad_blocks
from worldsim.tokenizer.protocol import LatentSpec, MotionCondition, PreviousFrame, Prior
from worldsim.tokenizer.pyramid import BitPyramid, Quantised, halved
from worldsim.tokenizer.vae import ScaledResidual

_GATE_BIAS = 2.0
"""Log-odds of the decoded colour against the previous frame before anything is learnt."""


@register("tokenizer", "bits")
@dataclass(frozen=True, kw_only=True, slots=True)
class BitsConfig:
    """Sizes of a bitwise tokenizer, for frames of any size; frames are padded to whole blocks."""

    patch: int = 5
    """Pixels to a side of a cell of the convolutions."""
    pool: int = 2
    """Cells to a side of a token of the finest scale."""
    width: int = 64
    """Channels of a cell, D."""
    token_width: int = 96
    """Channels of a token between its cells and its bits."""
    depth: int = 2
    """3x3 convolutions of the encoder and of the decoder."""
    channels: int = 16
    """Bits of a token, C."""
    frames: int = 1
    """Frames that the bits hold together, F: the temporal factor."""
    scales: tuple[tuple[int, int], ...] = ()
    """Rows and columns of every scale, coarse to fine; by default the finest, halved down to one token."""

    def __post_init__(self) -> None:
        sizes = (
            self.patch, self.pool, self.width, self.token_width, self.depth, self.channels, self.frames,
        )  # fmt: skip
        if min(sizes) < 1:
            raise ConfigError("the sizes of a bitwise tokenizer must be positive", sizes)

    def build(
        self, size: tuple[int, int], condition_size: int, intrinsics: Intrinsics | None
    ) -> BitsTokenizer:
        """The tokenizer of frames of ``size``, with fresh weights; it needs neither condition nor camera.

        Raises:
            ConfigError: scales of which the last is not the grid of such frames.
        """
        grid = block_grid(size, self.patch * self.pool)
        if self.scales and self.scales[-1] != grid:
            rule = f"the finest scale of frames of {size[0]}x{size[1]} must be {grid}"
            raise ConfigError(rule, self.scales, "change scales, patch or pool, or leave scales out")
        return BitsTokenizer(self, size)


class BitsTokenizer(nn.Module):
    """Encodes each frame, or F frames, alone, in bits; decodes them on top of the previous frame."""

    pixel_grid: Tensor
    scene = None
    prior_channels = 1
    """The generator knows the past by its own bits: no picture of it, which takes one."""
    uses_previous_frame = True

    def __init__(self, config: BitsConfig, size: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.size = config, size
        self._block = config.patch * config.pool
        grid = block_grid(size, self._block)
        scales = config.scales or halved(grid)
        self.latent_spec = LatentSpec(
            kind="bits",
            tokens=sum(rows * columns for rows, columns in scales),
            channels=config.channels,
            grid=grid,
            bounded=True,
            scales=scales,
            frames=config.frames,
        )
        cells, width, tokens = (
            (grid[0] * config.pool, grid[1] * config.pool),
            config.width,
            config.token_width,
        )
        pixels = 3 * config.patch**2
        self.pixels_in = nn.Conv2d(config.frames * pixels, width, 1)
        self.encoder_position = nn.Parameter(torch.zeros(1, width, *cells))
        self.encoder = _residuals(width, config.depth)
        self.pool = nn.Conv2d(width, tokens, config.pool, config.pool)
        self.token_encoder = ScaledResidual(tokens)
        self.to_planes = nn.Conv2d(tokens, config.channels, 1)
        self.pyramid = BitPyramid(scales, config.channels)
        self.from_planes = nn.Conv2d(config.channels, tokens, 1)
        self.token_decoder = ScaledResidual(tokens)
        self.unpool = nn.Conv2d(tokens, config.frames * width * config.pool**2, 1)
        self.past_in = nn.Conv2d(pixels, width, 1)
        self.past_mixer = nn.Conv2d(width, width, 3, padding=1)
        self.decoder_position = nn.Parameter(torch.zeros(config.frames, width, *cells))
        self.decoder = _residuals(width, config.depth)
        self.pixels_out = nn.Conv2d(width, 4 * config.patch**2, 1)
        nn.init.zeros_(self.past_mixer.weight)
        assert self.past_mixer.bias is not None
        nn.init.zeros_(self.past_mixer.bias)
        self._start_gate()
        height, columns = size
        self.register_buffer("pixel_grid", _pixel_centres(height, columns), persistent=False)

    @property
    def supports_kernels(self) -> bool:
        return variant() is not None

    def prepare(self, dtype: torch.dtype) -> None:
        """Cast to ``dtype`` for inference; the gains of the scales stay float32.

        In float32 on a CPU a frame does not depend on the frames beside it, where kernels are built.
        """
        if dtype == torch.float32 and self.pixel_grid.device.type == "cpu":
            use_dense_layers(self)
        for module in self.children():
            if module is not self.pyramid:
                cast(module, dtype)

    def blank(self, batch: int, device: torch.device) -> PreviousFrame:
        return PreviousFrame.blank(batch, self.size, device)

    def prior(self, previous: PreviousFrame, motion: MotionCondition) -> Prior:
        """The previous frame as it is; the generator gets no tokens of it."""
        known, batch = previous.frame, len(previous.frame)
        return Prior(
            scene_rgb=torch.zeros_like(known),
            warped_rgb=known,
            warp_confidence=torch.ones_like(known[:, :1]),
            warp_grid=self.pixel_grid.expand(batch, -1, -1, -1),
            previous_rgb=known,
            depth=torch.zeros_like(previous.depth),
            tokens=known.new_zeros(batch, self.latent_spec.tokens, self.prior_channels),
            condition=motion.condition,
        )

    def planes(self, frame: Tensor) -> Tensor:
        """Features of ``frame`` [B, 3, H, W] before they are quantised, float32 [B, C, gh, gw].

        With F above 1, of clips [B, F, 3, H, W]; one frame is a still clip.
        """
        clip = frame if frame.ndim == 5 else frame[:, None].expand(-1, self.config.frames, -1, -1, -1)
        cells = self._cells(clip.flatten(0, 1), self.pixels_in)
        x = self.pixels_in(cells.unflatten(0, clip.shape[:2]).flatten(1, 2))
        x = x + self.encoder_position.to(x.dtype)
        for block in self.encoder:
            x = block(x)
        x = self.token_encoder(self.pool(F.relu(x)))
        return self.to_planes(F.relu(x)).float()

    def quantise(self, planes: Tensor, flips: Tensor | None = None) -> Quantised:
        """Bits of ``planes`` [B, C, gh, gw]; see ``BitPyramid.forward``."""
        quantised: Quantised = self.pyramid(planes, flips)
        return quantised

    def encode(self, frame: Tensor, prior: Prior) -> Tensor:
        """Frame [B, 3, H, W] to bits [B, N, C], each -1 or 1; the prior is not used."""
        return self.quantise(self.planes(frame)).bits

    def encode_clip(self, frames: Tensor) -> Tensor:
        """Frames [B, F, 3, H, W] to bits [B, N, C], each -1 or 1."""
        return self.quantise(self.planes(frames)).bits

    def decode(self, latent: Tensor, prior: Prior) -> Tensor:
        """Bits [B, N, C] to their first frame [B, 3, H, W], on top of ``prior.previous_rgb``."""
        return self.decode_frame(latent, prior, 0)

    def decode_frame(self, latent: Tensor, prior: Prior, slot: int) -> Tensor:
        """Bits [B, N, C] to their frame ``slot`` [B, 3, H, W], on top of ``prior.previous_rgb``."""
        return self.reconstruct(self.pyramid.features(latent), prior.previous_rgb, slot)

    def reconstruct(self, features: Tensor, previous: Tensor, slot: int = 0) -> Tensor:
        """Frame ``slot`` [B, 3, H, W] from features [B, C, gh, gw] and the frame before it; not clamped."""
        x = self.token_decoder(self.from_planes(features.to(self.from_planes.weight.dtype)))
        x = self.unpool(F.relu(x)).chunk(self.config.frames, 1)[slot]
        x = F.pixel_shuffle(x, self.config.pool)
        past = self.past_mixer(F.relu(self.past_in(self._cells(previous, self.past_in))))
        x = x + past + self.decoder_position[slot].to(x.dtype)
        for block in self.decoder:
            x = block(x)
        x = F.pixel_shuffle(self.pixels_out(F.relu(x)).float(), self.config.patch)
        colour, gate = crop(x, self.size).split([3, 1], 1)
        return torch.lerp(previous, colour, gate.sigmoid())

    def _cells(self, frame: Tensor, layer: nn.Conv2d) -> Tensor:
        """``frame`` [B, 3, H, W] as cells [B, 3 patch^2, h, w] in the number type of ``layer``."""
        whole = pad_blocks(frame.to(layer.weight.dtype), self._block)
        return F.pixel_unshuffle(whole, self.config.patch)

    def _start_gate(self) -> None:
        """Let the gate prefer the decoded colour at first."""
        area, bias = self.config.patch**2, self.pixels_out.bias
        assert bias is not None
        with torch.no_grad():
            self.pixels_out.weight[3 * area :].mul_(0.1)
            bias[3 * area :] = _GATE_BIAS


def _residuals(width: int, depth: int) -> nn.ModuleList:
    return nn.ModuleList(ScaledResidual(width) for _ in range(depth))


def _pixel_centres(height: int, width: int) -> Tensor:
    """Pixel centres [1, H, W, 2] in [-1, 1], as ``grid_sample`` counts them."""
    rows = (torch.arange(height) * 2 + 1) / height - 1
    columns = (torch.arange(width) * 2 + 1) / width - 1
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], -1)[None]
