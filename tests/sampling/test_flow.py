"""Steps from noise to a clean latent."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.tiny import random_like
from worldsim.errors import ConfigError
from worldsim.sampling.flow import DENOISING_STEPS, FlowSampler, denoise, euler_step, flow_times, interpolate
from worldsim.sampling.protocol import check_denoising_steps

anywhere = st.floats(0, 1, width=32)


@pytest.mark.parametrize("steps", DENOISING_STEPS)
def test_a_perfect_predictor_arrives(steps: int) -> None:
    clean, calls = random_like((2, 3, 4), 0), []

    def predict(latent: Tensor, number: int) -> Tensor:
        calls.append(number)
        return clean

    made = denoise(predict, random_like((2, 3, 4), 1), steps)
    torch.testing.assert_close(made, clean, atol=1e-6, rtol=1e-6)
    assert calls == list(range(steps))


@pytest.mark.parametrize("steps", DENOISING_STEPS)
def test_the_latent_is_at_its_level_before_every_pass(steps: int) -> None:
    clean, noise = random_like((2, 3, 4), 0), random_like((2, 3, 4), 1)

    def predict(latent: Tensor, number: int) -> Tensor:
        torch.testing.assert_close(
            latent, interpolate(clean, noise, torch.full((2,), flow_times(steps)[number]))
        )
        return clean

    denoise(predict, noise, steps)


def test_mix_goes_from_noise_to_clean() -> None:
    clean, noise = random_like((2, 3, 4), 0), random_like((2, 3, 4), 1)
    mixed = interpolate(clean, noise, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(mixed, torch.stack([noise[0], clean[1]]))


@given(anywhere, anywhere)
def test_advance_stays_on_the_line_to_the_clean_latent(t: float, step: float) -> None:
    clean, noise = random_like((1, 3, 4), 0), random_like((1, 3, 4), 1)
    at, size = torch.tensor([t]), torch.tensor([step])
    arrived = euler_step(interpolate(clean, noise, at), clean, at, size)
    # Close to the end a step is cut short rather than divided by next to nothing.
    expected = interpolate(clean, noise, (at + size).clamp(max=1))
    torch.testing.assert_close(arrived, expected, atol=6e-3, rtol=1e-3)


def test_two_half_steps_are_one_whole_step_of_a_steady_prediction() -> None:
    clean, latent = random_like((1, 3, 4), 0), random_like((1, 3, 4), 1)
    t, half = torch.tensor([0.5]), torch.tensor([0.25])
    middle = euler_step(latent, clean, t, half)
    end = euler_step(middle, clean, t + half, half)
    torch.testing.assert_close(end, euler_step(latent, clean, t, 2 * half))


@pytest.mark.parametrize("steps", [0, 3, 8, -1])
def test_other_numbers_of_steps_are_errors(steps: int) -> None:
    with pytest.raises(ConfigError, match="denoising steps"):
        check_denoising_steps(FlowSampler(), steps)
