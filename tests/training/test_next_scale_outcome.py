"""Reward and end of next-scale worlds, after recorded pasts and after imagined ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import stir
from tests.training.rooms import write_walks
from worldsim.data.clips import ClipStore
from worldsim.networks import Networks
from worldsim.tokenizer.protocol import quantises_scales
from worldsim.training import next_scale_pasts
from worldsim.training.distillation.rollout import roll_out
from worldsim.training.latent_dynamics_objective import WindowDraw
from worldsim.training.next_scale import NextScaleRecipe
from worldsim.training.next_scale_objective import NextScaleObjective
from worldsim.training.next_scale_outcome import NextScaleOutcomeObjective
from worldsim.training.next_scale_pasts import ArrivalInputs, EpisodeSpan, ImaginedStretch, NextScalePasts
from worldsim.training.sequences import Sequences

TINY = NextScaleRecipe(
    bits=4,
    pool=3,
    tokenizer_width=8,
    token_width=8,
    tokenizer_depth=1,
    width=16,
    layers=2,
    heads=2,
    context=3,
)
LENGTHS = {1: 60, 3: 41, 5: 12, 20: 40}
BATCH = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_walks(tmp_path_factory.mktemp("walks"), LENGTHS, poses=False)


def objective(
    data: Path, imagined: float, recipe: NextScaleRecipe = TINY
) -> tuple[NextScaleOutcomeObjective, Networks, Sequences]:
    """An outcome objective over stirred networks."""
    clips = ClipStore(data)
    torch.manual_seed(0)
    networks = Networks(recipe.plan(clips.spec, clips.poses), clips.spec).eval()
    stir(networks, scale=0.2)
    sequences = Sequences(clips, networks.device)
    dynamics = NextScaleObjective(networks, sequences, WindowDraw(length=4), short=2)
    made = NextScaleOutcomeObjective(networks, sequences, dynamics, BATCH, imagined)
    return made, networks, sequences


def recorded_bits(pasts: NextScalePasts, stretches: list[ImaginedStretch]) -> list[torch.Tensor]:
    """The recorded bits in the place of imagined ones."""
    return [
        pasts._planes.bits(pasts._latents(stretch.episode, stretch.begin, stretch.end))
        for stretch in stretches
    ]


def encoded(networks: Networks, sequences: Sequences, arrivals: torch.Tensor) -> torch.Tensor:
    """Bits [B, T, N, C] of the latents of ``arrivals`` [B, T, F], from planes that are not rounded."""
    frames = sequences.pixels(sequences.frame[arrivals.flatten(0, 1)])
    with torch.no_grad():
        planes = quantises_scales(networks.tokenizer).planes(frames)
        return quantises_scales(networks.tokenizer).quantise(planes).bits.unflatten(0, arrivals.shape[:2])


def by_arrival(inputs: ArrivalInputs, count: int) -> torch.Tensor:
    """Inputs float32 [A, D] of all arrivals; 0 where there are none."""
    table = torch.zeros(count, inputs.inputs.shape[1])
    table[inputs.arrivals] = inputs.inputs.float()
    return table


def test_without_imagined_pasts_batches_are_those_of_recorded_arrivals(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is imagined, and no chance is spent: the same arrivals as ever are drawn."""
    outcome, _, sequences = objective(data, 0.0)
    drawn: list[torch.Tensor] = []
    monkeypatch.setattr(NextScalePasts, "imagine", None)
    outcome.start()
    monkeypatch.setattr(
        "worldsim.training.next_scale_outcome.outcome_loss",
        lambda heads, sequences, arrivals, agent, weight: (drawn.append(arrivals), {}),
    )
    outcome(np.random.default_rng(7), 0.0)
    rng = np.random.default_rng(7)
    firsts = np.flatnonzero(sequences.is_first)
    lasts = np.append(firsts[1:], len(sequences))
    known = [n for number in rng.permutation(len(firsts)) for n in range(firsts[number] + 1, lasts[number])]
    rng.integers(2**62)
    assert drawn[0].tolist() == rng.choice(known, BATCH).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 4])
def test_features_after_imagined_bits_that_equal_the_recorded_ones_equal_the_recorded_features(
    data: Path, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NextScalePasts, "imagine", recorded_bits)
    monkeypatch.setattr(next_scale_pasts, "_CHUNK", 8)  # a stretch is encoded in parts
    outcome, _, sequences = objective(data, 1.0, replace(TINY, frames=frames))
    imagined = outcome.pasts.imagined(np.random.default_rng(0))
    assert imagined is not None
    recorded = by_arrival(outcome.pasts.recorded(np.random.default_rng(0)), len(sequences))
    assert recorded.std() > 0.01
    torch.testing.assert_close(imagined.inputs.float(), recorded[imagined.arrivals], atol=0.02, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("frames", [1, 4])
def test_imagined_pasts_reach_all_arrivals_that_have_one_and_ends_too(data: Path, frames: int) -> None:
    """Each has at least one imagined latent before it, and the given ones before that."""
    outcome, _, sequences = objective(data, 1.0, replace(TINY, frames=frames))
    pasts, rng = outcome.pasts, np.random.default_rng(0)
    firsts = np.append(np.flatnonzero(sequences.is_first), len(sequences))
    possible = {
        number
        for first, last in pairwise(firsts.tolist())
        for number in range(first + (pasts.given + 1) * frames, last)
    }
    imagined = pasts.imagined(rng)
    assert imagined is not None
    assert torch.isfinite(imagined.inputs).all()
    assert set(imagined.arrivals.tolist()) <= possible
    reached = set[int]()
    for stretch in (one for _ in range(40) for one in pasts.draw_stretches(rng)):
        assert stretch.begin >= pasts.given
        assert len(stretch) > 0
        latents = pasts._latents(stretch.episode, stretch.begin + 1, stretch.end + 1)
        reached |= set(latents.flatten().tolist())
    assert reached == possible
    assert any(sequences.ends[list(reached)])


def test_ends_are_as_frequent_after_imagined_pasts_as_they_are(data: Path) -> None:
    """Given how long an episode lasted, its end is drawn as often as other arrivals at that time are."""
    outcome, _, sequences = objective(data, 1.0)
    bounds = pairwise(np.append(np.flatnonzero(sequences.is_first), len(sequences)).tolist())
    long, middle, short = (EpisodeSpan(first, last) for first, last in bounds)
    counts = {span: np.zeros(long.last, int) for span in (long, middle, short)}
    for seed in range(300):
        for stretch in outcome.pasts.draw_stretches(np.random.default_rng(seed)):
            counts[stretch.episode][stretch.begin + 1 : stretch.end + 1] += 1
    for span in (middle, short):
        end = span.last - span.first - 1
        assert counts[span][end] > 100
        assert 0.75 < counts[span][end] / counts[long][end] < 1.35


@pytest.mark.parametrize("frames", [1, 3])
def test_pasts_are_imagined_as_at_play(data: Path, frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise, from an episode's first latents on: the latents of ``roll_out``."""
    outcome, networks, sequences = objective(data, 1.0, replace(TINY, frames=frames))
    monkeypatch.setattr(networks, "noise_scale", lambda twist: torch.zeros(len(twist)))
    monkeypatch.setattr(
        outcome.pasts._planes, "bits", lambda arrivals: encoded(networks, sequences, arrivals)
    )
    given, length = outcome.pasts.given, 5
    sequences.controls[sequences.is_first] = 0  # as a session begins
    bounds = pairwise(np.flatnonzero(sequences.is_first).tolist())
    spans = [EpisodeSpan(first, last) for first, last in bounds]
    one, other = (
        ImaginedStretch(span, given, given + length - n) for n, span in enumerate(spans)
    )  # the second one ends earlier
    bits = outcome.pasts.imagine([one, other])
    assert [len(part) for part in bits] == [length, length - 1]
    arrivals = torch.stack([span.first + torch.arange((given + length) * frames) for span in spans])
    played = roll_out(
        networks,
        sequences.pixels(sequences.frame[arrivals[:, : given * frames]]),
        sequences.controls[arrivals],
        networks.sampler.default_steps,
        np.random.default_rng(0),
        with_gradient=False,
    ).latents[:, ::frames, : networks.unit.tokens]
    for mine, theirs in zip(bits, played, strict=True):
        assert (mine == theirs[: len(mine)]).all()
    assert (bits[0] > 0).any(0).logical_and((bits[0] < 0).any(0)).any()


def test_targets_are_those_recorded_at_the_arrivals(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each drawn input is that of its arrival, as imagined bits that equal recorded ones show."""
    monkeypatch.setattr(NextScalePasts, "imagine", recorded_bits)
    outcome, _, sequences = objective(data, 0.5)
    outcome.start()
    recorded = by_arrival(outcome.pasts.recorded(np.random.default_rng(0)), len(sequences))
    drawn = outcome._draw(outcome.pasts.recorded(np.random.default_rng(0)), np.random.default_rng(1))
    assert len(drawn.arrivals) == BATCH
    torch.testing.assert_close(drawn.inputs.float(), recorded[drawn.arrivals], atol=0.02, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "share"), [(1, 0.5), (4, 1.0)])
def test_reward_and_end_learn_after_imagined_pasts(data: Path, frames: int, share: float) -> None:
    clips, recipe = ClipStore(data), replace(TINY, frames=frames, imagined_outcomes=share)
    torch.manual_seed(0)
    networks = Networks(recipe.plan(clips.spec, None), clips.spec).train()
    stage = recipe.stages(networks, clips, warm=True)[-1]
    assert stage.on_start is not None
    stage.on_start()
    weights = [weight for group in stage.param_groups for weight in group.parameters]
    optimizer, losses = torch.optim.Adam(weights, 3e-3), []
    for step in range(30):
        with torch.autocast("cpu", torch.bfloat16):  # as on processors that multiply it
            loss, logs = stage.objective(np.random.default_rng(step), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(np.isfinite(float(value)) for value in logs.values())
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_worlds_with_poses_and_short_episodes_learn_from_recorded_pasts_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posed = write_walks(tmp_path / "posed", {1: 20, 3: 20}, poses=True)
    short = write_walks(tmp_path / "short", {1: 3, 3: 3}, poses=False)
    monkeypatch.setattr(NextScalePasts, "imagine", None)
    for folder, recipe in ((posed, replace(TINY, conditioning="both")), (short, TINY)):
        outcome, networks, _ = objective(folder, 1.0, recipe)
        assert networks.has_poses == (folder == posed)
        outcome.start()
        loss, _ = outcome(np.random.default_rng(0), 0.0)
        assert torch.isfinite(loss)
