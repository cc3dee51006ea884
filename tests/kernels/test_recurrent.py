"""A recurrent generator's kernels and torch give the same frame, whichever worlds lie beside a world."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.compare import both, built, same, threads
from tests.tiny import random_like, stir
from worldsim.kernels.recurrent import supports
from worldsim.model.recurrent import PreparedFrame, RecurrentConfig, RecurrentGenerator
from worldsim.model.state import TensorState
from worldsim.tokenizer.protocol import LatentSpec
from worldsim.units import FrameUnit

pytestmark = built

CONDITION = 5
SIZES: dict[str, Any] = {"width": 48, "layers": 2, "embedding": 16, "head_width": 32, "agent": 16}


def make(rows: int = 0, channels: int = 6, tokens: int = 1, **sizes: Any) -> RecurrentGenerator:
    torch.manual_seed(rows)
    config = RecurrentConfig(**(SIZES | sizes))
    spec = LatentSpec(kind="continuous", tokens=tokens, channels=channels, grid=(1, tokens), bounded=False)
    generator = config.build(FrameUnit(tokens=tokens), spec, 1, CONDITION).eval().requires_grad_(False)
    stir(generator)
    generator.prepare_inference(torch.float32)
    return generator


def begun(generator: RecurrentGenerator, rows: int) -> TensorState:
    """A state in which much has happened."""
    state = generator.initial_state(rows)
    told = state.tensors().items()
    made = {name: random_like(tuple(part.shape), 7 + i) for i, (name, part) in enumerate(told)}
    state.set(**{name: part for name, part in made.items() if name != "index"})
    return state


def answer(generator: RecurrentGenerator, state: TensorState, seed: int = 1) -> list[Tensor]:
    """All that a frame gives, of two passes."""
    rows = len(state.tensors()["index"])
    condition = random_like((16, CONDITION), seed)[:rows]
    noise = random_like((16, 1, generator.channels), seed + 1)[:rows]
    prepared = generator.prepare(state, noise, condition, 2)
    clean = [generator.denoise(prepared, noise, index) for index in range(2)]
    memories = [part for memory in prepared.memories for part in memory.values()]
    return [*_parts(prepared), *memories, *clean]


def _parts(prepared: PreparedFrame) -> list[Tensor]:
    flow = prepared.flow
    return [prepared.features, prepared.base, prepared.agent, flow.entered, flow.modulation]


def check(generator: RecurrentGenerator, rows: int = 3) -> None:
    state = begun(generator, rows)
    quick, slow = both(lambda: answer(generator, state))
    assert len(quick) == len(slow)
    for one, other in zip(quick, slow, strict=True):
        assert one.shape == other.shape
        assert other.std() > 0.01
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize("rows", [1, 2, 7, 53])
@pytest.mark.parametrize("sizes", [(16, 16, 16, 16), (64, 32, 128, 80), (144, 48, 64, 16)])
def test_a_frame_is_torch_s(rows: int, sizes: tuple[int, ...]) -> None:
    width, embedding, head, agent = sizes
    generator = make(width=width, embedding=embedding, head_width=head, agent=agent)
    state = begun(generator, rows)
    condition, noise = random_like((rows, CONDITION), 1), random_like((rows, 1, 6), 2)
    quick, slow = both(lambda: generator.prepare(state, noise, condition, 1))
    for one, other in zip(_parts(quick), _parts(slow), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    made, wanted = both(lambda: generator.denoise(slow, noise, 0))
    torch.testing.assert_close(made, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize(("layers", "blocks", "channels"), [(1, 1, 1), (2, 2, 64), (3, 1, 70), (1, 4, 6)])
def test_any_number_of_layers_and_channels_is_taken(layers: int, blocks: int, channels: int) -> None:
    check(make(layers=layers, head_blocks=blocks, channels=channels))


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize("agent", [16, 48, 208])
@pytest.mark.parametrize("layers", [1, 8])
def test_an_agent_has_a_memory_of_its_own(agent: int, layers: int) -> None:
    check(make(agent=agent, layers=layers, agent_memory=True))


@pytest.mark.usefixtures("each_variant")
@pytest.mark.parametrize("agent_memory", [False, True])
def test_a_world_is_the_same_among_others(agent_memory: bool) -> None:
    generator = make(width=80, agent_memory=agent_memory)
    state = begun(generator, 16)
    whole = answer(generator, state)
    for count in (1, 2, 3, 5, 8):
        made = answer(generator, state.pick(slice(count)))
        for one, other in zip(made, whole, strict=True):
            same(one, other[:count])


@pytest.mark.usefixtures("each_variant")
def test_what_is_no_number_stays_in_its_world() -> None:
    generator = make()
    state = begun(generator, 7)
    whole, spoilt = answer(generator, state), state.pick(slice(None))
    for part in spoilt.tensors().values():
        if part.is_floating_point():
            part[::2] = torch.nan
    for one, other in zip(answer(generator, spoilt), whole, strict=True):
        same(one[1::2], other[1::2])
        assert other.isfinite().all()


@pytest.mark.usefixtures("each_variant")
@pytest.mark.parametrize("rows", [1, 6, 16])
def test_a_frame_is_the_same_on_two_threads(rows: int) -> None:
    generator = make(width=144)
    state = begun(generator, rows)
    with threads(1):
        alone = answer(generator, state)
    with threads(2):
        for _ in range(3):
            same(answer(generator, state), alone)


def test_a_walk_of_many_frames_is_torch_s() -> None:
    generator = make()

    def walk() -> list[Tensor]:
        state, told = generator.initial_state(2), []
        for t in range(6):
            prepared = generator.prepare(state, torch.zeros(2, 1, 1), random_like((2, CONDITION), t), 2)
            sample = generator.denoise(prepared, random_like((2, 1, 6), 50 + t), 1)
            latent = generator.finish(prepared, sample)
            told += [latent, generator.commit(state, prepared, latent, True)]
        return told + [part.float() for part in state.tensors().values()]

    quick, slow = both(walk)
    for one, other in zip(quick, slow, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_what_is_taught_gets_its_gradients() -> None:
    generator = make().requires_grad_(True)
    with torch.enable_grad():
        prepared = generator.prepare(begun(generator, 2), torch.zeros(2, 1, 1), torch.ones(2, CONDITION), 1)
        (prepared.features.sum() + generator.denoise(prepared, prepared.base, 0).sum()).backward()
    for weight in (generator.latents_in.weight, generator.flow.sample_in.weight):
        assert weight.grad is not None
        assert weight.grad.any()


@pytest.mark.parametrize(
    "sizes",
    [
        *({"tokens": 6}, {"memory": "attention"}, {"layers": 9}),
        *({"width": 24}, {"head_width": 40}, {"embedding": 8}),
    ],
)
def test_what_kernels_are_not_written_for_goes_torch_s_way(sizes: dict[str, Any]) -> None:
    generator = make(**sizes)
    assert not generator.supports_kernels
    state = begun(generator, 2)
    quick, slow = both(lambda: answer(generator, state))
    same(quick, slow)


def test_bfloat16_goes_torch_s_way() -> None:
    generator = RecurrentConfig(**SIZES).build(
        FrameUnit(tokens=1),
        LatentSpec(kind="continuous", tokens=1, channels=6, grid=(1, 1), bounded=False),
        1,
        CONDITION,
    )
    assert generator.supports_kernels
    generator.prepare_inference(torch.bfloat16)
    state = generator.initial_state(1)
    assert generator.prepare(state, torch.zeros(1, 1, 1), torch.zeros(1, CONDITION), 1).features.dtype == (
        torch.bfloat16
    )


def test_sizes_are_held_against_what_kernels_take() -> None:
    assert supports((576, 64, 448, 256), 2, 2)
    assert supports((16,), 8, 17)
    assert not supports((576, 60), 2, 2)
    assert not supports((16,), 9, 2)
    assert not supports((16,), 2, 18)
