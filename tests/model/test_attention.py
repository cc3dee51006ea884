"""The fast path of attention is the explicit one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.tiny import random_like
from worldsim.model.attention import attend, reference

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
CAUSAL = torch.ones(4, 4, dtype=torch.bool).tril()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mask", [None, CAUSAL])
def test_attend_equals_the_reference(device: str, mask: torch.Tensor | None) -> None:
    q, k, v = (random_like((2, 3, 4, 8), seed).to(device) for seed in range(3))
    mask = None if mask is None else mask.to(device)
    torch.testing.assert_close(attend(q, k, v, mask), reference(q, k, v, mask), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mask", [None, CAUSAL])
def test_the_reference_is_what_torch_computes(mask: torch.Tensor | None) -> None:
    q, k, v = (random_like((2, 3, 4, 8), seed) for seed in range(3))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(reference(q, k, v, mask), expected, atol=1e-6, rtol=1e-5)


def test_what_is_masked_is_not_looked_at() -> None:
    q, k, v = (random_like((1, 4, 8), seed) for seed in range(3))
    before = attend(q, k, v, CAUSAL)
    k[:, 2:], v[:, 2:] = 100.0, -100.0
    torch.testing.assert_close(attend(q, k, v, CAUSAL)[:, :2], before[:, :2])


def test_the_number_type_of_the_values_is_kept() -> None:
    q, k, v = (random_like((1, 4, 8), seed).bfloat16() for seed in range(3))
    assert attend(q, k, v).dtype == torch.bfloat16
