"""The flow prior: at first the identity, and after a short training nearer to the next frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.errors import ConfigError
from worldsim.scene.static_scene import StaticSceneConfig
from worldsim.tokenizer.flow_prior import FlowPrior
from worldsim.tokenizer.history import HistoryConfig, HistoryTokenizer
from worldsim.tokenizer.protocol import MotionCondition, PreviousFrame
from worldsim.training.losses import reconstruction_loss, warp_loss

SIZE = (24, 32)
CONFIG = HistoryConfig(patch=4, pool=2, width=8, depth=1, channels=4, flow_prior=True)


def squares(batch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Frames with a soft square, the next ones, and the keys that pushed it two pixels left or right."""
    keys = rng.integers(0, 3, batch)
    x, y = rng.uniform(8, SIZE[1] - 8, batch), rng.uniform(6, SIZE[0] - 6, batch)
    columns, rows = np.arange(SIZE[1]), np.arange(SIZE[0])[:, None]

    def draw(centre: np.ndarray) -> Tensor:
        away = np.maximum(np.abs(columns - centre[:, None, None]), np.abs(rows - y[:, None, None]))
        bright = np.clip((6 - away) / 4, 0, 1).astype(np.float32)
        return torch.from_numpy(2 * bright - 1)[:, None].expand(-1, 3, -1, -1).contiguous()

    condition = torch.zeros(batch, 2)
    condition[keys == 1, 0] = condition[keys == 2, 1] = 1
    return draw(x), draw(x + np.array([0, -2, 2])[keys]), condition


def tokenizer(config: HistoryConfig = CONFIG) -> HistoryTokenizer:
    torch.manual_seed(0)
    return config.build(SIZE, 2, None)


def test_it_begins_as_the_identity() -> None:
    before, _, condition = squares(4, np.random.default_rng(0))
    made = tokenizer()
    prior = made.prior(PreviousFrame(before, before[:, 0]), MotionCondition(condition, None, None))
    torch.testing.assert_close(prior.warped_rgb, before, atol=1e-6, rtol=0)
    torch.testing.assert_close(prior.warp_grid, made.pixel_grid.expand_as(prior.warp_grid), atol=0, rtol=0)
    assert (prior.warp_confidence > 0.98).all()


def test_frames_need_not_be_whole_cells() -> None:
    flow, confidence = FlowPrior(5, 8, 2)(torch.zeros(2, 3, 23, 31), torch.zeros(2, 2))
    assert flow.shape == (2, 23, 31, 2)
    assert confidence.shape == (2, 1, 23, 31)


@pytest.mark.slow
def test_it_learns_where_things_go() -> None:
    """The warped frame gets nearer to the next one than the previous frame, and the confidence says where."""
    made, rng = tokenizer(), np.random.default_rng(0)
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    for _ in range(150):
        before, after, condition = squares(16, rng)
        prior = made.prior(PreviousFrame(before, before[:, 0]), MotionCondition(condition, None, None))
        painted = made.decode(made.encode(after, prior), prior)
        warped = warp_loss(prior.warped_rgb, prior.warp_confidence, after)
        optimizer.zero_grad()
        (reconstruction_loss(painted, after) + warped).backward()
        optimizer.step()
    before, after, condition = squares(64, np.random.default_rng(1))
    with torch.no_grad():
        prior = made.prior(PreviousFrame(before, before[:, 0]), MotionCondition(condition, None, None))
    changed = (before - after).abs() > 12 / 127.5
    unwarped, error = (before - after).abs(), (prior.warped_rgb - after).abs()
    assert error[changed].mean() < 0.6 * unwarped[changed].mean()
    wrong = error.mean(1, keepdim=True) > 0.1
    assert prior.warp_confidence[wrong].mean() < prior.warp_confidence[~wrong].mean()


def test_a_scene_and_a_flow_prior_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="without a static scene"):
        HistoryConfig(flow_prior=True, scene=StaticSceneConfig(bounds=(0.0, 0.0, 4.0, 4.0)))
