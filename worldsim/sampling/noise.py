"""Counter-based noise: what is drawn depends on (session seed, index, draw) and on nothing else.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3") gives the bits; Box-Muller makes them
normal, so that the stream does not depend on how a library happens to draw normals.
"""

from __future__ import annotations

import math

import numpy as np


def normal(seed: int, index: int, draw: int, count: int) -> np.ndarray:
    """``count`` standard normals, float32 [count]; ``seed`` counts modulo 2**64."""
    return normal_batch(np.array([seed % 2**64], np.uint64), np.array([index]), draw, (count,))[0]


def normal_batch(seeds: np.ndarray, indices: np.ndarray, draw: int, shape: tuple[int, ...]) -> np.ndarray:
    """Noise for several sessions at once, float32 [B, *shape]; row i belongs to (seeds[i], indices[i])."""
    count = math.prod(shape)
    pairs = (count + 1) // 2
    noise = np.empty((len(seeds), 2, pairs), np.float32)
    for row, seed, index in zip(noise, seeds, indices, strict=True):
        # An array, for a list of large numbers would pass through float64.
        key = np.array([int(seed) % 2**64, draw], np.uint64)
        bits = np.random.Philox(key=key, counter=[0, 0, int(index), 0]).random_raw(2 * pairs)
        uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        radius, angle = np.sqrt(-2 * np.log(uniform[:pairs])), 2 * np.pi * uniform[pairs:]
        row[0], row[1] = radius * np.cos(angle), radius * np.sin(angle)
    return noise.reshape(len(seeds), -1)[:, :count].reshape(-1, *shape)
