"""Worlds of bits under evaluation: idempotence, surprise, and whole frames where few passes are asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.contracts.worlds import Parts, write_world
from tests.evaluation.conftest import PretendedCollector
from worldsim.engine.world import World, load
from worldsim.evaluation.calibration import surprise_metrics
from worldsim.evaluation.rollouts import _gain
from worldsim.evaluation.suite import EvalConfig, evaluate

PARTS = Parts("next-scale", "bits", "next-scale", "next-scale", prior="none")


@pytest.fixture(scope="module")
def bits_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = write_world(tmp_path_factory.mktemp("bits") / "tiny", PARTS, poses=False)
    return load(folder, "cpu", torch.float32)


@pytest.mark.slow
def test_a_world_of_bits_is_measured_by_its_bits(bits_world: World) -> None:
    sizes = EvalConfig(trajectories=2, teacher_forced_frames=2, score_every=1, horizon=2)
    metrics = evaluate(bits_world, PretendedCollector(bits_world.spec), sizes).metrics
    same, told = metrics["tokenizer_idempotence"], metrics["next_surprise"]
    assert 0 <= same.value <= 1
    assert (same.lower_reference, same.upper_reference) == (0.5, 1.0)
    assert 0 < told.value < 2
    assert (told.lower_reference, told.upper_reference) == (1.0, 0.0)
    scales = bits_world.allowed_denoising_steps
    assert {f"next_psnr_k{k}" for k in scales} < metrics.keys()
    assert metrics["next_psnr"].value == metrics[f"next_psnr_k{scales[-1]}"].value


def test_few_passes_are_those_of_whole_frames(bits_world: World) -> None:
    scales = len(bits_world.allowed_denoising_steps)
    assert [bits_world.denoising_steps_near(few) for few in (1, 2, scales)] == [scales] * 3
    assert bits_world.draws_coarse_frames
    assert bits_world.tells_uncertainty


def test_surprise_is_held_against_frames_worse_than_the_last_one() -> None:
    gain = np.array([[1.0, -1.0, np.nan, -2.0], [2.0, -3.0, 1.0, 0.5]])
    assert surprise_metrics(-gain, gain)["surprise_auroc"].value == 1
    assert surprise_metrics(gain, gain)["surprise_auroc"].value == 0
    assert surprise_metrics(gain, np.abs(gain)) == {}


def test_gain_is_of_the_pixels_that_changed() -> None:
    last = np.zeros((3, 2, 2, 3), np.uint8)
    now, shown = last.copy(), last.copy()
    now[:2, 0, 0] = 200
    shown[0, 0, 0], shown[1, 0, 0], shown[:, 1, 1] = 100, 0, 255  # elsewhere nothing counts
    gain = _gain(shown, now, last)
    assert gain[:2].tolist() == pytest.approx([20 * np.log10(2), 0])
    assert np.isnan(gain[2])
