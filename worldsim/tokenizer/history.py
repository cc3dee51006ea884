"""The history tokenizer: a learnt P-frame codec, whose decoder reads the previous frame.

The static scene (if the source has poses) is rendered from the new camera; the previous frame is warped by
the scene's depth and a learnt flow; the latent carries only the innovation. One light network blends the
three. Without a static scene a flow prior warps the previous frame. Sources: motion compensation and residual
of every video codec (predictive compression); Delta-IRIS and SVG-LP for latents that hold what the past
cannot know; CDNA for masks over transformed past frames.

Shapes: B batch, N = gh * gw tokens, C latent channels, H x W frame, h x w = H/patch x W/patch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.batch_invariant import BatchInvariantLinear
from worldsim.camera import Intrinsics
from worldsim.casting import cast
from worldsim.errors import ConfigError
from worldsim.kernels.decoder import DecoderKernel, supports
from worldsim.kernels.dense import Dense
from worldsim.kernels.library import kernels_enabled, variant
from worldsim.kernels.warp import Warp
from worldsim.registry import register
from worldsim.scene.planes import grid_coordinates
from worldsim.scene.rays import Rays
from worldsim.scene.static_scene import StaticScene, StaticSceneConfig
from worldsim.tokenizer.flow_prior import FlowPrior
from worldsim.tokenizer.layers import ResidualBlock, ResidualStack, block_grid, crop, pad_blocks
from worldsim.tokenizer.protocol import LatentSpec, MotionCondition, PreviousFrame, Prior


@register("tokenizer", "history")
@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryConfig:
    """A history tokenizer."""

    scene: StaticSceneConfig | None = None
    patch: int = 5
    """Pixels to a side of a cell of the decoder."""
    pool: int = 4
    """Cells to a side of a token."""
    width: int = 64
    depth: int = 3
    channels: int = 16
    flow_prior: bool = False
    """Warp the previous frame by a learnt flow before anything is sampled; for worlds without a static scene.
    Recipes set it for new worlds."""

    def __post_init__(self) -> None:
        if self.flow_prior and self.scene is not None:
            rule = "a flow prior is for worlds without a static scene"
            raise ConfigError(rule, "both", "leave out flow_prior or scene")

    def build(
        self, size: tuple[int, int], condition_size: int, intrinsics: Intrinsics | None
    ) -> HistoryTokenizer:
        """The tokenizer of frames of ``size``; a static scene needs the camera's intrinsics."""
        return HistoryTokenizer(self, size, condition_size, intrinsics)


class HistoryTokenizer(nn.Module):
    """Encodes the part of a frame that the previous frame and the static scene do not predict."""

    pixel_grid: Tensor
    ray_right: Tensor | None
    ray_down: Tensor | None

    uses_previous_frame = True

    def __init__(
        self,
        config: HistoryConfig,
        size: tuple[int, int],
        condition_size: int,
        intrinsics: Intrinsics | None = None,
    ) -> None:
        super().__init__()
        if config.scene is not None and intrinsics is None:
            rule = "a static scene needs the camera's intrinsics"
            raise ConfigError(rule, None, "record from a source with poses")
        self.config, self.size, self.intrinsics = config, size, intrinsics
        self._block = config.patch * config.pool
        self._has_whole_blocks = size[0] % self._block == 0 and size[1] % self._block == 0
        rows, columns = block_grid(size, self._block)
        self.latent_spec = LatentSpec(
            kind="continuous",
            tokens=rows * columns,
            channels=config.channels,
            grid=(rows, columns),
            bounded=True,
        )
        height, width = size
        self.scene = StaticScene(config.scene) if config.scene is not None else None
        rays = Rays.of(intrinsics, height, width) if intrinsics is not None else None
        embedding, area = 2 * config.width, config.patch**2
        self.condition_embed = nn.Sequential(
            BatchInvariantLinear(condition_size, embedding),
            nn.SiLU(),
            BatchInvariantLinear(embedding, embedding),
            nn.SiLU(),
        )
        self.prior_in, self.residual_in = _cell_conv(8, config), _cell_conv(3, config)
        self.encoder = ResidualStack(config.width, embedding, 1)
        self.downsample = nn.Conv2d(config.width, 2 * config.width, config.pool, config.pool)
        self.token_encoder = ResidualStack(2 * config.width, embedding, 1)
        block = config.patch * config.pool
        self.block_to_latent = nn.Conv2d(3, config.channels, block, block, bias=False)
        self.to_latent = nn.Conv2d(2 * config.width, config.channels, 1, bias=False)
        self.from_latent = nn.Conv2d(config.channels, config.width, 3, padding=1)
        self.latent_to_block = nn.Conv2d(config.channels, 3 * block**2, 1, bias=False)
        self.decoder = ResidualStack(config.width, embedding, config.depth)
        self.out_norm = nn.GroupNorm(8, config.width)
        self.out = nn.Conv2d(config.width, 2 + 4 * area, 3, padding=1)
        nn.init.normal_(self.block_to_latent.weight, std=1.5 / block)
        nn.init.zeros_(self.to_latent.weight)
        nn.init.zeros_(self.latent_to_block.weight)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None, "the layer has one"
        nn.init.zeros_(self.out.bias)
        self.flow_prior = FlowPrior(config.patch, config.width, condition_size) if config.flow_prior else None
        self.register_buffer("pixel_grid", _pixel_grid(height, width), persistent=False)
        self._horizon = 0 if rays is None else rays.horizon
        self.register_buffer("ray_right", None if rays is None else rays.right, persistent=False)
        self.register_buffer("ray_down", None if rays is None else rays.down, persistent=False)
        self._warp: Warp | None = None
        self._decoder_kernel: DecoderKernel | None = None
        self._block_kernel: Dense | None = None

    @property
    def prior_channels(self) -> int:
        """Channels of a prior's tokens: two small pictures, one value a cell."""
        return 6 * self.config.pool**2

    def prepare(self, dtype: torch.dtype) -> None:
        """The scene's planes stay float32, as they are sampled, not multiplied; so do its columns."""
        if self.pixel_grid.device.type == "cpu":
            self.enable_kernels(decodes=dtype == torch.float32)
        scene = self.scene
        for module in self.children():
            if module is not scene:
                cast(module, dtype)
        if scene is not None and scene.renderer is None:
            for module in scene.children():
                cast(module, dtype, keep=(scene.column_in,))

    @property
    def uses_kernels(self) -> bool:
        """True where kernels run all of its inference."""
        return self.scene is not None and self.scene.renderer is not None and self._decoder_kernel is not None

    @property
    def supports_kernels(self) -> bool:
        """True where kernels support such a decoder."""
        config, patch = self.config, self.config.patch
        cells = self.size[0] // patch, self.size[1] // patch
        return (
            variant() is not None
            and self._has_whole_blocks
            and self.scene is not None
            and self.scene.supports_kernels
            and supports(cells, config.width, config.depth, patch)
        )

    def enable_kernels(self, decodes: bool) -> None:
        """Use kernels for inference from now on, on a CPU, where supported; the weights must not change.

        ``decodes`` if the decoder's network is float32, as frames are.
        """
        config = self.config
        if variant() is None or self.scene is None or self.intrinsics is None or not self._has_whole_blocks:
            return
        self.scene.enable_kernels()
        rays = self.rays
        self._warp = Warp(self.intrinsics, rays.right, rays.down, config.patch, config.pool)
        if decodes and self.supports_kernels:
            blocks = [block for block in self.decoder.blocks if isinstance(block, ResidualBlock)]
            layers = [(one.norm1, one.conv1, one.norm2, one.conv2) for one in blocks]
            last = (self.out_norm, self.out)
            self._decoder_kernel = DecoderKernel(self._warp, self.prior_in, self.from_latent, layers, last)
            self._block_kernel = Dense(self.latent_to_block.weight[:, :, 0, 0])

    @property
    def rays(self) -> Rays:
        """The rays of a frame's pixels, on the weights' device."""
        assert self.ray_right is not None, "only a source with a camera has rays"
        assert self.ray_down is not None
        return Rays(self.ray_right, self.ray_down, self._horizon)

    def blank(self, batch: int, device: torch.device) -> PreviousFrame:
        return PreviousFrame.blank(batch, self.size, device)

    def prior(self, previous: PreviousFrame, motion: MotionCondition) -> Prior:
        """Static scene and previous frame from the new camera; the scene trains apart: no gradient.

        Without a scene the flow prior, if there is one, says where the previous frame's pixels go to.
        """
        frame, condition = previous.frame, motion.condition
        if self.scene is not None and motion.planar is not None and motion.to_previous is not None:
            with torch.no_grad():
                colour, depth = self.scene(motion.planar, self.rays)
                scene = colour.permute(0, 3, 1, 2).float().clamp(-1, 1).contiguous()
                if self._warp is not None and kernels_enabled():
                    seen = self._warp.warp(motion.to_previous, depth, scene, frame, previous.depth)
                    warped, valid, grid, tokens = seen
                    return Prior(scene, warped, valid, grid, frame, depth, tokens, condition)
                grid, valid = self._reproject(depth, previous.depth, motion.to_previous)
        else:
            scene, depth = torch.zeros_like(frame), torch.zeros_like(previous.depth)
            grid, valid = self.pixel_grid.expand(len(depth), -1, -1, -1), torch.ones_like(depth)[:, None]
            if self.flow_prior is not None:
                flow, valid = self.flow_prior(frame, condition)
                grid = (grid + flow).clamp(-2, 2)
        warped = _sample_image(frame, grid)
        whole = [pad_blocks(image, self._block) for image in (scene, warped)]
        small = torch.cat([F.avg_pool2d(image, self.config.patch) for image in whole], 1)
        tokens = F.pixel_unshuffle(small, self.config.pool).flatten(2).transpose(1, 2)
        return Prior(scene, warped, valid, grid, frame, depth, tokens, condition)

    def encode(self, frame: Tensor, prior: Prior) -> Tensor:
        """The innovation of ``frame`` [B, 3, H, W] over ``prior``: [B, N, C] in (-1, 1).

        A linear code of each block's residual, of use from the first step, so that the decoder learns to read
        latents; a network that sees more corrects it.
        """
        dtype = self.prior_in.weight.dtype
        embedding = self.condition_embed(prior.condition)
        residual = pad_blocks((frame - _initial_blend(prior)).to(dtype), self._block)
        hidden = self.prior_in(self._prior_image(prior)) + self.residual_in(residual)
        hidden = self.token_encoder(self.downsample(self.encoder(hidden, embedding)), embedding)
        planes = self.block_to_latent(residual).float() + self.to_latent(hidden)
        return planes.float().tanh().flatten(2).transpose(1, 2)

    def decode(self, latent: Tensor, prior: Prior) -> Tensor:
        """Frame [B, 3, H, W] from the innovation [B, N, C] and what is known."""
        if self._warp is not None and kernels_enabled():
            return self._decode_by_kernels(self._warp, latent, prior)
        patch, coarse = self.config.patch, self._latent_image(latent)
        out = self._run_decoder(coarse, prior)
        flow = 0.1 * out[:, :2].float()
        flow = crop(F.interpolate(flow, scale_factor=patch, mode="bilinear", align_corners=False), self.size)
        trust, paint = crop(F.pixel_shuffle(out[:, 2:], patch), self.size).float().split([1, 3], 1)
        trust = torch.sigmoid(trust + _warp_logit(prior))
        paint = paint + crop(F.pixel_shuffle(self.latent_to_block(coarse), self._block), self.size).float()
        # What is moved again and again, frame after frame, would get softer each time if moved bilinearly.
        moved = _sample_image(prior.previous_rgb, prior.warp_grid + flow.permute(0, 2, 3, 1), "bicubic")
        return torch.lerp(prior.scene_rgb, moved, trust) + paint

    def _decode_by_kernels(self, warp: Warp, latent: Tensor, prior: Prior) -> Tensor:
        """``decode`` with kernels, as far as they go."""
        if self._decoder_kernel is not None and self._block_kernel is not None:
            films = self.decoder.films(self.condition_embed(prior.condition))
            out = self._decoder_kernel(
                prior.scene_rgb, prior.warped_rgb, prior.warp_confidence, prior.depth, latent, films
            )
            painted = self._block_kernel(latent)
        else:
            coarse = self._latent_image(latent)
            out = self._run_decoder(coarse, prior).permute(0, 2, 3, 1)
            painted = self.latent_to_block(coarse).flatten(2).transpose(1, 2)
        return warp.blend(
            out, painted, prior.scene_rgb, prior.warp_confidence, prior.warp_grid, prior.previous_rgb
        )

    def _latent_image(self, latent: Tensor) -> Tensor:
        """The latent as a picture [B, C, gh, gw].

        Laid out anew: how channels lie decides how a convolution rounds; those of one world lie both ways.
        """
        planes = latent.transpose(1, 2).unflatten(2, self.latent_spec.grid)
        return planes.to(self.prior_in.weight.dtype).contiguous()

    def _run_decoder(self, coarse: Tensor, prior: Prior) -> Tensor:
        """Flow, trust and paint of each cell [B, 2 + 4 patch^2, h, w] from the latent's picture."""
        planes = F.interpolate(coarse, scale_factor=self.config.pool, mode="bilinear", align_corners=False)
        hidden = self.prior_in(self._prior_image(prior)) + self.from_latent(planes)
        hidden = self.decoder(hidden, self.condition_embed(prior.condition))
        out: Tensor = self.out(F.silu(self.out_norm(hidden)))
        return out

    def _prior_image(self, prior: Prior) -> Tensor:
        """All that is known of each pixel [B, 8, H, W], padded to whole blocks."""
        dtype, near = self.prior_in.weight.dtype, (1 + prior.depth[:, None]).reciprocal()
        known = torch.cat(
            [part.to(dtype) for part in (prior.scene_rgb, prior.warped_rgb, prior.warp_confidence, near)], 1
        )
        return pad_blocks(known, self._block)

    def _reproject(self, depth: Tensor, past_depth: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of the new frame's points in the previous one, and the confidence in them.

        ``depth`` and ``past_depth`` [B, H, W] are the forward depths of both; ``back`` [B, 4, 4] takes
        points of the new camera to the previous one. Returns [B, H, W, 2], [-1, 1] within the frame, and
        [B, 1, H, W] in [0, 1].
        """
        camera, rays = self.intrinsics, self.rays
        assert camera is not None
        height, width = self.size
        # Products and sums, no matmul: autocast would make it bfloat16, which would move points by pixels.
        along_right, along_down, along_depth, shift = back[:, :3, :, None, None].transpose(0, 1).unbind(2)
        ray = along_right * rays.right + (along_down * rays.down[:, None] + along_depth)
        x, y, z = ray * depth + shift
        front = z.clamp(min=0.05)
        column = x / front * (2 * camera.fx / width) + (2 * camera.cx / width - 1)
        row = y / front * (2 * camera.fy / height) + (2 * camera.cy / height - 1)
        grid = grid_coordinates(column, row)
        inside = (column.abs() <= 1) & (row.abs() <= 1) & (z > 0.05)
        seen = _sample_image(past_depth[:, None], grid)[:, 0]
        agrees = torch.exp(-4 * ((seen - z).abs() / front - 0.05).clamp(min=0)) * (seen > 0)
        return grid.clamp(-2, 2), (inside * agrees)[:, None]


def _cell_conv(channels: int, config: HistoryConfig) -> nn.Conv2d:
    """From pixels to cells: each sees its own and its neighbours'."""
    patch = config.patch
    return nn.Conv2d(channels, config.width, 3 * patch, stride=patch, padding=patch)


def _warp_logit(prior: Prior) -> Tensor:
    """Log-odds of the warped past against the scene before anything is learnt [B, 1, H, W]."""
    return 2 * prior.warp_confidence - 1


def _initial_blend(prior: Prior) -> Tensor:
    """The untrained decoder's frame [B, 3, H, W]."""
    return torch.lerp(prior.scene_rgb, prior.warped_rgb, torch.sigmoid(_warp_logit(prior)))


def _pixel_grid(height: int, width: int) -> Tensor:
    """Pixel centres [1, H, W, 2] in [-1, 1], as ``grid_sample`` counts them."""
    rows = (torch.arange(height) * 2 + 1) / height - 1
    columns = (torch.arange(width) * 2 + 1) / width - 1
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], -1)[None]


def _sample_image(image: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """``image`` [B, C, H, W] at ``grid`` [B, h, w, 2]; a CPU's threads share the rows of a single one."""
    parts = math.gcd(grid.shape[1], torch.get_num_threads()) if _is_single_on_cpu(image) else 1
    spread, asked = image.expand(parts * len(image), -1, -1, -1), grid.to(image.dtype)
    asked = asked.reshape(len(spread), -1, *grid.shape[2:])
    found = F.grid_sample(spread, asked, mode, padding_mode="border", align_corners=False)
    return found if parts == 1 else torch.cat(found.split(1), 2)


def _is_single_on_cpu(image: Tensor) -> bool:
    return len(image) == 1 and image.device.type == "cpu" and not torch.is_grad_enabled()
