"""A recurrent generator's weights for its kernels, and its shapes [B, 1, ...] to theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from worldsim.kernels.dense import Dense
from worldsim.kernels.library import NoDeepcopy, variant
from worldsim.kernels.recurrent import (
    FlowHeadKernel,
    LinearWeights,
    LstmWeights,
    MixerWeights,
    RecurrentKernel,
    RecurrentOutput,
    StepWeights,
    supports,
)
from worldsim.model.flow_head import FlowCondition
from worldsim.model.mixer import MixerBlock
from worldsim.model.temporal import LstmMemory, MemoryState

if TYPE_CHECKING:
    from worldsim.model.recurrent import RecurrentConfig, RecurrentGenerator


def supports_kernels(config: RecurrentConfig, tokens: int) -> bool:
    """True where kernels support the generator: one token, an LSTM, widths of whole registers."""
    widths = (config.width, config.embedding, config.head_width, config.agent)
    able = variant() is not None and tokens == 1 and config.memory == "lstm"
    return able and supports(widths, config.layers, config.head_blocks)


class RecurrentKernels(NoDeepcopy):
    """The kernels of one generator, whose weights must stay."""

    def __init__(self, generator: RecurrentGenerator) -> None:
        flow = generator.flow
        self._step = RecurrentKernel(_step_weights(generator))
        self._pass = FlowHeadKernel(_linear(flow.sample_in), _mixers(flow.blocks), _linear(flow.out))
        self._times = Dense(*_linear(flow.time_in))
        self._more = Dense(*_linear(flow.time_modulation.linear))
        self._sinusoids = flow.sinusoids
        self._passes: dict[tuple[float, float], tuple[Tensor, Tensor]] = {}

    def step(
        self, latent: Tensor, before: Tensor, condition: Tensor, memories: list[MemoryState]
    ) -> RecurrentOutput:
        """The next frame: ``latent`` and ``before`` [B, 1, C], ``condition`` [B, M]."""
        states = [(state["hidden"][:, 0], state["cell"][:, 0]) for state in memories]
        return self._step(latent[:, 0], before[:, 0], condition, states)

    def denoise(self, condition: FlowCondition, noisy: Tensor, t: float, dt: float) -> Tensor:
        """The clean sample [B, 1, C], as ``FlowHead.forward`` gives it."""
        times, more = self._time_inputs(t, dt)
        films = condition.modulation[:, 0].unflatten(1, (-1, 2))
        return self._pass(noisy[:, 0], condition.entered[:, 0], films, times, more)[:, None]

    def _time_inputs(self, t: float, dt: float) -> tuple[Tensor, Tensor]:
        """Embeddings of ``t`` and ``dt`` that a pass adds in all worlds; cached."""
        if (t, dt) not in self._passes:
            waves = self._sinusoids(torch.tensor([t]), torch.tensor([dt]))
            times = self._times(waves)
            more = self._more(nn.functional.silu(times)).view(-1, 2, times.shape[1])
            self._passes[t, dt] = times[0], more
        return self._passes[t, dt]


def _step_weights(generator: RecurrentGenerator) -> StepWeights:
    embed, latents_in = generator.embed, _linear(generator.latents_in)
    return StepWeights(
        condition=_linear(embed[0]),
        embed=_linear(embed[2]),
        guide=_stacked(_linear(generator.condition_in), _linear(generator.modulation.linear)),
        input=(latents_in[0], latents_in[1] + generator.position[0]),
        change=_linear(generator.mean_change),
        flow=_linear(generator.flow.features_in),
        films=_linear(generator.flow.feature_modulation.linear),
        agent=_linear(generator.agent_in),
        norm=(generator.norm.weight, generator.norm.bias),
        mixers=_mixers(generator.blocks),
        memories=[_lstm(memory) for memory in generator.memories if isinstance(memory, LstmMemory)],
        agent_memory=None if generator.agent_memory is None else _lstm(generator.agent_memory),
    )


def _linear(layer: nn.Module) -> LinearWeights:
    assert isinstance(layer, nn.Linear)
    return layer.weight, layer.bias


def _stacked(first: LinearWeights, second: LinearWeights) -> LinearWeights:
    return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])


def _mixers(blocks: nn.ModuleList) -> list[MixerWeights]:
    found = [block for block in blocks if isinstance(block, MixerBlock)]
    return [MixerWeights(_linear(block.channels_in), _linear(block.channels_out)) for block in found]


def _lstm(memory: LstmMemory) -> LstmWeights:
    of_input, of_hidden, bias_input, bias_hidden = memory.weights()
    gates = torch.cat([of_input, of_hidden], 1), bias_input + bias_hidden
    return LstmWeights((memory.norm.weight, memory.norm.bias), gates, _linear(memory.out))
