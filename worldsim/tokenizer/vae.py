"""The frame VAE: absolute latents of one frame, few tokens, for worlds in which things move.

A latent holds the whole frame, not the change over the frame before, so that what the generator imagines
never has to be repaired by later frames. Every token covers one block of pixels, so that a small moving
object changes few numbers; ``vector=True`` makes one token of the whole frame instead (Ha and Schmidhuber's
World Models). A learnt position bias lets walls that never move keep their texture.

Shapes: B batch, N tokens, C latent channels, H x W frame, gh x gw token grid, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.camera import Intrinsics
from worldsim.casting import cast
from worldsim.errors import ConfigError
from worldsim.kernels.library import kernels_enabled, variant
from worldsim.kernels.vae_decoder import VaeDecoderKernel, VaeWeights, supports
from worldsim.registry import register
from worldsim.tokenizer.protocol import LatentSpec, MotionCondition, PreviousFrame, Prior

_LOG_VARIANCE = (-8.0, 2.0)
"""Range of the posterior's log variance: keeps a sample finite in bfloat16."""


@register("tokenizer", "vae")
@dataclass(frozen=True, kw_only=True, slots=True)
class VaeConfig:
    """A frame VAE for frames of any size; frames are padded to whole blocks and cropped again."""

    patch: int = 4
    """Pixels to a side of a cell of the convolutions."""
    pool: int = 5
    """Cells to a side of a block, and of a token unless ``vector``."""
    width: int = 64
    """Channels of a cell, D."""
    depth: int = 2
    """3x3 convolutions of the encoder and of the decoder."""
    bottleneck: int = 128
    """Channels of a block between its cells and its latent."""
    channels: int = 16
    """Latent channels of a token, C."""
    vector: bool = False
    """One token of ``channels`` numbers for the whole frame."""
    shows_past: bool = False
    """Show the generator the latent of the frame before, as its prior: to keep what stays is easy then."""

    def __post_init__(self) -> None:
        sizes = (self.patch, self.pool, self.width, self.depth, self.bottleneck, self.channels)
        if min(sizes) < 1:
            raise ConfigError("the sizes of a VAE must be positive", sizes)

    def build(
        self, size: tuple[int, int], condition_size: int, intrinsics: Intrinsics | None
    ) -> VaeTokenizer:
        """The tokenizer of frames of ``size``, with fresh weights; it needs neither condition nor camera."""
        return VaeTokenizer(self, size)

    def enlarged(self, factor: int) -> VaeConfig:
        """The same VAE for frames ``factor`` times as high and as wide: cells cover more pixels."""
        return replace(self, patch=factor * self.patch)

    def enlarge_weights(self, weights: dict[str, Tensor], factor: int) -> dict[str, Tensor]:
        """Weights of ``enlarged(factor)`` from this VAE's ``weights``: the same latents, the same picture.

        The larger VAE encodes the mean of every ``factor`` x ``factor`` pixels, and decodes each pixel of the
        smaller one to as many equal pixels, until it is trained.
        """
        made = dict(weights)
        rows = weights["pixels_in.weight"].transpose(0, 1)
        made["pixels_in.weight"] = _spread(rows, self.patch, factor).transpose(0, 1) / factor**2
        for name in ("pixels_out.weight", "pixels_out.bias"):
            made[name] = _spread(weights[name], self.patch, factor)
        return made


class VaeTokenizer(nn.Module):
    """Encodes each frame alone to a normalised latent, about zero mean and unit variance in every channel."""

    mean: Tensor
    std: Tensor
    scene = None

    def __init__(self, config: VaeConfig, size: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.size = config, size
        block = config.patch * config.pool
        rows, columns = -(-size[0] // block), -(-size[1] // block)
        self.blocks = rows, columns
        """Rows and columns of blocks."""
        grid = (1, 1) if config.vector else self.blocks
        spec = LatentSpec(
            kind="continuous",
            tokens=grid[0] * grid[1],
            channels=config.channels,
            grid=grid,
            bounded=False,
        )
        self.latent_spec = spec
        cells, width = (rows * config.pool, columns * config.pool), config.width
        pixels, area, out = 3 * config.patch**2, config.pool**2, config.bottleneck
        self.pixels_in = nn.Conv2d(pixels, width, 1)
        self.encoder_position = nn.Parameter(torch.zeros(1, width, *cells))
        self.encoder = nn.ModuleList(ScaledResidual(width) for _ in range(config.depth))
        self.pool = nn.Conv2d(width, out, config.pool, config.pool)
        inputs = out * rows * columns if config.vector else out
        self.to_posterior = nn.Linear(inputs, 2 * config.channels)
        self.from_latent = nn.Linear(config.channels, inputs)
        self.block_mixer = None if config.vector else nn.Conv2d(out, out, 3, padding=1)
        self.unpool = nn.Conv2d(out, width * area, 1)
        self.decoder_position = nn.Parameter(torch.zeros(1, width, *cells))
        self.decoder = nn.ModuleList(ScaledResidual(width) for _ in range(config.depth))
        self.pixels_out = nn.Conv2d(width, pixels, 1)
        self.register_buffer("mean", torch.zeros(spec.shape))
        self.register_buffer("std", torch.ones(spec.shape))
        self._decoder: VaeDecoderKernel | None = None

    @property
    def prior_channels(self) -> int:
        """Channels of the latent of the frame before; where that is not shown, 1: nothing is known."""
        return self.config.channels if self.config.shows_past else 1

    @property
    def uses_previous_frame(self) -> bool:
        return self.config.shows_past

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Weights that change the picture of a latent, and no latent."""
        parts = [self.from_latent, self.block_mixer, self.unpool, self.decoder, self.pixels_out]
        return [
            self.decoder_position,
            *(one for part in parts if part is not None for one in part.parameters()),
        ]

    @property
    def supports_kernels(self) -> bool:
        """True where kernels support such a decoder: one with a single latent per frame."""
        config = self.config
        return variant() is not None and config.vector and supports(config.width, config.depth, config.patch)

    def prepare(self, dtype: torch.dtype) -> None:
        if self.supports_kernels and self.mean.device.type == "cpu" and dtype == torch.float32:
            self._decoder = VaeDecoderKernel(self._packed(), self.blocks, self.size, self.config.patch)
        for module in self.children():
            cast(module, dtype)

    def blank(self, batch: int, device: torch.device) -> PreviousFrame:
        return PreviousFrame.blank(batch, self.size, device)

    def prior(self, previous: PreviousFrame, motion: MotionCondition) -> Prior:
        """The latent of the frame before, without a gradient, where it is shown; else nothing is known."""
        known = Prior.unknown(previous, motion, self.latent_spec.tokens, self.prior_channels)
        if not self.config.shows_past:
            return known
        with torch.no_grad():
            return replace(known, tokens=self.encode(previous.frame, known))

    def posterior(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the raw latent of ``frame`` [B, 3, H, W], both float32 [B, N, C]."""
        x = F.pixel_unshuffle(self._padded(frame), self.config.patch)
        x = self.pixels_in(x.to(self.pixels_in.weight.dtype))
        x = x + self.encoder_position.to(x.dtype)
        for block in self.encoder:
            x = block(x)
        x = F.relu(self.pool(F.relu(x)))
        tokens = x.flatten(1)[:, None] if self.config.vector else x.flatten(2).transpose(1, 2)
        mean, log_variance = self.to_posterior(tokens).float().chunk(2, -1)
        return mean, (log_variance - 2).clamp(*_LOG_VARIANCE)

    def reconstruct(self, raw: Tensor) -> Tensor:
        """Frame [B, 3, H, W] from a raw latent [B, N, C]; not clamped."""
        if self._decoder is not None and kernels_enabled():
            return self._decoder(raw[:, 0])
        config = self.config
        x = self.from_latent(raw.to(self.from_latent.weight.dtype))
        if config.vector:
            x = x.view(len(x), config.bottleneck, *self.blocks)
        else:
            x = x.transpose(1, 2).unflatten(2, self.blocks)
        x = F.relu(x)
        if self.block_mixer is not None:
            x = F.relu(x + self.block_mixer(x))
        x = F.pixel_shuffle(self.unpool(x), config.pool)
        x = x + self.decoder_position.to(x.dtype)
        for block in self.decoder:
            x = block(x)
        x = F.pixel_shuffle(self.pixels_out(F.relu(x)).float(), config.patch)
        return x[:, :, : self.size[0], : self.size[1]]

    def encode(self, frame: Tensor, prior: Prior) -> Tensor:
        """Mean of the normalised latent of ``frame`` [B, 3, H, W], float32 [B, N, C]; no prior is used."""
        return (self.posterior(frame)[0] - self.mean) / self.std

    def decode(self, latent: Tensor, prior: Prior) -> Tensor:
        """Frame [B, 3, H, W] from a normalised latent [B, N, C]; no prior is used."""
        return self.reconstruct(latent * self.std + self.mean)

    def normalise_by(self, mean: Tensor, std: Tensor) -> None:
        """Set the statistics [N, C] by which raw latents are normalised."""
        self.mean.copy_(mean)
        self.std.copy_(std.clamp(min=1e-3))

    def _packed(self) -> VaeWeights:
        """The decoder's weights for kernels."""
        convs = [block.scaled() for block in self.decoder if isinstance(block, ScaledResidual)]
        return VaeWeights(
            latent_in=_linear(self.from_latent),
            unpool=_linear(self.unpool),
            position=self.decoder_position[0],
            convs=convs,
            pixels_out=_linear(self.pixels_out),
        )

    def _padded(self, frame: Tensor) -> Tensor:
        """``frame`` with its last row and column repeated up to whole blocks."""
        block, (height, width) = self.config.patch * self.config.pool, self.size
        down, right = -height % block, -width % block
        return F.pad(frame, (0, right, 0, down), mode="replicate") if down or right else frame


class ScaledResidual(nn.Module):
    """A 3x3 convolution of the rectified input, added with a learnt gain a channel; no norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.gain = nn.Parameter(torch.full((1, width, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, D, h, w] to the same shape."""
        return x + self.gain.to(x.dtype) * self.conv(F.relu(x))

    def scaled(self) -> tuple[Tensor, Tensor]:
        """Weight [D, D, 3, 3] and bias [D] of the convolution, times the gain."""
        assert self.conv.bias is not None
        gain = self.gain.flatten()
        return self.conv.weight * gain[:, None, None, None], self.conv.bias * gain


def _spread(rows: Tensor, patch: int, factor: int) -> Tensor:
    """Rows [3 patch^2, ...] of a cell's pixels, in the order of a pixel shuffle, for a larger patch.

    Each pixel's row is repeated for the ``factor`` x ``factor`` pixels in its place.
    """
    grid = rows.unflatten(0, (-1, patch, patch))
    return grid.repeat_interleave(factor, 1).repeat_interleave(factor, 2).flatten(0, 2)


def _linear(layer: nn.Linear | nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight [outputs, inputs] and bias of a pointwise layer."""
    assert layer.bias is not None
    return layer.weight.flatten(1), layer.bias
