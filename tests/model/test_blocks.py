"""Attention to cached frames: alike however many threads share it."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.tiny import random_like
from worldsim.model.blocks import cached_attention
from worldsim.model.cache import LayerKV

FRAMES, TOKENS, HEADS, CHANNELS = 8, 52, 6, 32


def looked(threads: int, seed: int) -> Tensor:
    """What tokens of one world see in a past that is large enough for threads to share it."""
    keys, values = (random_like((1, FRAMES, TOKENS, HEADS, CHANNELS), 4 * seed + i) for i in range(2))
    qk = random_like((1, 1, TOKENS, 2, HEADS, CHANNELS), 4 * seed + 2)
    v = random_like((1, 1, TOKENS, HEADS, CHANNELS), 4 * seed + 3)
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return cached_attention(qk, v, LayerKV(keys, values, torch.ones(1, FRAMES, dtype=torch.bool)))
    finally:
        torch.set_num_threads(usual)


def test_threads_round_alike() -> None:
    for seed in range(20):
        assert torch.equal(looked(1, seed), looked(2, seed))
