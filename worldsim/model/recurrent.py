"""A recurrent generator: it carries the world in a memory of constant size, one frame after another.

The features of frame t come from the latents of the two frames before, the condition that leads into frame t
and a memory ([Spiral], section 5.2: s_t = f(s_(t-1), a_(t-1))). The mean of the latent's *change* is read
from them, and a joint flow head samples what remains. The memory is an LSTM, or attention over a window of
past frames (a transformer over space and time with the same head).

Shapes: B batch, T frames, N tokens, C latent channels, D width, M condition, A agent features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.casting import cast
from worldsim.errors import ConfigError
from worldsim.kernels.library import kernels_enabled
from worldsim.model.flow_head import FlowCondition, FlowHead
from worldsim.model.mixer import MixerBlock, Modulation
from worldsim.model.protocol import LatentForm
from worldsim.model.recurrent_kernels import RecurrentKernels, supports_kernels
from worldsim.model.state import TensorState
from worldsim.model.temporal import AttentionMemory, LstmMemory, MemoryState
from worldsim.registry import register
from worldsim.units import Unit

_LONGEST = 500.0
"""Frames that an agent's memory reaches back at first."""


@register("generator", "recurrent")
@dataclass(frozen=True, kw_only=True, slots=True)
class RecurrentConfig:
    """Sizes of a recurrent generator."""

    width: int = 192
    """Features of a token, D."""
    layers: int = 2
    """Memory layers; mixer blocks stand before each and after the last."""
    memory: Literal["lstm", "attention"] = "lstm"
    context: int = 16
    """Frames that a session begins with at most, and that an attention memory sees, this one included."""
    heads: int = 6
    """Heads of an attention memory."""
    embedding: int = 64
    """Features of a condition."""
    head_width: int = 192
    """Width of the flow head."""
    head_blocks: int = 2
    agent: int = 256
    """Features that reward, end and motion heads and policies read, A."""
    agent_memory: bool = False
    """The agent's features hold an LSTM's memory of all of them so far: what no frame shows and no next frame
    hangs on, e.g. the hits that a player has taken."""

    def __post_init__(self) -> None:
        sizes = (self.width, self.layers, self.head_width, self.head_blocks, self.agent)
        if min(sizes) < 1 or self.context < 2:
            raise ConfigError("a recurrent generator's sizes must be positive, context >= 2", sizes)
        if self.memory == "attention" and (self.width % self.heads or self.width // self.heads % 2):
            raise ConfigError("an attention memory's width must be heads x an even number", self.width)

    def build(
        self, unit: Unit, latent: LatentForm, prior_channels: int, condition_size: int
    ) -> RecurrentGenerator:
        """The generator with fresh weights.

        Raises:
            ConfigError: latents that are not continuous, or units of several frames or parts.
        """
        if latent.kind != "continuous" or unit.frames != 1 or len(unit.order()) != 1:
            rule = "a recurrent generator needs continuous latents and units of one frame in one part"
            raise ConfigError(rule, (latent.kind, unit.frames, len(unit.order())), "choose the transformer")
        return RecurrentGenerator(self, unit.tokens, latent.channels, condition_size, latent.bounded)


@dataclass(frozen=True, slots=True)
class PreparedFrame:
    """All that the passes over one frame share."""

    features: Tensor
    """[B, N, D]"""
    base: Tensor
    """The latent's mean: that of the frame before plus the mean change, float32 [B, N, C]."""
    agent: Tensor
    """The agent's features, float32 [B, A]."""
    flow: FlowCondition
    denoising_steps: int
    memories: list[MemoryState]
    """After this frame, for each layer; the agent's comes last, if it has one."""


class RecurrentGenerator(nn.Module):
    """Samples the latent of the next frame from a memory of all frames before."""

    remainder_std: Tensor
    min_context = 2

    def __init__(
        self,
        config: RecurrentConfig,
        tokens: int,
        channels: int,
        condition_size: int,
        bounded: bool = False,
    ) -> None:
        super().__init__()
        self._bounded = bounded
        self.config, self.tokens, self.channels = config, tokens, channels
        width, embedding = config.width, config.embedding
        self.latents_in = nn.Linear(2 * channels, width)
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.embed = nn.Sequential(
            nn.Linear(condition_size, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.condition_in = nn.Linear(embedding, width)
        self.blocks = nn.ModuleList(MixerBlock(tokens, width) for _ in range(2 * config.layers + 1))
        counts = [block.modulations for block in self.blocks if isinstance(block, MixerBlock)]
        self.modulation = Modulation(embedding, width, counts)
        self.memories = nn.ModuleList(self._memory() for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.mean_change = nn.Linear(width, channels)
        nn.init.zeros_(self.mean_change.weight)
        self.flow = FlowHead(tokens, channels, width, config.head_width, config.head_blocks)
        self.agent_in = nn.Linear(tokens * width, config.agent)
        self.agent_memory = LstmMemory(config.agent, _LONGEST) if config.agent_memory else None
        self.register_buffer("remainder_std", torch.ones(tokens, channels))
        self._kernels: RecurrentKernels | None = None

    @property
    def width(self) -> int:
        """Length of the agent's features, A."""
        return self.config.agent

    @property
    def context(self) -> int:
        return self.config.context

    @property
    def supports_kernels(self) -> bool:
        """True where kernels support such a generator."""
        return supports_kernels(self.config, self.tokens)

    def prepare_inference(self, dtype: torch.dtype) -> None:
        if self.supports_kernels and self.position.device.type == "cpu" and dtype == torch.float32:
            self._kernels = RecurrentKernels(self)
        for module in self.children():
            cast(module, dtype)

    def initial_state(self, batch: int, context: int | None = None) -> TensorState:
        """The state of ``batch`` worlds in which nothing has been seen.

        ``context`` bounds the frames that a session may begin with; what the memory reaches is fixed.
        """
        device, shape = self.position.device, (batch, self.tokens, self.channels)
        tensors = {name: torch.zeros(shape, device=device) for name in ("latent", "before")}
        tensors["index"] = torch.zeros(batch, dtype=torch.int64, device=device)
        for number, memory in enumerate(self._memory_layers()):
            initial = memory.initial(batch, self.tokens, device)
            tensors |= {f"{number}.{name}": value for name, value in initial.items()}
        if self.agent_memory is not None:
            initial = self.agent_memory.initial(batch, 1, device)
            tensors |= {f"{len(self.memories)}.{name}": value for name, value in initial.items()}
        return TensorState(tensors, context=context or self.config.context)

    def clip(
        self, latents: Tensor, conditions: Tensor, memories: list[MemoryState] | None = None
    ) -> tuple[Tensor, list[MemoryState]]:
        """Features of the frames that follow each of ``latents``; what trains.

        Args:
            latents: of T consecutive frames [B, T, N, C].
            conditions: that lead into the frame after each [B, T, M].
            memories: before the clip; None: nothing has happened.

        Returns:
            Features [B, T, N, D], and the memories after the clip.
        """
        before = torch.cat([latents[:, :1], latents[:, :-1]], 1)
        x, modulations = self._token_inputs(latents, before, conditions)
        after: list[MemoryState] = []
        for number, layer in enumerate(self._memory_layers()):
            x = self._mix(x, modulations, number)
            y, memory = layer.clip(x, None if memories is None else memories[number])
            x = x + y
            after.append(memory)
        return self.norm(self.blocks[-1](x, modulations[-1])), after

    def prepare(
        self, state: TensorState, prior_tokens: Tensor, condition: Tensor, denoising_steps: int
    ) -> PreparedFrame:
        """Features of the next frame; ``prior_tokens`` are not read, ``condition`` is [B, M]."""
        tensors = state.tensors()
        if self._kernels is not None and kernels_enabled():
            return self._prepare_by_kernels(self._kernels, tensors, condition, denoising_steps)
        x, modulations = self._token_inputs(tensors["latent"], tensors["before"], condition)
        after: list[MemoryState] = []
        for number, layer in enumerate(self._memory_layers()):
            x = self._mix(x, modulations, number)
            y, memory = layer.step(x, _layer_state(tensors, number))
            x = x + y
            after.append(memory)
        features = self.norm(self.blocks[-1](x, modulations[-1]))
        base = tensors["latent"] + self.mean_change(features).float()
        agent = self.agent_inputs(features)
        if self.agent_memory is not None:
            given = agent[:, None].to(features.dtype)
            change, memory = self.agent_memory.step(given, _layer_state(tensors, len(after)))
            agent = agent + change[:, 0].float()
            after.append(memory)
        return PreparedFrame(features, base, agent, self.flow.condition(features), denoising_steps, after)

    def denoise(self, prepared: PreparedFrame, noisy: Tensor, index: int) -> Tensor:
        """The clean remainder, in units of its deviation, from ``noisy`` [B, N, C] in pass ``index``."""
        steps, device = prepared.denoising_steps, noisy.device
        if self._kernels is not None and kernels_enabled():
            return self._kernels.denoise(prepared.flow, noisy, index / steps, 1 / steps)
        t, dt = (torch.full((1,), value, device=device) for value in (index / steps, 1 / steps))
        return self.flow(prepared.flow, noisy, t, dt)

    def finish(self, prepared: PreparedFrame, sample: Tensor) -> Tensor:
        """The latent [B, N, C] of a remainder [B, N, C]."""
        latent = prepared.base + self.remainder_std * sample
        return latent.clamp(-1, 1) if self._bounded else latent

    def commit(
        self, state: TensorState, prepared: PreparedFrame, latent: Tensor, needs_agent: bool
    ) -> Tensor:
        """Take ``latent`` [B, N, C] as the next frame's and write ``state``; returns the agent [B, A].

        The first frame of a world follows nothing: its memories stay empty, as in training.
        """
        tensors, latent = state.tensors(), latent.float()
        first = (tensors["index"] == 0)[:, None, None]
        new = {"before": torch.where(first, latent, tensors["latent"]), "latent": latent}
        for number, memory in enumerate(prepared.memories):
            for part, value in memory.items():
                name = f"{number}.{part}"
                row = first.view(-1, *[1] * (value.ndim - 1))
                new[name] = torch.where(row, tensors[name], value)
        state.set(index=tensors["index"] + 1, **new)
        return prepared.agent

    def agent_inputs(self, features: Tensor) -> Tensor:
        """The agent's features before they are remembered, float32 [..., A], of ``features`` [..., N, D]."""
        return F.silu(self.agent_in(features.flatten(-2).to(self.agent_in.weight.dtype))).float()

    def agent_clip(self, features: Tensor) -> Tensor:
        """The agent's features, float32 [B, T, A], of consecutive ``features`` [B, T, N, D].

        Nothing has happened before the clip.
        """
        agent = self.agent_inputs(features)
        if self.agent_memory is None:
            return agent
        change, _ = self.agent_memory.clip(agent[:, :, None], None)
        return agent + change[:, :, 0].float()

    def loss(self, features: Tensor, change: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of rows of features [R, N, D] whose latents changed by ``change`` [R, N, C].

        The mean change is fitted by least squares in units of the remainder's running deviation; the flow
        head learns the remainder, from which no gradient flows back into the mean. Rows count by ``weight``
        [R].
        """
        error = change - self.mean_change(features).float()
        total = weight.sum().clamp(min=1)
        squared = (error.detach().square() * weight[:, None, None]).sum(0) / total
        if self.training:
            self.remainder_std.lerp_(squared.sqrt().clamp(min=1e-3), 0.02)
        scaled = error / self.remainder_std
        flow, fine = self.flow.loss(features, scaled.detach().clamp(-16, 16), weight)
        mean = (scaled.clamp(-20, 20).square().mean((-1, -2)) * weight).sum() / total
        return mean + flow, {"mean_error": squared.mean(), "flow_error": fine}

    def _prepare_by_kernels(
        self, kernels: RecurrentKernels, tensors: dict[str, Tensor], condition: Tensor, denoising_steps: int
    ) -> PreparedFrame:
        """``prepare`` by kernels; ``tensors`` are the state's."""
        count = len(self.memories) + (self.agent_memory is not None)
        shares = [_layer_state(tensors, number) for number in range(count)]
        step = kernels.step(tensors["latent"], tensors["before"], condition, shares)
        return PreparedFrame(
            features=step.features[:, None],
            base=step.base[:, None],
            agent=step.agent,
            flow=FlowCondition(step.entered[:, None], step.films.flatten(1, 2)[:, None]),
            denoising_steps=denoising_steps,
            memories=[{"hidden": hidden[:, None], "cell": cell[:, None]} for hidden, cell in step.memories],
        )

    def _memory(self) -> nn.Module:
        config = self.config
        if config.memory == "lstm":
            return LstmMemory(config.width)
        return AttentionMemory(config.width, config.heads, config.context)

    def _memory_layers(self) -> list[LstmMemory | AttentionMemory]:
        return [layer for layer in self.memories if isinstance(layer, LstmMemory | AttentionMemory)]

    def _token_inputs(self, latent: Tensor, before: Tensor, condition: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Tokens [..., N, D] and every block's modulation [..., 1, count, D]."""
        dtype = self.latents_in.weight.dtype
        pair = torch.cat([latent, 2 * (latent - before)], -1).to(dtype)
        embedded = self.embed(condition.to(dtype))[..., None, :]
        x = self.latents_in(pair) + self.position.to(dtype) + self.condition_in(embedded)
        return x, self.modulation(embedded)

    def _mix(self, x: Tensor, modulations: list[Tensor], layer: int) -> Tensor:
        for number in (2 * layer, 2 * layer + 1):
            x = self.blocks[number](x, modulations[number])
        return x


def _layer_state(tensors: dict[str, Tensor], layer: int) -> MemoryState:
    prefix = f"{layer}."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
