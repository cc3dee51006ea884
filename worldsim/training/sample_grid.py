"""Sample grid: an image of imagined over true frames, written with every checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from worldsim.data.clips import ClipStore
from worldsim.networks import Networks
from worldsim.pixels import to_frame
from worldsim.training.imagination import imagine

FRAME_STRIDE = 8
"""Stride of the frames of a grid."""


def write_sample_grid(
    networks: Networks, clips: ClipStore, path: Path, rows: int = 4, length: int = 49
) -> None:
    """Write ``rows`` rollouts under true controls and poses, every eighth frame, below the true ones.

    They have ``length`` frames, or as many as the longest episode.
    """
    length = min(length, max(episode.length for episode in clips.episodes))
    clip = clips.sample(rows, length, np.random.default_rng(0))
    shown = [clip.frames[:, 0]]
    for t, frame in enumerate(imagine(networks, clip, given_poses=True), start=1):
        if t % FRAME_STRIDE == 0:
            shown.append(to_frame(frame.float()).cpu().numpy())
    imagined = np.stack(shown, 1)
    pairs = [
        np.concatenate(
            [
                np.concatenate(list(clip.frames[row, ::FRAME_STRIDE]), 1),
                np.concatenate(list(imagined[row]), 1),
            ]
        )
        for row in range(rows)
    ]
    Image.fromarray(np.concatenate(pairs)).save(path)
