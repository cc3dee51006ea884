"""A strip of imagined over true frames, for a look every few minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from worldsim.data.clips import Clip, ClipStore
from worldsim.networks import Networks
from worldsim.pixels import to_frame, to_model
from worldsim.sampling.rollout import Controls, begin, observe_unit, step_unit

EVERY = 8
"""Frames from one picture of a strip to the next."""


@torch.no_grad()
def write_strip(networks: Networks, clips: ClipStore, path: Path, rows: int = 4, length: int = 49) -> None:
    """``rows`` dreams under true controls and poses, every eighth frame, the true ones above.

    They have ``length`` frames, or as many as the longest episode.
    """
    length = min(length, max(episode.length for episode in clips.episodes))
    clip = clips.sample(rows, length, np.random.default_rng(0))
    dreamt = _dream(networks, clip)
    pairs = [
        np.concatenate(
            [np.concatenate(list(clip.frames[row, ::EVERY]), 1), np.concatenate(list(dreamt[row]), 1)]
        )
        for row in range(rows)
    ]
    Image.fromarray(np.concatenate(pairs)).save(path)


def _dream(networks: Networks, clip: Clip, given: int = 4) -> np.ndarray:
    """uint8 [B, T / EVERY, H, W, 3]: every eighth frame of dreams after ``given`` true frames of ``clip``."""
    rows, length = clip.frames.shape[:2]
    true = to_model(clip.frames, networks.device)
    poses = np.tile(np.eye(4), (rows, length, 1, 1)) if clip.poses is None else clip.poses
    shown = [clip.frames[:, 0]]
    with torch.autocast(networks.device.type, torch.bfloat16):
        memory = begin(networks, true[:, 0], poses[:, 0], np.arange(rows))
        for t in range(1, length):
            controls = Controls(clip.controls[:, t], poses[:, t], np.full(rows, clip.poses is not None))
            if t < given:
                unit = observe_unit(networks, memory, true[:, t], controls)
            else:
                unit = step_unit(networks, memory, controls, 2)
            if t % EVERY == 0:
                shown.append(to_frame(unit.frame.float()).cpu().numpy())
    return np.stack(shown, 1)
