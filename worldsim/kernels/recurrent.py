"""A frame of a recurrent generator in two calls; ``model.recurrent`` and ``model.flow_head`` say it in torch.

Of generators whose frames are one token and whose memory is an LSTM.

Shapes: B worlds, C latent channels, M condition, D width, W width of the flow head, F its blocks, A agent
features.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.kernels.dense import DenseData, PackedLinear
from worldsim.kernels.library import NoDeepcopy, Pointer, address, check_struct, kernel, shaped, workspace

_MIXERS, _MEMORIES = 17, 8
"""Mixer blocks and memory layers at most (recurrent.h)."""
_LANES = 16
"""Widths are multiples of it."""

LinearWeights = tuple[Tensor, Tensor]
"""Weight [outputs, inputs] and bias [outputs] of a layer, or scale and shift of a norm."""


class _MixerData(ctypes.Structure):
    _fields_ = (("in_proj", DenseData), ("out_proj", DenseData))


class _LstmData(ctypes.Structure):
    _fields_ = (("scale", Pointer), ("shift", Pointer), ("gates", DenseData), ("output", DenseData))


_LAYERS = ("condition", "embed", "guide", "input", "change", "flow", "films", "agent")


class _Data(ctypes.Structure):
    _fields_ = (
        *((name, DenseData) for name in _LAYERS),
        ("scale", Pointer),
        ("shift", Pointer),
        ("mixers", _MixerData * _MIXERS),
        ("memories", _LstmData * _MEMORIES),
        ("agent_memory", _LstmData),
        *((name, ctypes.c_int32) for name in ("layers", "width", "channels", "remembers")),
    )


class _StateData(ctypes.Structure):
    _fields_ = tuple((name, Pointer) for name in ("hidden", "cell", "new_hidden", "new_cell"))


class _PreparedData(ctypes.Structure):
    _fields_ = tuple((name, Pointer) for name in ("features", "base", "entered", "films", "agent"))


class _HeadData(ctypes.Structure):
    _fields_ = (
        ("input", DenseData),
        ("output", DenseData),
        ("mixers", _MixerData * _MIXERS),
        ("blocks", ctypes.c_int32),
        ("width", ctypes.c_int32),
    )


@dataclass(frozen=True, slots=True)
class MixerWeights:
    """Both layers of a block's channel MLP."""

    in_proj: LinearWeights
    out_proj: LinearWeights


@dataclass(frozen=True, slots=True)
class LstmWeights:
    """A memory layer."""

    norm: LinearWeights
    gates: LinearWeights
    """Weights [4 D, 2 D] of normed input and hidden state; input, forget, new and output gate."""
    output: LinearWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWeights:
    """All that makes a frame's features and what is read from them."""

    condition: LinearWeights
    """First layer of the condition's embedding, with a SiLU behind it, as behind the second."""
    embed: LinearWeights
    guide: LinearWeights
    """Embedding to what enters the token [D], then to scale and shift of each mixer [mixers, 2, D]."""
    input: LinearWeights
    """Latent, then twice its change, to the token [D, 2 C]."""
    change: LinearWeights
    """Features to the latent's mean change [C, D]."""
    flow: LinearWeights
    """Features to the flow head's width [W, D]."""
    films: LinearWeights
    """SiLU of that to scale and shift of each of the head's blocks [F * 2 * W, W]."""
    agent: LinearWeights
    """Features to the agent's, with a SiLU behind it [A, D]."""
    norm: LinearWeights
    mixers: Sequence[MixerWeights]
    """Two before each memory, one after the last."""
    memories: Sequence[LstmWeights]
    agent_memory: LstmWeights | None = None
    """Memory of the agent's features, to which its output is added."""


@dataclass(frozen=True, slots=True)
class RecurrentOutput:
    """Results of one frame; float32."""

    features: Tensor
    """[B, D]"""
    base: Tensor
    """Latent plus mean change [B, C]."""
    entered: Tensor
    """[B, W]"""
    films: Tensor
    """[B, F, 2, W]"""
    agent: Tensor
    """[B, A]"""
    memories: list[tuple[Tensor, Tensor]]
    """Hidden state and cell of each layer after the frame [B, D]; the agent's memory [B, A] comes last."""


def supports(widths: Sequence[int], layers: int, blocks: int) -> bool:
    """True where recurrent.h supports such a generator.

    Args:
        widths: those of tokens, embedding, flow head and agent.
        layers: memory layers.
        blocks: of the flow head.
    """
    few = layers <= _MEMORIES and 2 * layers + 1 <= _MIXERS and blocks <= _MIXERS
    return few and all(width % _LANES == 0 for width in widths)


class RecurrentKernel(NoDeepcopy):
    """Everything of a frame that does not hang on its noise."""

    def __init__(self, weights: StepWeights) -> None:
        checked = ((_Data, "RecurrentData"), (_LstmData, "LstmData"))
        for kind, name in (*checked, (_StateData, "LstmStateData"), (_PreparedData, "PreparedData")):
            check_struct(kind, name)
        layers = [PackedLinear(*getattr(weights, name)) for name in _LAYERS]
        mixers = [_mixer(mixer) for mixer in weights.mixers]
        given = [*weights.memories, *([weights.agent_memory] if weights.agent_memory else [])]
        memories = [(PackedLinear(*lstm.gates), PackedLinear(*lstm.output)) for lstm in given]
        norms = [_plain(norm) for norm in (weights.norm, *(lstm.norm for lstm in given))]
        self._kept = (layers, mixers, memories, norms)
        self._conditions, self._channels = layers[0].inputs, layers[4].outputs
        self._width, self._flow, self._agent = layers[5].inputs, layers[5].outputs, layers[7].outputs
        self._blocks = layers[6].outputs // (2 * self._flow)
        told = [
            _LstmData(*map(address, norm), gates.data, leave.data)
            for norm, (gates, leave) in zip(norms[1:], memories, strict=True)
        ]
        count = len(weights.memories)
        remembers = weights.agent_memory is not None
        self._widths = [self._width] * count + [self._agent] * remembers
        self._data = _Data(
            *(layer.data for layer in layers),
            *map(address, norms[0]),
            _listed(mixers),
            (_LstmData * _MEMORIES)(*told[:count]),
            told[count] if remembers else _LstmData(),
            *(count, self._width, self._channels, remembers),
        )
        self._where = ctypes.addressof(self._data)
        self._workspace_size = kernel("recurrent_workspace", [Pointer], ctypes.c_size_t)(self._where)
        self._run = kernel("recurrent_step", [Pointer, ctypes.c_int, *[Pointer] * 6])

    def __call__(
        self, latent: Tensor, before: Tensor, condition: Tensor, memories: Sequence[tuple[Tensor, Tensor]]
    ) -> RecurrentOutput:
        """The next frame of every world.

        Args:
            latent: of the frame before [B, C].
            before: of the one before that [B, C].
            condition: [B, M].
            memories: hidden state and cell of each layer [B, D], then of the agent's memory [B, A].
        """
        count = len(latent)
        pair = [shaped(part, count, self._channels).float().contiguous() for part in (latent, before)]
        given = shaped(condition, count, self._conditions).float().contiguous()
        old = [
            [shaped(part, count, width).float().contiguous() for part in both]
            for width, both in zip(self._widths, memories, strict=True)
        ]
        new = [(torch.empty(count, width), torch.empty(count, width)) for width in self._widths]
        step = RecurrentOutput(
            features=torch.empty(count, self._width),
            base=torch.empty(count, self._channels),
            entered=torch.empty(count, self._flow),
            films=torch.empty(count, self._blocks, 2, self._flow),
            agent=torch.empty(count, self._agent),
            memories=new,
        )
        pages = [_StateData(*map(address, (*was, *now))) for was, now in zip(old, new, strict=True)]
        states = (_StateData * len(pages))(*pages)
        made = (step.features, step.base, step.entered, step.films, step.agent)
        to, spare = _PreparedData(*map(address, made)), address(workspace(count * self._workspace_size))
        inputs = map(address, (*pair, given))
        self._run(self._where, count, *inputs, ctypes.addressof(states), ctypes.addressof(to), spare)
        return step


class FlowHeadKernel(NoDeepcopy):
    """A pass of the flow head.

    Args:
        enter: noisy sample in [W, C].
        mixers: the blocks.
        leave: SiLU of the last block's to the clean sample [C, W].
    """

    def __init__(self, enter: LinearWeights, mixers: Sequence[MixerWeights], leave: LinearWeights) -> None:
        for kind, name in ((_HeadData, "FlowHeadData"), (_MixerData, "MixerData")):
            check_struct(kind, name)
        ends, both = (PackedLinear(*enter), PackedLinear(*leave)), [_mixer(mixer) for mixer in mixers]
        self._kept = (ends, both)
        self._channels, self._width, self._blocks = ends[0].inputs, ends[0].outputs, len(both)
        self._data = _HeadData(ends[0].data, ends[1].data, _listed(both), self._blocks, self._width)
        self._where = ctypes.addressof(self._data)
        self._workspace_size = kernel("flow_workspace", [Pointer], ctypes.c_size_t)(self._where)
        self._run = kernel("flow_pass", [Pointer, ctypes.c_int, *[Pointer] * 7])

    def __call__(self, noisy: Tensor, entered: Tensor, films: Tensor, times: Tensor, more: Tensor) -> Tensor:
        """The clean sample [B, C] of a noisy one [B, C].

        Args:
            entered: features at the head's width [B, W].
            films: scale and shift by the features [B, F, 2, W].
            times: what the pass adds to every token [W].
            more: what it adds to scale and shift [F, 2, W].
        """
        count, film = len(noisy), (self._blocks, 2, self._width)
        shapes: list[tuple[Tensor, tuple[int, ...]]] = [
            *((noisy, (count, self._channels)), (entered, (count, self._width))),
            *((films, (count, *film)), (times, (self._width,)), (more, film)),
        ]
        given = [shaped(part, *shape).float().contiguous() for part, shape in shapes]
        clean, spare = torch.empty(count, self._channels), address(workspace(count * self._workspace_size))
        self._run(self._where, count, *map(address, given), address(clean), spare)
        return clean


def _mixer(weights: MixerWeights) -> tuple[PackedLinear, PackedLinear]:
    return PackedLinear(*weights.in_proj), PackedLinear(*weights.out_proj)


def _listed(mixers: Sequence[tuple[PackedLinear, PackedLinear]]) -> ctypes.Array[_MixerData]:
    return (_MixerData * _MIXERS)(*(_MixerData(in_proj.data, out_proj.data) for in_proj, out_proj in mixers))


def _plain(norm: LinearWeights) -> list[Tensor]:
    return [part.detach().float().contiguous() for part in norm]
