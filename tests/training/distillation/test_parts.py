"""Roll-outs with a gradient, weights for other units, the target of matching, the watch over motion."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import random_like, stir
from tests.tiny_moving import SPEC
from tests.training.distillation.test_units_recipe import TINY, UNITS
from worldsim.errors import ConfigError
from worldsim.model.transformer import Transformer
from worldsim.networks import Networks
from worldsim.sampling.clock import imagine_frame, init_state, observe_frame
from worldsim.sampling.control_batch import ControlBatch
from worldsim.training.distillation.clips import FrameClip
from worldsim.training.distillation.denoiser import ClipDenoiser, draw_times, sample_clips
from worldsim.training.distillation.motion_watch import MotionWatch
from worldsim.training.distillation.objectives import unit_clip, with_own_past
from worldsim.training.distillation.rollout import roll_out
from worldsim.training.distillation.symmetric_dmd import matching_target
from worldsim.training.distillation.transfer import transfer
from worldsim.training.sequences import Windows
from worldsim.units import CubeUnit, FrameUnit, ScalesUnit, Unit

GRID = (3, 4)


def lively(unit: str) -> Networks:
    torch.manual_seed(0)
    networks = Networks(replace(TINY, unit=unit).plan(SPEC, None), SPEC)
    stir(networks)
    return networks


def inputs(networks: Networks, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    frames = random_like((2, 2, 3, *SPEC.size), 0).tanh()
    controls = (random_like((2, length, networks.control_size), 1) > 0).float()
    return frames, controls


@pytest.mark.parametrize("unit", UNITS)
def test_a_rollout_is_play(unit: str) -> None:
    """The same latents with and without a gradient, and frame by frame as the engine steps."""
    networks = lively(unit)
    (frames, controls), length = inputs(networks, 6), networks.unit.frames
    plain, recorded = (
        roll_out(
            networks, frames, controls, 2, np.random.default_rng(3), with_gradient=grad, with_frames=True
        )
        for grad in (False, True)
    )
    torch.testing.assert_close(plain.latents, recorded.latents.detach(), atol=1e-5, rtol=1e-4)
    seeds = np.random.default_rng(3).integers(0, 2**63, 2).astype(np.uint64)
    with torch.no_grad():
        state = init_state(networks, frames[:, 0], np.tile(np.eye(4), (2, 1, 1)), seeds)
        observe_frame(networks, state, frames[:, 1], ControlBatch(controls[:, 1]))
        for t in range(2, 6):
            ahead = ControlBatch(controls[:, t : t + length]) if t % length == 0 else None
            shown = imagine_frame(networks, state, ControlBatch(controls[:, t], ahead=ahead), 2)
            assert plain.frames is not None
            torch.testing.assert_close(shown.frame, plain.frames[:, t - 2], atol=0, rtol=0)


@pytest.mark.parametrize("unit", UNITS)
def test_the_gradient_is_of_the_last_pass_alone(unit: str) -> None:
    networks = lively(unit)
    frames, controls = inputs(networks, 4)
    rollout = roll_out(networks, frames, controls, 2, np.random.default_rng(3), with_gradient=True)
    rollout.latents.square().sum().backward()
    generator = networks.generator
    assert isinstance(generator, Transformer)
    for name in ("out.weight", "latent_in.weight", "conditioning.modulation.weight"):
        grad = generator.get_parameter(name).grad
        assert grad is not None
        assert grad.any(), name
        assert grad.isfinite().all()
    assert all(weight.grad is None for _, weight in networks.tokenizer.named_parameters())
    assert networks.generator is generator  # the recording one was a view


def transformer(unit: Unit) -> Transformer:
    planned = TINY.plan(SPEC, None).generator
    latent = lively("frame").tokenizer.latent_spec
    made: Transformer = planned.build(unit, latent, 1, unit.frames * 5)
    return made


def test_weights_are_taken_over_by_other_units() -> None:
    base = transformer(CubeUnit(frames=2, grid=GRID))
    stir(base)
    twin, frame, scales = (
        transformer(unit)
        for unit in (
            CubeUnit(frames=2, grid=GRID, splits=(2, 1, 2)),
            FrameUnit(tokens=12, grid=GRID),
            ScalesUnit(grid=GRID, levels=2),
        )
    )
    for target in (twin, frame, scales):
        transfer(base, target)
        torch.testing.assert_close(target.out.weight, base.out.weight)
    torch.testing.assert_close(twin.position, base.position)
    torch.testing.assert_close(frame.position, base.position.unflatten(0, (2, -1)).mean(0))
    torch.testing.assert_close(scales.position[-12:], frame.position)
    held = random_like((1, 1, 5), 0)
    embed = (base.conditioning.control_embed, frame.conditioning.control_embed)
    torch.testing.assert_close(embed[1](held), embed[0](held.repeat(1, 1, 2)), atol=1e-5, rtol=1e-5)
    longer = transformer(CubeUnit(frames=4, grid=GRID))
    transfer(base, longer)
    torch.testing.assert_close(
        longer.conditioning.control_embed(held.repeat(1, 1, 4)), embed[1](held), atol=1e-5, rtol=1e-5
    )
    with pytest.raises(ConfigError, match="divide each other"):
        transfer(transformer(CubeUnit(frames=3, grid=GRID)), twin)


def test_a_target_lies_from_the_generated_towards_the_real() -> None:
    made, real = random_like((3, 4, 2), 0), random_like((3, 4, 2), 1)
    torch.testing.assert_close(matching_target(made, real, real), made)
    off = random_like((3, 4, 2), 2)
    moved = matching_target(made, real, real + off) - made
    scale = (made - real).abs().mean((1, 2), keepdim=True)
    torch.testing.assert_close(moved, -off / scale)
    same = matching_target(real, real, real + off)
    assert torch.equal(same, real)  # nothing to divide by: such a clip stays


def test_given_frames_are_clean_and_all_others_have_one_time() -> None:
    t = draw_times(np.random.default_rng(0), torch.tensor([0, 2]), 4)
    assert (t[1, :2] == 1).all()
    assert (t[:, 2:] == t[:, 2:3]).all()
    assert (t[0] == t[0, 0]).all()
    assert ((t[:, 2:] >= 0.02) & (t[:, 2:] <= 0.98)).all()


def test_motion_that_dies_ends_the_training_with_the_last_good_weights() -> None:
    module = torch.nn.Linear(2, 2)
    watch, real = MotionWatch(module), random_like((2, 5, 3, 4, 4), 0)
    for _ in range(3):
        watch.read(real * 0.9, real)
    assert watch.ratio == pytest.approx(0.9)
    assert watch.verdict() is None
    good = module.weight.detach().clone()
    torch.nn.init.zeros_(module.weight)
    for _ in range(6):
        watch.read(real * 0.1, real)
        if watch.ended:
            break
    reason = watch.verdict()
    assert reason is not None
    assert "below 0.6" in reason
    torch.testing.assert_close(module.weight, good)


def test_little_motion_to_begin_with_is_no_death() -> None:
    watch, real = MotionWatch(torch.nn.Linear(2, 2)), random_like((2, 5, 3, 4, 4), 0)
    for _ in range(6):
        watch.read(real * 0.3, real)
    assert watch.verdict() is None
    for _ in range(6):
        watch.read(real * 0.1, real)
    assert "below 0.18" in (watch.verdict() or "")


def test_samples_of_the_base_keep_what_is_given() -> None:
    from worldsim.training.distillation.clips import FrameClip
    from worldsim.training.sequences import Windows

    made = transformer(CubeUnit(frames=2, grid=GRID)).look("full")
    stir(made)
    nothing = torch.zeros(2, 4, dtype=torch.int64)
    windows = Windows(nothing, torch.ones(2, 4, dtype=torch.bool), torch.ones(2))
    clip = FrameClip(random_like((2, 4, 12, 3), 0), random_like((2, 4, 5), 1), torch.ones(2, 4), windows)
    sampled = sample_clips(ClipDenoiser(made, 1), clip, 2, np.random.default_rng(0), steps=3)
    assert torch.equal(sampled[:, :2], clip.latents[:, :2])
    assert sampled.isfinite().all()
    assert (sampled[:, 2:] - clip.latents[:, 2:]).abs().max() > 0.1


@pytest.mark.parametrize("unit", UNITS)
def test_the_frame_before_a_unit_is_the_prior_of_all_its_frames(unit: str) -> None:
    networks = lively(unit)
    frames, tokens = networks.unit.frames, networks.tokenizer.latent_spec.tokens
    latents = random_like((2, 3 * frames, *networks.tokenizer.latent_spec.shape), 0)
    windows = Windows(*(torch.zeros(2, 3 * frames),) * 3)
    clip = FrameClip(latents, torch.zeros(2, 3 * frames, 5), torch.ones(2, 3 * frames), windows)
    prior = networks.frame_latents(unit_clip(networks, clip).prior_tokens)
    prior = prior.unflatten(2, (frames, tokens))
    blank = networks.tokenizer.blank(1, networks.device)
    grey = networks.tokenizer.encode(blank.frame, None)  # type: ignore[arg-type]
    torch.testing.assert_close(prior[:, 0], grey.expand(2, frames, -1, -1))
    for number in (1, 2):
        before = latents[:, number * frames - 1]
        assert torch.equal(prior[:, number], before[:, None].expand(-1, frames, -1, -1))
    torch.manual_seed(0)
    noisy = networks.frame_latents(unit_clip(networks, clip, 0.5).prior_tokens).unflatten(2, (frames, tokens))
    assert torch.equal(noisy[:, 0], prior[:, 0])
    off = (noisy - prior)[:, 1:]
    assert 0 < off.square().mean().sqrt() < 0.6


@pytest.mark.parametrize("unit", UNITS)
def test_own_frames_take_the_place_of_those_before(unit: str) -> None:
    networks = lively(unit)
    frames, shape = networks.unit.frames, networks.tokenizer.latent_spec.shape
    latents, zeros = random_like((2, 3 * frames, *shape), 0), torch.zeros(2, 3 * frames)
    condition = random_like((2, 3 * frames, networks.condition_size), 1)
    clip = unit_clip(networks, FrameClip(latents, condition, zeros + 1, Windows(zeros, zeros, zeros)))
    torch.manual_seed(0)
    own = with_own_past(networks, clip, np.random.default_rng(0))
    assert own.prior_tokens.shape == clip.prior_tokens.shape
    assert not own.prior_tokens.requires_grad
    assert torch.equal(own.latents, clip.latents)
    before, after = (networks.frame_latents(one.prior_tokens) for one in (clip, own))
    torch.testing.assert_close(after[:, 0], before[:, 0])
    assert own.shown is not None
    is_own = (own.shown != clip.latents).flatten(2).any(-1)
    assert 0 < int(is_own[:, :-1].sum()) < is_own[:, :-1].numel()
    moved = (after[:, 1:] - before[:, 1:]).abs().amax((-1, -2)) > 0.01
    assert torch.equal(moved, is_own[:, :-1]), "the frame before is the generator's own where the unit is"
    slots = after[:, 1:].unflatten(2, (frames, -1))
    assert torch.equal(slots, slots[:, :, :1].expand_as(slots)), "all frames of a unit are shown the same"


@pytest.mark.parametrize("unit", UNITS)
def test_shown_units_are_context_and_nothing_else(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = lively(unit)
    frames, shape = networks.unit.frames, networks.tokenizer.latent_spec.shape
    latents, zeros = random_like((2, 3 * frames, *shape), 0), torch.zeros(2, 3 * frames)
    condition = random_like((2, 3 * frames, networks.condition_size), 1)
    clip = unit_clip(networks, FrameClip(latents, condition, zeros + 1, Windows(zeros, zeros, zeros)))
    clip = replace(clip, shown=torch.full_like(clip.latents, 7.0))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    given = networks.generator.forward

    def watched(noisy: torch.Tensor, t: torch.Tensor, *rest: Any, **more: Any) -> Any:
        seen.append((noisy, t))
        return given(noisy, t, *rest, **more)

    monkeypatch.setattr(networks.generator, "forward", watched)
    for seed in range(8):
        networks.sampler.loss(networks.generator, clip, np.random.default_rng(seed))
    for noisy, t in seen:
        is_shown = (noisy == 7).flatten(2).all(-1)
        whole = t if t.ndim == 2 else t.amin(-1)
        assert not (is_shown & (whole < 1)).any(), "a unit that is asked for is not shown"
    assert any((noisy == 7).any() for noisy, _ in seen)
