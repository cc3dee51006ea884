"""A strip of imagined over true frames, for a look every few minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from worldsim.data.clips import ClipStore
from worldsim.networks import Networks
from worldsim.pixels import to_frame
from worldsim.training.imagination import imagine

FRAME_STRIDE = 8
"""Frames from one picture of a strip to the next."""


def write_sample_grid(
    networks: Networks, clips: ClipStore, path: Path, rows: int = 4, length: int = 49
) -> None:
    """``rows`` dreams under true controls and poses, every eighth frame, the true ones above.

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
