"""The generator passes by kernels as it does by torch, whatever it remembers."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.kernels.compare import both, built, same, threads
from tests.source_tree import ROOT
from tests.tiny import random_like, stir
from worldsim.kernels.generator import supports
from worldsim.model.cache import Cache
from worldsim.model.transformer import LatentPrediction, Transformer, TransformerConfig
from worldsim.tokenizer.protocol import LatentSpec
from worldsim.units import FrameUnit

pytestmark = built

CONFIG = TransformerConfig(width=64, layers=3, heads=4, registers=2, context=6)
GRID = (2, 3)
CHANNELS, PRIOR, CONDITION = 4, 3, 5
LONG_PAST = """
import torch
from tests.kernels.test_generator import check, make
with torch.no_grad():
    check(make(written=(3, 0), context=20000))
"""
WRITTEN = (0, 3, 6, 11, 1, 5)
"""Frames that each world has behind it: none, some, as many as are held, and more."""


@dataclass(frozen=True)
class BenchCase:
    """A generator and what it is asked."""

    generator: Transformer
    noisy: Tensor
    t: Tensor
    dt: Tensor
    prior_tokens: Tensor
    control: Tensor
    cache: Cache

    def only(self, rows: Tensor) -> BenchCase:
        """Some of the worlds."""
        parts = {name: getattr(self, name)[rows] for name in ("noisy", "t", "dt", "prior_tokens", "control")}
        return BenchCase(self.generator, **parts, cache=self.cache.pick(rows))

    def modulation(self) -> Tensor:
        return self.generator.conditioning(self.control, self.t, self.dt)

    def forward(self) -> LatentPrediction:
        return self.generator(self.noisy, self.t, self.dt, self.prior_tokens, self.control, self.cache)

    def run(self, embedded: Tensor, modulation: Tensor) -> LatentPrediction:
        return self.generator.run(self.noisy, self.t, embedded, modulation, self.cache)

    def compute_kv(self, embedded: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
        return self.generator.compute_kv(self.noisy, embedded, modulation, self.cache)


def make_generator(
    config: TransformerConfig = CONFIG, grid: tuple[int, int] = GRID, channels: int = CHANNELS
) -> Transformer:
    torch.manual_seed(0)
    unit = FrameUnit(tokens=grid[0] * grid[1], grid=grid)
    latent = LatentSpec(kind="continuous", tokens=unit.tokens, channels=channels, grid=grid, bounded=True)
    generator = config.build(unit, latent, PRIOR, CONDITION).eval().requires_grad_(False)
    stir(generator)
    return generator


def make(
    config: TransformerConfig = CONFIG,
    grid: tuple[int, int] = GRID,
    written: tuple[int, ...] = WRITTEN,
    context: int | None = None,
    channels: int = CHANNELS,
) -> BenchCase:
    """``context``: frames that are held, if not as many as the generator's own."""
    generator, count = make_generator(config, grid, channels), len(written)
    generator.enable_kernels()
    assert generator.uses_kernels
    cache = generator.initial_state(count, context)
    page = (generator.temporal_layers, 1, *cache.keys.shape[3:])
    for row, frames in enumerate(written):
        for number in range(frames):
            seed = 100 * row + number
            cache.over(slice(row, row + 1)).write(random_like(page, seed), random_like(page, seed + 50))
    return BenchCase(
        generator=generator,
        noisy=random_like((count, 1, generator.tokens, channels), 0),
        t=random_like((count, 1), 1).sigmoid(),
        dt=random_like((count, 1), 2).sigmoid(),
        prior_tokens=random_like((count, 1, generator.tokens, PRIOR), 3),
        control=random_like((count, 1, CONDITION), 4),
        cache=cache,
    )


def check(case: BenchCase) -> None:
    """A whole pass, and what is remembered."""
    quick, slow = both(case.forward)
    close(told(quick), told(slow))
    assert all(part.std() > 0.1 for part in told(slow))
    embedded, modulation = case.generator.embed(case.prior_tokens), case.modulation()
    close(*both(lambda: case.compute_kv(embedded, modulation)))


def told(prediction: LatentPrediction) -> tuple[Tensor, ...]:
    return tuple(getattr(prediction, field.name) for field in dataclasses.fields(prediction))


def close(made: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for one, other in zip(made, wanted, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize(("width", "heads"), [(64, 4), (64, 2), (64, 1), (128, 4), (192, 4), (128, 8)])
def test_it_passes_in_any_width(width: int, heads: int) -> None:
    check(make(dataclasses.replace(CONFIG, width=width, heads=heads)))


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize(
    ("layers", "temporal_every"), [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (4, 2), (3, 3)]
)
@pytest.mark.parametrize("prediction", ["clean", "velocity"])
def test_it_passes_through_any_blocks(layers: int, temporal_every: int, prediction: str) -> None:
    check(
        make(dataclasses.replace(CONFIG, layers=layers, temporal_every=temporal_every, prediction=prediction))
    )


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize(
    ("grid", "registers"), [((1, 1), 1), ((3, 5), 1), ((7, 9), 1), ((7, 9), 2), ((10, 13), 5), ((14, 18), 4)]
)
def test_it_passes_over_as_many_tokens(grid: tuple[int, int], registers: int) -> None:
    check(make(dataclasses.replace(CONFIG, registers=registers), grid, WRITTEN[:2]))


@pytest.mark.usefixtures("fenced")
@pytest.mark.parametrize("channels", [1, 16, 64, 70])
def test_it_passes_latents_of_any_size(channels: int) -> None:
    check(make(channels=channels))


@pytest.mark.usefixtures("each_variant", "fenced")
@pytest.mark.parametrize(("context", "sinks"), [(1, 0), (15, 1), (16, 3), (40, 0)])
def test_it_looks_at_a_past_of_any_length(context: int, sinks: int) -> None:
    written = (0, context - 1, context, context + 3, 1)
    check(make(dataclasses.replace(CONFIG, context=context, sinks=sinks), written=written))


def test_what_is_not_filled_is_not_looked_at() -> None:
    case = make()
    cache = case.cache.pick(slice(None))
    free = cache.written < 0
    assert free.any()
    cache.keys[:, free] = cache.values[:, free] = 1e4
    same(told(dataclasses.replace(case, cache=cache).forward()), told(case.forward()))


@pytest.mark.slow
def test_a_past_longer_than_kernels_hold_is_looked_at_all_the_same() -> None:
    """In a process of its own: what overran its memory could end this one."""
    done = subprocess.run([sys.executable, "-c", LONG_PAST], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("each_variant")
@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_world_is_the_same_among_others(count: int) -> None:
    case = make()
    embedded, modulation = case.generator.embed(case.prior_tokens), case.modulation()
    whole = case.run(embedded, modulation)
    remembered = case.compute_kv(embedded, modulation)
    for i in range(0, len(WRITTEN), count):
        rows = torch.arange(i, min(i + count, len(WRITTEN)))
        some = case.only(rows)
        same(some.generator.embed(some.prior_tokens), embedded[rows])
        made = some.run(embedded[rows], modulation[rows])
        same((made.clean, made.agent), (whole.clean[rows], whole.agent[rows]))
        same((made.keys, made.values), (whole.keys[:, rows], whole.values[:, rows]))
        wanted = tuple(part[:, rows] for part in remembered)
        same(some.compute_kv(embedded[rows], modulation[rows]), wanted)


@pytest.mark.usefixtures("each_variant")
def test_what_is_no_number_stays_in_its_world() -> None:
    case = make()
    embedded, modulation = case.generator.embed(case.prior_tokens), case.modulation()
    whole = case.run(embedded, modulation)
    case.noisy[::2], embedded[1] = torch.nan, torch.inf
    rows = torch.tensor([3, 5])
    made = case.run(embedded, modulation)
    same((made.clean[rows], made.keys[:, rows]), (whole.clean[rows], whole.keys[:, rows]))


@pytest.mark.usefixtures("each_variant")
@pytest.mark.parametrize("count", [1, 6])
def test_a_pass_is_the_same_on_two_threads(count: int) -> None:
    case = make(written=WRITTEN[-count:])
    embedded, modulation = case.generator.embed(case.prior_tokens), case.modulation()
    alone = (*told(case.run(embedded, modulation)), *case.compute_kv(embedded, modulation))
    with threads(2):
        for _ in range(3):
            same((*told(case.run(embedded, modulation)), *case.compute_kv(embedded, modulation)), alone)


def test_callers_at_the_same_time_do_not_meet() -> None:
    case = make()
    embedded, modulation = case.generator.embed(case.prior_tokens), case.modulation()
    parts = [torch.arange(i, i + 2) for i in (0, 2, 4)]
    cases = [(case.only(rows), embedded[rows], modulation[rows]) for rows in parts]
    wanted = [one.run(*given) for one, *given in cases]

    def work(number: int) -> list[LatentPrediction]:
        one, *given = cases[number]
        with torch.no_grad():
            return [one.run(*given) for _ in range(10)]

    with ThreadPoolExecutor(3) as pool:
        for made, right in zip(pool.map(work, range(3)), wanted, strict=True):
            for one in made:
                same(told(one), told(right))


def test_each_of_several_passes_has_a_modulation_of_its_own() -> None:
    case = make()
    t, step = torch.tensor([[0.0, 0.5, 0.9]]), torch.tensor([[0.5, 0.4, 0.1]])
    modulation = case.generator.conditioning(case.control, t, step)
    embedded = case.generator.embed(case.prior_tokens)
    for i in range(3):
        share = modulation[:, i : i + 1]
        assert not share.is_contiguous()
        same(told(case.run(embedded, share)), told(case.run(embedded, share.contiguous())))
        same(case.compute_kv(embedded, share), case.compute_kv(embedded, share.contiguous()))
    shared = modulation[:1, :1].expand(len(WRITTEN), -1, -1, -1, -1)
    same(told(case.run(embedded, shared)), told(case.run(embedded, shared.contiguous())))
    quick, slow = both(lambda: case.generator.conditioning(case.control, t, step))
    torch.testing.assert_close(quick, slow, atol=1e-5, rtol=1e-5)


def test_a_whole_clip_is_passed_the_slow_way() -> None:
    case = make()
    clip = [part.transpose(0, 1) for part in (case.noisy, case.t, case.dt, case.prior_tokens, case.control)]
    quick, slow = both(lambda: case.generator(*clip))
    close(told(quick), told(slow))


def test_a_withheld_control_is_not_read_by_kernels() -> None:
    case = make()
    control_mask = torch.zeros(len(WRITTEN), 1, dtype=torch.bool)
    given = (case.noisy, case.t, case.dt, case.prior_tokens)
    quick, slow = both(lambda: case.generator(*given, case.control, case.cache, control_mask))
    close(told(quick), told(slow))
    same(told(case.generator(*given, case.control + 7, case.cache, control_mask)), told(quick))


def test_what_is_taught_gets_its_gradients() -> None:
    case = make()
    case.generator.requires_grad_(True)
    with torch.enable_grad():
        case.forward().clean.square().mean().backward()
    weight = case.generator.latent_in.weight
    assert weight.grad is not None
    assert weight.grad.any()


@pytest.mark.parametrize(
    ("sizes", "suited"),
    [
        ((64, 16, 100, 192, 4), True),
        ((192, 32, 256, 512, 16), True),
        ((96, 16, 100, 256, 4), False),
        ((64, 8, 100, 192, 4), False),
        ((320, 80, 100, 192, 4), False),
        ((64, 16, 257, 192, 4), False),
        ((64, 16, 100, 200, 4), False),
        ((64, 16, 100, 192, 17), False),
    ],
)
def test_what_it_is_not_written_for_is_refused(sizes: tuple[int, ...], suited: bool) -> None:
    assert supports(*sizes) == suited


@pytest.mark.parametrize(
    "changed", [{"width": 96, "heads": 6}, {"heads": 8}, {"width": 320, "heads": 4}, {"layers": 17}]
)
def test_a_generator_of_other_sizes_stays_as_it_is(changed: dict[str, int]) -> None:
    generator = make_generator(dataclasses.replace(CONFIG, **changed))
    generator.enable_kernels()
    assert not generator.uses_kernels


def test_a_generator_of_too_many_tokens_stays_as_it_is() -> None:
    generator = make_generator(grid=(15, 17))
    generator.enable_kernels()
    assert not generator.uses_kernels
