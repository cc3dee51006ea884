"""Two-hot rewards, motion and outcome."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldsim.model.heads import BINS, Heads, HeadsConfig, expected, symlog, two_hot

rewards = st.floats(-140, 140, width=32)


@given(st.lists(rewards, min_size=1, max_size=8))
def test_two_hot_and_expected_are_inverse(values: list[float]) -> None:
    value = torch.tensor(values)
    weights = two_hot(value)
    assert weights.shape == (len(values), BINS)
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(values)))
    assert ((weights > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(expected(weights.log()), value, atol=1e-3, rtol=1e-3)


@given(rewards, rewards)
def test_symlog_keeps_order_and_sign(a: float, b: float) -> None:
    x, y = symlog(torch.tensor(a)), symlog(torch.tensor(b))
    assert (x <= y) == (torch.tensor(a) <= torch.tensor(b)) or x == y
    assert x.sign() == torch.tensor(a).sign()


def test_rewards_beyond_the_bins_end_at_the_last_one() -> None:
    assert two_hot(torch.tensor([1e6, -1e6])).argmax(-1).tolist() == [BINS - 1, 0]


@pytest.mark.parametrize("surroundings", [0, 7])
def test_heads_read_the_surroundings_or_else_the_agent(surroundings: int) -> None:
    heads = Heads(HeadsConfig(width=6, control=3, surroundings=surroundings))
    agent, control, twists = torch.randn(2, 6), torch.randn(2, 3), torch.randn(2, 4, 6)
    around = torch.randn(2, surroundings) if surroundings else None
    assert heads.move(agent, around, control, twists).shape == (2, 6)
    reward, going_on = heads.judge(agent, around)
    assert (reward.shape, going_on.shape) == ((2, BINS), (2,))
    moved = heads.move(agent + 1, around, control, twists)
    assert torch.equal(moved, heads.move(agent, around, control, twists)) == bool(surroundings)


def test_a_source_without_poses_has_no_motion() -> None:
    assert Heads(HeadsConfig(width=6, control=3, poses=False)).motion is None


def test_what_nobody_pushes_slows_down() -> None:
    heads = Heads(HeadsConfig(width=8, control=3, coasting=0.5))
    agent, twists = torch.randn(4, 8), torch.randn(4, 4, 6)
    free = Heads(HeadsConfig(width=8, control=3))
    free.load_state_dict(heads.state_dict())
    pushed = torch.tensor([[0.0, 1.0, 0.0]]).expand(4, -1)
    torch.testing.assert_close(
        heads.move(agent, None, pushed, twists), free.move(agent, None, pushed, twists)
    )
    twists[..., -1, :] *= 1e-3
    still, last = heads.move(agent, None, torch.zeros(4, 3), twists), twists[..., -1, :]
    for part in (slice(0, 3), slice(3, 6)):
        assert (still[:, part].norm(dim=-1) <= 0.5 * last[:, part].norm(dim=-1) * 1.001).all()
    twists[..., -1, :] = 0
    assert not heads.move(agent, None, torch.zeros(4, 3), twists).any()
