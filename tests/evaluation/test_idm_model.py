"""Predictions for clips of any length, batched or alone; augmentation; Muon."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldsim.evaluation.idm.augment import augment
from worldsim.evaluation.idm.model import InverseDynamicsModel
from worldsim.evaluation.idm.optimizer import Muon


def clip(length: int, seed: int = 0) -> np.ndarray:
    """Stripes that move, ``uint8 [1, T, 60, 80, 3]``."""
    phase = np.cumsum(np.random.default_rng(seed).uniform(0, 3, length))
    shade = 128 + 100 * np.sin((np.arange(80) + phase[:, None]) / 5)
    return np.broadcast_to(shade[None, :, None, :, None], (1, length, 60, 80, 3)).astype(np.uint8)


@pytest.mark.parametrize("length", [2, 15, 65, 66, 200])
def test_clips_of_any_length_are_read(idm: InverseDynamicsModel, length: int) -> None:
    prediction = idm.predict(clip(length))
    assert prediction.motion.shape == (1, length - 1, 3)
    assert prediction.keys.shape == (1, length - 1, 6)
    assert np.isfinite(prediction.motion).all()
    assert prediction.features == pytest.approx(idm.features(clip(length)), abs=1e-4)


def test_windows_hide_nothing_nearby(idm: InverseDynamicsModel) -> None:
    long = clip(160)
    whole, later = idm.predict(long), idm.predict(long[:, 30:])
    assert later.motion[:, 15:-15] == pytest.approx(whole.motion[:, 45:-15], abs=0.05)


def test_company_changes_nothing(idm: InverseDynamicsModel) -> None:
    both = np.concatenate([clip(20, 1), clip(20, 2)])
    together = idm.predict(both)
    assert together.motion[1:] == pytest.approx(idm.predict(both[1:]).motion, abs=1e-4)


def test_half_is_softened_all_is_in_range() -> None:
    frames = torch.from_numpy(np.random.default_rng(0).uniform(-0.8, 0.8, (8, 3, 3, 60, 80))).float()
    seen = augment(frames, np.random.default_rng(1))
    assert seen.shape == frames.shape
    assert seen.abs().max() < 1.3
    grain = (seen[..., 1:] - seen[..., :-1]).abs().mean((1, 2, 3, 4))
    assert grain[:4].max() < grain[4:].min()


def test_muon_goes_downhill_by_even_steps() -> None:
    weight = torch.nn.Parameter(torch.zeros(4, 6))
    target = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    muon = Muon([weight], lr=0.1)
    for _ in range(100):
        loss = (weight - target).square().mean()
        weight.grad = None
        loss.backward()
        muon.step()
    assert loss < 0.05
