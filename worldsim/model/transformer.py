"""The transformer: latents of a unit from noise, given the past, the prior and the condition.

Shapes: B batch, T frames, N latent tokens, R registers, C latent channels, V prior channels, D width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from worldsim.casting import cast, make_small_products_invariant
from worldsim.errors import ConfigError
from worldsim.kernels import generator as generator_kernel
from worldsim.kernels.dense import Dense
from worldsim.kernels.library import kernels_enabled, variant
from worldsim.model.blocks import RMS_EPS, Block, Direction, PartView, UnitTime, rms
from worldsim.model.cache import Cache
from worldsim.model.conditioning import Conditioning
from worldsim.model.part_drawing import PartDrawing
from worldsim.model.passes import LatentPrediction, PreparedUnit, schedule
from worldsim.model.protocol import LatentForm
from worldsim.model.rope import rope_frequencies
from worldsim.model.unit_layout import UnitLayout
from worldsim.registry import register
from worldsim.units import Unit


@register("generator", "transformer")
@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerConfig:
    """A block-causal transformer."""

    width: int = 192
    layers: int = 4
    heads: int = 6
    registers: int = 4
    """Extra tokens, at least one; the first is the agent's, which the heads read."""
    temporal_every: int = 2
    """One block in this many has temporal attention."""
    context: int = 12
    """Units of past that a clip shows in training, and an engine by default."""
    max_context: int | None = None
    """Units of past that an engine may show at most; None: more than in training, too."""
    sinks: int = 1
    prediction: Literal["clean", "velocity"] = "clean"
    """Output of the last layer: the clean latent, or the velocity from noise to it (flow matching)."""
    time_axis: bool = False
    """Rotate a share of each head by the frame within the unit even where units have one frame, as longer
    units do: weights can then be taken from a model of longer units."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width // self.heads % 8:
            raise ConfigError(
                "a head must have a multiple of 8 channels", (self.width, self.heads), "change width or heads"
            )
        if not 0 <= self.sinks < self.context:
            raise ConfigError("sinks must be fewer than the context's frames", (self.sinks, self.context))
        if self.registers < 1 or not 1 <= self.temporal_every <= self.layers:
            rule = "a generator needs a register and a temporal block: 1 <= temporal_every <= layers"
            raise ConfigError(rule, (self.registers, self.temporal_every, self.layers))

    def build(self, unit: Unit, latent: LatentForm, prior_channels: int, condition_size: int) -> Transformer:
        """The transformer, with fresh weights."""
        return Transformer(self, unit, latent, prior_channels, condition_size)


class Transformer(PartDrawing):
    """Predicts clean latents; causal over units, free within a unit as its mask allows.

    A unit of several parts (``Unit.order``) is drawn part by part: each sees the parts before it, finished.
    """

    direction: Direction

    def __init__(
        self,
        config: TransformerConfig,
        unit: Unit,
        latent: LatentForm,
        prior_channels: int,
        condition_size: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.width = width = config.width
        self.context, self.min_context = config.context, max(2, config.sinks + 1)
        self.max_context = config.max_context
        self.tokens, self._bounded, self.prediction = unit.tokens, latent.bounded, config.prediction
        self.latent_in = nn.Linear(latent.channels, width)
        self.prior_in = nn.Linear(prior_channels, width)
        self.position = nn.Parameter(torch.randn(unit.tokens, width) * 0.02)
        self.registers = nn.Parameter(torch.randn(config.registers, width) * 0.02)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, temporal=i % config.temporal_every == config.temporal_every - 1)
            for i in range(config.layers)
        )
        self.conditioning = Conditioning(condition_size, width, config.layers)
        self.norm = nn.RMSNorm(width)
        self.out = nn.Linear(width, latent.channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self._rope: Tensor | None
        self._time: UnitTime | None
        self._views: list[PartView]
        self._lay_out(unit, "forward")
        self._kernel: generator_kernel.GeneratorKernel | None = None
        self._prior_in_kernel: Dense | None = None

    def _lay_out(self, unit: Unit, direction: Direction) -> None:
        """Set all that follows from the unit and from the direction in which it is seen."""
        # A unit of one frame needs no axis of time: all of a head turns with rows and columns.
        has_time = unit.frames > 1 or self.config.time_axis
        layout = UnitLayout(unit, self.config.registers, direction, has_time)
        self.layout, self.order, self.direction = layout, layout.order, direction
        for name in ("positions", "mask", "part_of"):
            self.register_buffer(name, getattr(layout, name), persistent=False)
        self._rope, self._time, self._views = None, None, []

    def for_unit(self, unit: Unit) -> Transformer:
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

    def look(self, direction: Direction) -> Transformer:
        """See units in another direction from now on; a world's own generator looks forward."""
        device = self.positions.device
        self._lay_out(self.layout.unit, direction)
        return self.to(device)

    @property
    def channels_of_head(self) -> int:
        return self.config.width // self.config.heads

    @property
    def predicts_velocity(self) -> bool:
        return self.config.prediction == "velocity"

    @property
    def time(self) -> UnitTime | None:
        """Frames and places of a unit's tokens; None where units have one frame."""
        device = self.positions.device
        if self._time is None or self._time.places.device != device:
            self._time = self.layout.time(self.channels_of_head, device)
        return self._time

    @property
    def uses_kernels(self) -> bool:
        """True where kernels run its inference."""
        return self._kernel is not None

    @property
    def supports_kernels(self) -> bool:
        """True where kernels support such a generator."""
        config, block = self.config, self.blocks[0]
        assert isinstance(block, Block)
        sizes = (config.width, config.width // config.heads, len(self.positions), block.sizes[1])
        plain = self.mask is None and self.layout.frames == 1 and len(self.order) == 1
        return variant() is not None and plain and generator_kernel.supports(*sizes, config.layers)

    def enable_kernels(self) -> None:
        """Use kernels for inference from now on, in float32 on a CPU; the weights must not change."""
        if not self.supports_kernels:
            return
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        self._kernel = generator_kernel.GeneratorKernel(
            (self.latent_in.weight, self.latent_in.bias),
            (self.out.weight, self.out.bias),
            self.registers,
            self.norm.weight,
            self.rope,
            [block.packed() for block in blocks],
        )
        self._prior_in_kernel = Dense(self.prior_in.weight, self.prior_in.bias)
        self.conditioning.enable_kernels()

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
    def temporal_layers(self) -> int:
        """Number of temporal blocks, L."""
        return sum(bool(block.temporal) for block in self.blocks)

    def prepare_inference(self, dtype: torch.dtype) -> None:
        """The generator's own weights and its last norm stay float32: they work on float32."""
        if self.latent_in.weight.device.type == "cpu" and dtype == torch.float32:
            self.enable_kernels()
        if self.latent_in.weight.device.type == "cpu" and dtype == torch.bfloat16:
            for module in (self, *self.blocks):
                make_small_products_invariant(module, self.tokens)
            make_small_products_invariant(self.conditioning, 1)
        for module in self.children():
            if module is not self.norm:
                cast(module, dtype)

    def initial_state(self, batch: int, context: int | None = None) -> Cache:
        """An empty cache for ``batch`` worlds, on the weights' device and in their type."""
        config = self.config
        return Cache.empty(
            layers=self.temporal_layers,
            batch=batch,
            frames=context or config.context,
            tokens=self.tokens + config.registers,
            heads=config.heads,
            dim=config.width // config.heads,
            sinks=config.sinks,
            like=self.latent_in.weight,
            unit=(self.layout.time_frames, self.tokens // self.layout.time_frames),
        )

    def prepare(
        self, state: Cache, prior_tokens: Tensor, condition: Tensor, denoising_steps: int
    ) -> PreparedUnit:
        """Prepare what all passes over one unit share.

        Args:
            state: the units before.
            prior_tokens: what is known of the unit beforehand [B, N, V].
            condition: keys, yaw and twist [B, M].
            denoising_steps: passes to come, K >= 0.
        """
        t, dt = schedule(denoising_steps, prior_tokens.device)
        modulation = self.conditioning(condition[:, None], t, dt)
        return PreparedUnit(state, self.embed(prior_tokens[:, None]), modulation, t)

    def denoise(self, prepared: PreparedUnit, noisy: Tensor, index: int) -> Tensor:
        """The clean latent [B, N, C] that pass ``index`` predicts from a ``noisy`` one."""
        return self._denoise_pass(prepared, noisy, index).clean[:, 0]

    def finish(self, prepared: PreparedUnit, sample: Tensor) -> Tensor:
        """A sample [B, N, C] as a latent."""
        return sample.clamp(-1, 1) if self._bounded else sample

    def commit(
        self, state: Cache, prepared: PreparedUnit, latent: Tensor, needs_agent: bool
    ) -> Tensor | None:
        """Append a unit's clean ``latent`` [B, N, C] to ``state``, in place; returns the agent [B, D].

        None unless it is needed: then the last block does not run.
        """
        if needs_agent:
            clean = self._denoise_pass(prepared, latent, prepared.t.shape[1] - 1)
            keys, values, agent = clean.keys, clean.values, clean.agent[:, 0]
        else:
            noisy, modulation = latent[:, None], prepared.modulation[:, -1:]
            keys, values = self.compute_kv(noisy, prepared.embedded, modulation, prepared.cache)
            agent = None
        state.write(keys[:, :, 0], values[:, :, 0])
        return agent

    def _denoise_pass(self, prepared: PreparedUnit, latent: Tensor, number: int) -> LatentPrediction:
        """The pass of this number over ``latent`` [B, N, C]; reads the cache."""
        now = slice(number, number + 1)
        modulation, t = prepared.modulation[:, now], prepared.t[:, now]
        return self.run(latent[:, None], t, prepared.embedded, modulation, prepared.cache)

    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        dt: Tensor,
        prior_tokens: Tensor,
        condition: Tensor,
        cache: Cache | None = None,
        control_mask: Tensor | None = None,
    ) -> LatentPrediction:
        """One pass over T frames.

        Args:
            noisy: latents [B, T, N, C].
            t: 0 = noise, 1 = clean [B, T], or of each part of a unit [B, T, P].
            dt: how far the denoising step goes, in (0, 1], likewise.
            prior_tokens: the priors, small [B, T, N, V].
            condition: keys, yaw and twist [B, T, M].
            cache: the frames before; read, never written. With a cache T is 1.
            control_mask: False where the condition is withheld, bool [B, T].
        """
        modulation = self.conditioning(condition, t, dt, control_mask)
        return self.run(noisy, t, self.embed(prior_tokens), modulation, cache)

    def embed(self, prior_tokens: Tensor) -> Tensor:
        """Embedding of ``prior_tokens`` [B, T, N, V], added to the latents of every pass [B, T, N, D]."""
        if self._prior_in_kernel is not None and kernels_enabled():
            return self._prior_in_kernel(prior_tokens) + self.position
        return self.prior_in(prior_tokens.to(self.prior_in.weight.dtype)).float() + self.position

    def run(
        self, noisy: Tensor, t: Tensor, embedded: Tensor, modulation: Tensor, cache: Cache | None
    ) -> LatentPrediction:
        """``forward`` from ``embed``'s [B, T, N, D] and ``Conditioning``'s modulation [B, T, (P,) 3, L, D].

        Passes over the same frames modulations the first, and get their modulations from one call.
        """
        if cache is not None and (kernel := self._usable_kernel(cache)) is not None:
            return self._run_kernel(kernel, noisy, t, embedded, modulation, cache)
        x = self._token_inputs(noisy, embedded)
        fresh: list[tuple[Tensor, Tensor]] = []
        pasts = cache.read() if cache is not None else [None] * self.temporal_layers
        for block, modulations in zip(self.blocks, modulation.unbind(-2), strict=True):
            past = pasts[len(fresh)] if block.temporal else None
            if modulations.ndim == 5:
                modulations = modulations[:, :, self.part_of]
            x, pair = block(x, modulations, self.rope, self.mask, past, self.time, self.direction)
            if pair is not None:
                fresh.append(pair)
        x = rms(x, RMS_EPS) * self.norm.weight
        keys, values = (torch.stack(part) for part in zip(*fresh, strict=True))
        clean = self.out(x[:, :, : self.tokens].to(self.out.weight.dtype)).float()
        return LatentPrediction(self._to_clean(noisy, t, clean), x[:, :, self.tokens], keys, values)

    def compute_kv(
        self, clean: Tensor, embedded: Tensor, modulation: Tensor, cache: Cache
    ) -> tuple[Tensor, Tensor]:
        """The keys and values that ``run`` gives: all that later frames look at.

        The last temporal block stops at its keys and values: nothing reads its output.
        """
        if (kernel := self._usable_kernel(cache)) is not None:
            made = kernel(clean[:, 0], embedded[:, 0], modulation[:, 0], cache.kernel_layers(), kv_only=True)
            return made[2][:, :, None], made[3][:, :, None]
        x = self._token_inputs(clean, embedded)
        fresh: list[tuple[Tensor, Tensor]] = []
        pasts, per_block = cache.read(), modulation.unbind(3)
        for block, modulations in zip(self.blocks, per_block, strict=True):
            assert isinstance(block, Block)
            if block.temporal and len(fresh) == self.temporal_layers - 1:
                fresh.append(block.compute_kv(x, modulations))
                break
            past = pasts[len(fresh)] if block.temporal else None
            x, pair = block(x, modulations, self.rope, self.mask, past, self.time)
            if pair is not None:
                fresh.append(pair)
        keys, values = (torch.stack(part) for part in zip(*fresh, strict=True))
        return keys, values

    def _usable_kernel(self, cache: Cache) -> generator_kernel.GeneratorKernel | None:
        """The kernel, where it is enabled and supports the cache's context."""
        return self._kernel if kernels_enabled() and cache.context <= generator_kernel.MAX_CONTEXT else None

    def _run_kernel(
        self,
        kernel: generator_kernel.GeneratorKernel,
        noisy: Tensor,
        t: Tensor,
        embedded: Tensor,
        modulation: Tensor,
        cache: Cache,
    ) -> LatentPrediction:
        """``run`` over one frame by kernels."""
        given = (noisy[:, 0], embedded[:, 0], modulation[:, 0], cache.kernel_layers())
        clean, agent, keys, values = kernel(*given, kv_only=False)
        clean = self._to_clean(noisy, t, clean[:, None])
        return LatentPrediction(clean, agent[:, None], keys[:, :, None], values[:, :, None])

    def _token_inputs(self, noisy: Tensor, embedded: Tensor) -> Tensor:
        """Latents and what is known of the frame as the first block takes them [B, T, N + R, D]."""
        x = self.latent_in(noisy.to(self.latent_in.weight.dtype)).float() + embedded
        return torch.cat([x, self.registers.float().expand(*x.shape[:2], -1, -1)], 2)
