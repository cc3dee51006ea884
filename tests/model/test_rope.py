"""Rotary positions: only distances matter, axes do not mix, lengths stay."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import random_like
from worldsim.model.rope import apply_rope, rope_frequencies

places = st.integers(-20, 20)


def score(q: torch.Tensor, k: torch.Tensor, at_q: tuple[int, int], at_k: tuple[int, int]) -> torch.Tensor:
    turn_q, turn_k = (rope_frequencies(torch.tensor(at), (4, 4)) for at in (at_q, at_k))
    return apply_rope(q, turn_q) @ apply_rope(k, turn_k)


@given(places, places, places, places, places, places)
def test_a_score_depends_on_the_distance_alone(a: int, b: int, c: int, d: int, right: int, down: int) -> None:
    q, k = random_like((8,), 0), random_like((8,), 1)
    here = score(q, k, (a, b), (c, d))
    there = score(q, k, (a + right, b + down), (c + right, d + down))
    torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-4)


def test_distance_changes_the_score() -> None:
    q, k = random_like((8,), 0), random_like((8,), 1)
    assert (score(q, k, (0, 0), (0, 0)) - score(q, k, (0, 0), (3, 0))).abs() > 1e-2
    assert (score(q, k, (0, 3), (0, 0)) - score(q, k, (3, 0), (0, 0))).abs() > 1e-2


def test_rotation_keeps_lengths_and_position_zero_keeps_all() -> None:
    x = random_like((5, 8), 0)
    turned = apply_rope(x, rope_frequencies(torch.arange(5)[:, None], (8,)))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[0], x[0])


def test_every_axis_turns_its_own_channels() -> None:
    moved = apply_rope(torch.ones(8), rope_frequencies(torch.tensor([3, 0]), (4, 4)))
    torch.testing.assert_close(moved[4:], torch.ones(4))
    assert (moved[:4] - 1).abs().max() > 0.1
