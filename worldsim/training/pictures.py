"""A strip of imagined over true frames, for a look every few minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from worldsim.data.clips import ClipStore
from worldsim.networks import Networks
from worldsim.pixels import to_frame, to_model
from worldsim.sampling.rollout import Controls, begin, observe_unit, step_unit


@torch.no_grad()
def write_strip(networks: Networks, clips: ClipStore, path: Path, rows: int = 4, length: int = 49) -> None:
    """``rows`` dreams of ``length`` frames under true controls and poses, every eighth frame, the true ones above."""
    clip = clips.sample(rows, length, np.random.default_rng(0))
    true = to_model(clip.frames, networks.device)
    poses = np.tile(np.eye(4), (rows, length, 1, 1)) if clip.poses is None else clip.poses
    shown = [clip.frames[:, 0]]
    with torch.autocast(networks.device.type, torch.bfloat16):
        memory = begin(networks, true[:, 0], poses[:, 0], np.arange(rows))
        for t in range(1, length):
            controls = Controls(clip.controls[:, t], poses[:, t], np.full(rows, clip.poses is not None))
            unit = observe_unit(networks, memory, true[:, t], controls) if t < 4 else step_unit(networks, memory, controls, 2)
            if t % 8 == 0:
                shown.append(to_frame(unit.frame.float()).cpu().numpy())
    truth = clip.frames[:, ::8]
    pairs = [np.concatenate([np.concatenate(list(truth[r]), 1), np.concatenate([f[r] for f in shown], 1)]) for r in range(rows)]
    Image.fromarray(np.concatenate(pairs)).save(path)
