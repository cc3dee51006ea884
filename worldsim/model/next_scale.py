"""The next-scale generator: a frame's bits scale after scale, coarse to fine, causal over frames ([VideoAR]).

A token of scale k sees all tokens of the frames before, within the context, and those of its own frame's
scales up to k. Its input is the accumulated features of the coarser scales; the first scale starts from the
accumulated features of the frame before. Positions turn queries and keys along time, rows and columns; coarse
grids are stretched over the finest one (multi-scale temporal RoPE). Every bit's logit leans on the bit that
the frame before has in the same place, and on the bits of its own token that come before it.

Shapes: B batch, T frames, N tokens, n tokens of a pass, G tokens of the finest scale, C bits of a token, D
width, M condition, L layers, K scales, W frames of context, A heads, d channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.casting import cast
from worldsim.errors import ConfigError
from worldsim.kernels.dense_layers import use_dense_layers
from worldsim.kernels.library import variant
from worldsim.model.blocks import RMS_EPS, rms
from worldsim.model.protocol import LatentForm
from worldsim.model.rope import rope_frequencies
from worldsim.model.scale_block import (
    ScaleBlock,
    product,
    shifted,
    window_mask,
)
from worldsim.model.scale_cache import ages, rotated, seen_tokens
from worldsim.model.scale_features import ClipFeatures, PreparedScales, ScaleLogits
from worldsim.model.scale_maps import ScaleMaps
from worldsim.model.state import RingState
from worldsim.registry import register
from worldsim.units import Unit

_PLACE = 16
"""Features of a place that the agent feature is made of."""
_FIRST_SKIP = 2.0
"""Log-odds that a bit repeats, before anything is learnt."""


@register("generator", "next-scale")
@dataclass(frozen=True, kw_only=True, slots=True)
class NextScaleConfig:
    """Sizes of a next-scale generator."""

    width: int = 128
    """Features of a token, D."""
    layers: int = 4
    heads: int = 4
    context: int = 4
    """Frames that a token sees, W, its own included."""
    embedding: int = 128
    """Features of a condition."""
    temporal_rope: bool = True
    """Queries and keys turn with time, too; False, for comparisons: the order of past frames is not told."""
    agent: int = 192
    """Features that reward, end and motion heads and policies read."""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width // self.heads % 8:
            sizes = (self.width, self.heads)
            raise ConfigError("a head must have a multiple of 8 channels", sizes, "change width or heads")
        if min(self.layers, self.embedding, self.agent) < 1 or self.context < 2:
            rule = "a next-scale generator needs a layer, an embedding and a context of two frames"
            raise ConfigError(rule, (self.layers, self.embedding, self.agent, self.context))

    def build(
        self, unit: Unit, latent: LatentForm, prior_channels: int, condition_size: int
    ) -> NextScaleGenerator:
        """The generator, with fresh weights.

        Raises:
            ConfigError: latents that are not bits, or a unit that does not go by their scales.
        """
        if latent.kind != "bits":
            rule = "a next-scale generator needs a tokenizer of bits"
            raise ConfigError(rule, latent.kind, "choose the tokenizer bits")
        areas = [rows * columns for rows, columns in latent.scales]
        if unit.frames != latent.frames or [len(one) for one in unit.order()] != areas:
            rule = "a next-scale generator needs units of one pass per scale"
            raise ConfigError(rule, type(unit).__name__, "choose the unit next-scale")
        return NextScaleGenerator(self, unit, latent, prior_channels, condition_size)


class NextScaleGenerator(nn.Module):
    """Predicts the bits of the next frame, scale after scale."""

    positions: Tensor
    mask: Tensor
    below: Tensor
    min_context = 2

    def __init__(
        self,
        config: NextScaleConfig,
        unit: Unit,
        latent: LatentForm,
        prior_channels: int,
        condition_size: int,
    ) -> None:
        super().__init__()
        self.config, self.tokens, self.channels = config, unit.tokens, latent.channels
        self.maps = ScaleMaps(latent.scales)
        width, bits, count = config.width, latent.channels, len(latent.scales)
        self.bits_in = nn.Parameter(torch.randn(count, bits, width) * 0.5 / bits**0.5)
        self.previous_in = nn.Linear(bits, width, bias=False)
        self.prior_in = nn.Linear(prior_channels, width, bias=False)
        self.context_in = nn.Conv2d(2 * width, width, 3, padding=1)
        self.context_out = nn.Linear(width, width)
        self.position = nn.Parameter(torch.randn(unit.tokens, width) * 0.02)
        self.scale = nn.Parameter(torch.randn(count, width) * 0.1)
        self.embed = nn.Sequential(
            nn.Linear(condition_size, config.embedding),
            nn.SiLU(),
            nn.Linear(config.embedding, config.embedding),
            nn.SiLU(),
        )
        self.null_condition = nn.Parameter(torch.randn(config.embedding) * 0.02)
        self.modulation = nn.Linear(config.embedding, 3 * config.layers * width)
        self.blocks = nn.ModuleList(ScaleBlock(width, config.heads) for _ in range(config.layers))
        self.norm = nn.RMSNorm(width)
        self.out = nn.ModuleList(nn.Linear(width, bits) for _ in range(count))
        self.skip = nn.Parameter(torch.full((count, bits), _FIRST_SKIP))
        self.coupling = nn.Linear(width, bits * bits)
        self.place_in = nn.Linear(2 * width, _PLACE)
        self.agent_in = nn.Linear(_PLACE * self.maps.areas[-1] + width, config.agent)
        self._start()
        self.register_buffer("positions", torch.from_numpy(unit.positions()), persistent=False)
        self.register_buffer("mask", torch.from_numpy(unit.mask()), persistent=False)
        self.register_buffer("below", torch.ones(bits, bits).tril(-1), persistent=False)

    @property
    def supports_kernels(self) -> bool:
        return variant() is not None

    @property
    def width(self) -> int:
        """Length of the agent feature."""
        return self.config.agent

    @property
    def context(self) -> int:
        return self.config.context

    def prepare_inference(self, dtype: torch.dtype) -> None:
        """On a CPU the weights stay float32, and a row's products do not depend on the rows beside it."""
        if self.position.device.type == "cpu":
            use_dense_layers(self)
            return
        for module in self.children():
            if module is not self.norm:
                cast(module, dtype)

    def initial_state(self, batch: int, context: int | None = None) -> RingState:
        """The state of ``batch`` worlds in which nothing has been seen.

        ``context`` bounds the frames that a session may begin with; what a token reaches is fixed.
        """
        config, device = self.config, self.position.device
        bits = (batch, self.tokens, self.channels)
        cache = (batch, config.layers, config.context - 1, self.tokens, config.width)
        tensors = {name: torch.zeros(bits, device=device) for name in ("bits", "before")}
        tensors |= {name: torch.zeros(cache, device=device) for name in ("keys", "values")}
        return RingState(tensors, context=context or config.context, rings=("keys", "values"))

    def clip(
        self,
        bits: Tensor,
        condition: Tensor,
        prior_tokens: Tensor,
        control_mask: Tensor | None = None,
        frame_mask: Tensor | None = None,
    ) -> ClipFeatures:
        """Features of every frame of clips, from the frames before it; what trains.

        Args:
            bits: of T consecutive frames [B, T, N, C].
            condition: that leads into each [B, T, M].
            prior_tokens: the priors, small [B, T, N, V].
            control_mask: False where the condition is withheld, bool [B, T].
            frame_mask: False for frames before that are hidden, oldest first, bool [B, T, W - 1].
        """
        batch, length = bits.shape[:2]
        embedded = self._embed_bits(bits.flatten(0, 1))
        whole = self.maps.whole(embedded).unflatten(0, (batch, length))
        past, before = shifted(whole, 1), shifted(whole, 2)
        previous = shifted(bits, 1)
        two = past.flatten(0, 1), before.flatten(0, 1)
        x, places = self._given(*two, previous.flatten(0, 1), prior_tokens)
        x = (x + self.maps.coarser(embedded)).unflatten(0, (batch, length))
        modulation = self._modulations(condition, control_mask)
        rope = self._rope(torch.arange(length, device=bits.device))
        seen = window_mask(self.mask, self.config.context, length, frame_mask)
        for number, block in enumerate(self._layers()):
            x = block.clip(x, modulation[:, :, :, number], rope, self.config.context, seen)
        return ClipFeatures(self._normed(x), places.unflatten(0, (batch, length)))

    def logits(self, hidden: Tensor, previous: Tensor) -> ScaleLogits:
        """Logits of all scales from features [..., N, D] and the bits of the frame before [..., N, C]."""
        parts = hidden.split(self.maps.areas, -2), previous.split(self.maps.areas, -2)
        base = [self._base(part, old, k) for k, (part, old) in enumerate(zip(*parts, strict=True))]
        return ScaleLogits(torch.cat(base, -2), self._coupling(hidden))

    def agent(self, features: ClipFeatures) -> Tensor:
        """The agent feature of each frame, float32 [B, T, agent].

        It hangs on the frames before and the condition alone: a frame that ends an episode may not exist.
        """
        return self.agent_of(self.agent_inputs(features))

    def agent_inputs(self, features: ClipFeatures) -> Tensor:
        """Inputs of the agent feature [B, T, G 16 + D]."""
        return self._agent_inputs(features.hidden, features.places)

    def agent_of(self, inputs: Tensor) -> Tensor:
        """The agent feature float32 [..., agent] of ``agent_inputs``."""
        return F.silu(self.agent_in(inputs.to(self.agent_in.weight.dtype))).float()

    def prepare(
        self, state: RingState, prior_tokens: Tensor, condition: Tensor, denoising_steps: int
    ) -> PreparedScales:
        """All that the scales share; ``prior_tokens`` [B, N, V], ``condition`` [B, M]."""
        tensors = state.tensors()
        past, before = (self.maps.whole(self._embed_bits(tensors[name])) for name in ("bits", "before"))
        age = ages(state.units, self.config.context - 1)
        turns = self._rope(-torch.arange(self.config.context, device=age.device))[age]
        given, places = self._given(past, before, tensors["bits"], prior_tokens)
        return PreparedScales(
            given=given,
            places=places,
            previous=tensors["bits"],
            modulation=self._modulations(condition, None),
            past=rotated(tensors["keys"], tensors["values"], turns, self.config.heads),
            seen=seen_tokens(age, state.units, self.tokens)[:, None, None],
            units=state.units,
            keys=[condition.new_zeros(0)] * self.config.layers,
            values=[condition.new_zeros(0)] * self.config.layers,
        )

    def unconditioned(self, prepared: PreparedScales) -> PreparedScales:
        """The same frame before its first scale, with the condition withheld."""
        batch, count = len(prepared.given), self.config.layers
        embedded = self.null_condition.expand(batch, -1)
        empty = [prepared.given.new_zeros(0)] * count
        modulation = self._split(self.modulation(embedded))
        return replace(prepared, modulation=modulation, keys=empty, values=[*empty], hidden=[], drawn=[])

    def scale_logits(self, prepared: PreparedScales, bits: Tensor, index: int) -> ScaleLogits:
        """Logits of scale ``index``; of ``bits`` [B, N, C] those of coarser scales are read.

        The scale's keys and values stay in ``prepared``: scales are asked for in their order, each once.
        """
        assert len(prepared.hidden) == index, "scales come coarse to fine"
        rows = self.maps.rows(index)
        x = prepared.given[:, rows]
        if index:
            known = self._embed_bits(bits[:, : rows.start], index)
            x = x + self.maps.coarser_of(known, index)
        hidden = self._run(prepared, x, rows, None)
        prepared.hidden.append(hidden)
        return ScaleLogits(self._base(hidden, prepared.previous[:, rows], index), self._coupling(hidden))

    def denoise(self, prepared: PreparedScales, noisy: Tensor, index: int) -> Tensor:
        """Logits [B, N, C] of scale ``index``, given the bits ``noisy``; 0 for other scales."""
        rows, out = self.maps.rows(index), torch.zeros_like(noisy)
        out[:, rows] = self.scale_logits(prepared, noisy, index).given(noisy[:, rows])
        return out

    def finish(self, prepared: PreparedScales, sample: Tensor) -> Tensor:
        """The bits as they are."""
        return sample

    def commit(
        self, state: RingState, prepared: PreparedScales, latent: Tensor, needs_agent: bool
    ) -> Tensor:
        """Take the bits ``latent`` [B, N, C] as the next frame's and write ``state``; returns the agent.

        Scales that no pass has run over, as those of a given frame, are run over together.
        """
        latent = latent.float()
        self.finish_scales(prepared, latent)
        fresh = {"keys": prepared.keys, "values": prepared.values}
        new = {name: torch.stack(parts, 1).flatten(-2) for name, parts in fresh.items()}
        state.set_next(**new)
        before = state["bits"].clone()  # what it is read from is overwritten
        state.set(bits=latent, before=before)
        return self.agent_of(self._agent_inputs(prepared.hidden[0], prepared.places))

    def finish_scales(self, prepared: PreparedScales, bits: Tensor) -> None:
        """Run one pass over the scales that are not finished, if any, given all ``bits`` [B, N, C]."""
        if len(prepared.hidden) == len(self.maps.areas):
            return
        start = sum(self.maps.areas[: len(prepared.hidden)])
        rows = slice(start, self.tokens)
        x = prepared.given[:, rows] + self.maps.coarser(self._embed_bits(bits))[:, rows]
        prepared.hidden.append(self._run(prepared, x, rows, self.mask[rows]))
        prepared.hidden[:] = torch.cat(prepared.hidden, 1).split(self.maps.areas, 1)

    def _run(self, prepared: PreparedScales, x: Tensor, rows: slice, mask: Tensor | None) -> Tensor:
        """Features [B, n, D] of the tokens ``rows`` from their inputs; keys and values go to ``prepared``.

        ``mask`` bool [n, tokens so far]: what they see of their own frame; None: all so far.
        """
        rope = self._rope(torch.zeros(1, device=x.device))[0, : rows.stop]
        seen = prepared.seen.expand(-1, -1, x.shape[1], -1)
        own = seen.new_ones(x.shape[1], rows.stop) if mask is None else mask[:, : rows.stop]
        seen = torch.cat([seen, own.expand(len(x), 1, -1, -1)], -1)
        for number, block in enumerate(self._layers()):
            before = prepared.keys[number], prepared.values[number]
            past, modulation = prepared.past[number], prepared.modulation[:, :, number]
            x, keys, values = block.step(x, modulation, rope, past, before, seen)
            prepared.keys[number], prepared.values[number] = keys, values
        return self._normed(x)

    def _given(
        self, past: Tensor, before: Tensor, previous: Tensor, prior_tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Inputs [R, N, D] that do not hang on the frame's own bits, and the places [R, G 16].

        ``past`` and ``before`` [R, G, D] are the accumulated features of the two frames before, ``previous``
        [R, N, C] the bits of the one before.
        """
        change = torch.cat([past, past - before], -1).transpose(1, 2).unflatten(2, self.maps.grid)
        near = self.context_in(change.to(self.context_in.weight.dtype).contiguous())
        context = self.context_out(F.silu(near).flatten(2).transpose(1, 2))
        own = self.position + self.scale[self.maps.scale_of]
        x = self.maps.spread(context) + self.previous_in(previous) + own
        prior = prior_tokens.reshape(len(x), self.tokens, -1).to(self.prior_in.weight.dtype)
        both = torch.cat([context.to(past.dtype), past], -1).to(self.place_in.weight.dtype)
        places = F.silu(self.place_in(both)).flatten(1)
        return x + self.prior_in(prior) + self.maps.first(past), places

    def _embed_bits(self, bits: Tensor, scales: int | None = None) -> Tensor:
        """``bits`` [R, n, C] of the first ``scales`` scales as features [R, n, D]."""
        areas = self.maps.areas[:scales]
        parts = zip(bits.split(areas, 1), self.bits_in, strict=False)
        return torch.cat([product(part.to(weight.dtype), weight) for part, weight in parts], 1)

    def _modulations(self, condition: Tensor, mask: Tensor | None) -> Tensor:
        """Scale about 1, shift and gate of every layer [..., 3, L, D] from conditions [..., M]."""
        embedded = self.embed(condition.to(self.modulation.weight.dtype))
        if mask is not None:
            embedded = torch.where(mask[..., None], embedded, self.null_condition.to(embedded.dtype))
        return self._split(self.modulation(embedded))

    def _split(self, modulation: Tensor) -> Tensor:
        return modulation.float().unflatten(-1, (3, self.config.layers, -1))

    def _rope(self, time: Tensor) -> Tensor:
        """Rotations complex [T, N, d / 2] of all tokens at ``time`` [T]."""
        dim = self.config.width // self.config.heads
        positions = self.positions.expand(len(time), -1, -1).float()
        when = time[:, None, None].expand(-1, self.tokens, 1).float() * self.config.temporal_rope
        turned = torch.cat([when, positions[..., 1:]], -1)
        return rope_frequencies(turned, (dim // 2, dim // 4, dim // 4))

    def _base(self, hidden: Tensor, previous: Tensor, scale: int) -> Tensor:
        """Logits [..., n, C] of a scale before its bits see each other."""
        return self.out[scale](hidden).float() + self.skip[scale].float() * previous

    def _coupling(self, hidden: Tensor) -> Tensor:
        """Weights [..., n, C, C] of the bits of a token in each other's logits."""
        return self.coupling(hidden).float().unflatten(-1, (self.channels, -1)) * self.below

    def _agent_inputs(self, hidden: Tensor, places: Tensor) -> Tensor:
        """Places [..., G 16] and the mean of the first scale's ``hidden`` [..., n, D], side by side."""
        first = hidden[..., : self.maps.areas[0], :].mean(-2)
        return torch.cat([places, first.to(places.dtype)], -1)

    def _normed(self, x: Tensor) -> Tensor:
        return (rms(x, RMS_EPS) * self.norm.weight).to(self.coupling.weight.dtype)

    def _layers(self) -> list[ScaleBlock]:
        return [block for block in self.blocks if isinstance(block, ScaleBlock)]

    def _start(self) -> None:
        """Let a new generator say that every bit repeats, and layers add half of what they find."""
        for weight in (*self.out.parameters(), *self.coupling.parameters(), self.modulation.weight):
            nn.init.zeros_(weight)
        with torch.no_grad():
            scale, shift, gate = self.modulation.bias.view(3, -1)
            scale.fill_(1.0)
            shift.zero_()
            gate.fill_(0.5)
