"""The tokenizer's protocol. Shapes: B batch, N tokens, C latent channels, V prior channels, H x W frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from worldsim.camera import Intrinsics
from worldsim.errors import ConfigError

if TYPE_CHECKING:
    from worldsim.scene.static_scene import StaticScene
    from worldsim.tokenizer.pyramid import Quantised


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentSpec:
    """The form of a tokenizer's latents, float32 [B, N, C].

    A latent is that of one frame, or of several (``frames``): then each of these frames has all of it.
    """

    kind: Literal["continuous", "bits"]
    """"bits": every channel is -1 or 1."""
    tokens: int
    """Tokens of a latent, N."""
    channels: int
    """Channels per token, C."""
    grid: tuple[int, int]
    """Rows and columns of the tokens; of the finest scale where there are several."""
    bounded: bool
    """Latents lie in [-1, 1], and samples are clamped to it."""
    scales: tuple[tuple[int, int], ...] = ()
    """Rows and columns of every scale, coarse to fine: tokens lie scale after scale; by default the grid."""
    frames: int = 1
    """Frames that a latent holds, F: the temporal factor. Of more than one: see ``ClipTokenizer``."""

    def __post_init__(self) -> None:
        scales = self.scales or (self.grid,)
        object.__setattr__(self, "scales", scales)
        if self.frames < 1:
            raise ConfigError("a latent must hold at least one frame", self.frames)
        if sum(rows * columns for rows, columns in scales) != self.tokens or scales[-1] != self.grid:
            rule = f"the scales must hold {self.tokens} tokens, the finest {self.grid}"
            raise ConfigError(rule, scales, "give tokens = the sum of the areas, grid = the last scale")

    @property
    def shape(self) -> tuple[int, int]:
        """N and C."""
        return self.tokens, self.channels


@dataclass(frozen=True, slots=True)
class PreviousFrame:
    """The frame before the new one, as a tokenizer sees it."""

    frame: Tensor
    """[B, 3, H, W] in [-1, 1]."""
    depth: Tensor
    """Forward depth [B, H, W] in metres; zeros where the tokenizer knows none."""

    @staticmethod
    def blank(batch: int, size: tuple[int, int], device: torch.device) -> PreviousFrame:
        """Grey frames of ``size`` (height, width) without known depth, for worlds that have just begun."""
        frame, depth = (torch.zeros(batch, *shape, device=device) for shape in ((3, *size), size))
        return PreviousFrame(frame, depth)

    def pick(self, index: Tensor) -> PreviousFrame:
        """A copy of some rows."""
        return PreviousFrame(self.frame[index], self.depth[index])

    def put(self, index: Tensor, other: PreviousFrame) -> None:
        """Overwrite some rows with those of ``other``."""
        self.frame[index], self.depth[index] = other.frame, other.depth


@dataclass(frozen=True, slots=True)
class MotionCondition:
    """The camera's motion to the new frame, as a tokenizer sees it."""

    condition: Tensor
    """Keys, yaw and normalised twist of the step [B, M]; what a tokenizer without poses has to go by."""
    planar: Tensor | None
    """x, y, z, yaw of the new frame's camera [B, 4]; None where the source has no poses."""
    to_previous: Tensor | None
    """Points of the new camera to points of the previous one [B, 4, 4]."""


@dataclass(frozen=True, slots=True)
class Prior:
    """All that is known of the new frame before its latent: decoder and generator both start from it."""

    scene_rgb: Tensor
    """The static scene from the new camera [B, 3, H, W]; zeros where there is none."""
    warped_rgb: Tensor
    """The previous frame, moved along with the camera [B, 3, H, W]."""
    warp_confidence: Tensor
    """Confidence in the warp [B, 1, H, W] in [0, 1]."""
    warp_grid: Tensor
    """Positions at which ``warped_rgb`` was read in the previous frame [B, H, W, 2], in [-1, 1]."""
    previous_rgb: Tensor
    """The previous frame itself [B, 3, H, W]."""
    depth: Tensor
    """Forward depth of the new frame [B, H, W] in metres."""
    tokens: Tensor
    """The same, small: input of the generator [B, N, V]."""
    condition: Tensor
    """``MotionCondition.condition`` [B, M]."""

    @staticmethod
    def unknown(previous: PreviousFrame, motion: MotionCondition, tokens: int, channels: int) -> Prior:
        """Nothing is known beforehand: every field is blank but the condition and the previous frame.

        Blank images are views of a single number: nobody reads them, and their memory takes time to clear.
        """
        batch, height, width = previous.depth.shape
        blank, depth = previous.frame.new_zeros(()), torch.zeros_like(previous.depth)
        return Prior(
            scene_rgb=blank.expand(previous.frame.shape),
            warped_rgb=blank.expand(previous.frame.shape),
            warp_confidence=blank.expand(batch, 1, height, width),
            warp_grid=blank.expand(batch, height, width, 2),
            previous_rgb=previous.frame,
            depth=depth,
            tokens=depth.new_zeros(batch, tokens, channels),
            condition=motion.condition,
        )

    @property
    def is_unknown(self) -> bool:
        """True of a prior that ``unknown`` made: nothing was warped."""
        return self.warp_confidence.untyped_storage().nbytes() == self.warp_confidence.element_size()

    def detach(self) -> Prior:
        """The same without gradients."""
        return replace(self, **{field.name: getattr(self, field.name).detach() for field in fields(self)})


class Tokenizer(Protocol):
    """Frames to latents and back, given the prior. A tokenizer that needs no prior ignores it."""

    @property
    def latent_spec(self) -> LatentSpec:
        """The form of its latents."""

    @property
    def prior_channels(self) -> int:
        """Channels of ``Prior.tokens``, V."""

    @property
    def uses_previous_frame(self) -> bool:
        """True where a prior reads the previous frame."""

    @property
    def scene(self) -> StaticScene | None:
        """The static scene that its priors show; None where there is none."""

    @property
    def supports_kernels(self) -> bool:
        """True where kernels support all of its inference, in float32 on a CPU."""

    def prepare(self, dtype: torch.dtype) -> None:
        """Cast to ``dtype`` for inference, and let kernels do what they can on a CPU; weights must stay."""

    def blank(self, batch: int, device: torch.device) -> PreviousFrame:
        """The previous frame of a world that has just begun: grey."""

    def prior(self, previous: PreviousFrame, motion: MotionCondition) -> Prior:
        """All that is known of the new frame before its latent."""

    def encode(self, frame: Tensor, prior: Prior) -> Tensor:
        """Frame [B, 3, H, W] in [-1, 1] to latent [B, N, C]."""

    def decode(self, latent: Tensor, prior: Prior) -> Tensor:
        """Latent [B, N, C] to frame [B, 3, H, W], about within [-1, 1]."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights: a tokenizer is a module."""


@runtime_checkable
class ClipTokenizer(Tokenizer, Protocol):
    """A tokenizer whose latents may hold several frames (``LatentSpec.frames``), F.

    ``encode`` and ``decode`` take a still clip, and its first frame.
    """

    def encode_clip(self, frames: Tensor) -> Tensor:
        """Frames [B, F, 3, H, W] in [-1, 1] to latent [B, N, C]."""

    def decode_frame(self, latent: Tensor, prior: Prior, slot: int) -> Tensor:
        """Frame ``slot`` of a latent's, 0 to F - 1, [B, 3, H, W]; the prior is from the frame before it."""


def clip_tokenizer(tokenizer: Tokenizer) -> ClipTokenizer | None:
    """The tokenizer, if its latents hold several frames; else None.

    Raises:
        ConfigError: they should, and it cannot encode clips.
    """
    if tokenizer.latent_spec.frames == 1:
        return None
    if not isinstance(tokenizer, ClipTokenizer):
        rule = "a tokenizer whose latents hold several frames must encode clips and decode each frame of one"
        raise ConfigError(rule, type(tokenizer).__name__, "give it encode_clip and decode_frame")
    return tokenizer


class NormalisesLatents(Protocol):
    """A variational tokenizer of single frames, whose latents are normalised by statistics of the data."""

    @property
    def latent_spec(self) -> LatentSpec:
        """The form of its latents."""

    @property
    def mean(self) -> Tensor:
        """Mean of the raw latents [N, C]."""

    @property
    def std(self) -> Tensor:
        """Standard deviation of the raw latents [N, C]."""

    def normalise_by(self, mean: Tensor, std: Tensor) -> None:
        """Set the statistics [N, C] by which raw latents are normalised."""

    def posterior(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the raw latent of ``frame`` [B, 3, H, W], both float32 [B, N, C]."""

    def reconstruct(self, raw: Tensor) -> Tensor:
        """Frame [B, 3, H, W] from a raw latent [B, N, C]; not clamped."""

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Weights that change the picture of a latent, and no latent."""


def normalises_latents(tokenizer: Tokenizer) -> NormalisesLatents:
    """The tokenizer, if it can be trained as a variational one.

    Raises:
        ConfigError: it has no posterior or no statistics.
    """
    needed = ("mean", "std", "normalise_by", "posterior", "reconstruct")
    missing = [name for name in needed if not hasattr(tokenizer, name)]
    if missing:
        rule = "latent dynamics need a tokenizer that normalises its latents"
        raise ConfigError(rule, type(tokenizer).__name__, f"it lacks {', '.join(missing)}")
    return cast(NormalisesLatents, tokenizer)


class QuantisesScales(Protocol):
    """A tokenizer of bits on several scales that encodes each frame alone, or each clip of F frames."""

    @property
    def latent_spec(self) -> LatentSpec:
        """The form of its latents."""

    def planes(self, frame: Tensor) -> Tensor:
        """Features of ``frame`` [B, 3, H, W], or of clips [B, F, 3, H, W], before they are quantised.

        Returns:
            float32 [B, C, gh, gw].
        """

    def quantise(self, planes: Tensor, flips: Tensor | None = None) -> Quantised:
        """Bits of ``planes``; finer scales answer to ``flips``, bool [B, N, C], of coarser ones."""

    def reconstruct(self, features: Tensor, previous: Tensor, slot: int = 0) -> Tensor:
        """Frame ``slot`` [B, 3, H, W] from ``Quantised.features`` and the frame before it; not clamped."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights: a tokenizer is a module."""


def quantises_scales(tokenizer: Tokenizer) -> QuantisesScales:
    """The tokenizer, if it is one of bits that are quantised scale by scale.

    Raises:
        ConfigError: it is not.
    """
    missing = [name for name in ("planes", "quantise", "reconstruct") if not hasattr(tokenizer, name)]
    if missing:
        rule = "the tokenizer must be one of bits on several scales"
        raise ConfigError(rule, type(tokenizer).__name__, f"it lacks {', '.join(missing)}")
    return cast(QuantisesScales, tokenizer)


class TokenizerConfig(Protocol):
    """The config of a tokenizer."""

    def build(self, size: tuple[int, int], condition_size: int, intrinsics: Intrinsics | None) -> Tokenizer:
        """The tokenizer, with fresh weights.

        Args:
            size: height and width of a frame in pixels.
            condition_size: length of ``MotionCondition.condition``.
            intrinsics: the source's camera; None where it has none.

        Raises:
            ConfigError: the frame size or the camera does not fit.
        """


@runtime_checkable
class Enlargeable(Protocol):
    """The config of a tokenizer whose latents can be those of larger frames."""

    def enlarged(self, factor: int) -> TokenizerConfig:
        """The config for frames ``factor`` times as high and as wide, with latents of the same form."""

    def enlarge_weights(self, weights: dict[str, Tensor], factor: int) -> dict[str, Tensor]:
        """Weights of a tokenizer of ``enlarged(factor)`` from this one's: the same latents and picture."""
