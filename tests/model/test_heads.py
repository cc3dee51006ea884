"""Two-hot rewards, motion and outcome."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldsim.model.heads import REWARD_BINS, Heads, HeadsConfig, expected_reward, symlog, two_hot

rewards = st.floats(-140, 140, width=32)


@given(st.lists(rewards, min_size=1, max_size=8))
def test_two_hot_and_expected_are_inverse(values: list[float]) -> None:
    value = torch.tensor(values)
    weights = two_hot(value)
    assert weights.shape == (len(values), REWARD_BINS)
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(values)))
    assert ((weights > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(expected_reward(weights.log()), value, atol=1e-3, rtol=1e-3)


@given(rewards, rewards)
def test_symlog_keeps_order_and_sign(a: float, b: float) -> None:
    x, y = symlog(torch.tensor(a)), symlog(torch.tensor(b))
    assert (x <= y) == (torch.tensor(a) <= torch.tensor(b)) or x == y
    assert x.sign() == torch.tensor(a).sign()


def test_rewards_beyond_the_bins_end_at_the_last_one() -> None:
    assert two_hot(torch.tensor([1e6, -1e6])).argmax(-1).tolist() == [REWARD_BINS - 1, 0]


@pytest.mark.parametrize("scene_feature_dim", [0, 7])
def test_heads_read_the_scene_features_or_else_the_agent(scene_feature_dim: int) -> None:
    heads = Heads(
        HeadsConfig(uses_agent_token=False), agent=6, control=3, scene_feature_dim=scene_feature_dim
    )
    assert heads.motion is not None
    torch.nn.init.normal_(heads.motion.residual[-1].weight)  # type: ignore[arg-type]  # typed as any module's
    agent, controls, twists, height = (
        torch.randn(2, 6),
        torch.randn(2, 5, 3),
        torch.randn(2, 4, 6),
        torch.zeros(2),
    )
    around = torch.randn(2, scene_feature_dim) if scene_feature_dim else None
    moved = heads.predict_motion(agent, around, controls, twists, height).twist
    assert moved.shape == (2, 6)
    reward, continue_prob = heads.predict_outcome(agent, around)
    assert (reward.shape, continue_prob.shape) == ((2, REWARD_BINS), (2,))
    other = heads.predict_motion(agent + 1, around, controls, twists, height).twist
    assert torch.equal(moved, other) == bool(scene_feature_dim)


def test_a_source_without_poses_has_no_motion() -> None:
    assert Heads(HeadsConfig(poses=False), agent=6, control=3).motion is None
