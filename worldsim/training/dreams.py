"""Dreams of recorded clips, as play would have them: for pictures, and to see whether keys are obeyed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from worldsim.data.clips import Clip, ClipStore
from worldsim.networks import Networks
from worldsim.pixels import to_model
from worldsim.sampling.clock import begin, next_frame, observe_frame
from worldsim.sampling.lead import Controls

GIVEN = 4
"""True frames before a dream begins."""


@torch.no_grad()
def dream(networks: Networks, clip: Clip, *, given_poses: bool) -> Iterator[Tensor]:
    """Frames [B, 3, H, W] in [-1, 1] of dreams under the controls of ``clip``, from its frame 1 on.

    The first ``GIVEN`` frames are the clip's own. ``given_poses``: cameras go where the clip's went; without,
    where the keys lead.
    """
    rows, length = clip.frames.shape[:2]
    true = to_model(clip.frames, networks.device)
    poses = np.tile(np.eye(4), (rows, length, 1, 1)) if clip.poses is None else clip.poses
    with torch.autocast(networks.device.type, torch.bfloat16):
        memory = begin(networks, true[:, 0], poses[:, 0], np.arange(rows))
        for t in range(1, length):
            is_true = t < GIVEN
            asked = np.full(rows, clip.poses is not None and (is_true or given_poses))
            controls = Controls(clip.controls[:, t], poses[:, t], asked)
            if is_true:
                yield observe_frame(networks, memory, true[:, t], controls).frame
            else:
                yield next_frame(networks, memory, controls, networks.sampler.default_steps).frame


def obedience_gap(networks: Networks, clips: ClipStore, rows: int = 8, frames: int = 16) -> float:
    """By how many dB dreams of ``frames`` frames are better under the true keys than under another clip's.

    0: keys are ignored. Always of the same clips, without their poses; of fewer frames where no episode is
    as long.
    """
    length = min(GIVEN + frames, max(episode.length for episode in clips.episodes))
    clip = clips.sample(rows, length, np.random.default_rng(1))
    controls = clip.controls.copy()
    controls[:, GIVEN:] = np.roll(controls[:, GIVEN:], 1, 0)
    other = Clip(clip.frames, controls, clip.poses, clip.rewards, clip.ends)
    true = to_model(clip.frames, networks.device)
    fidelity = []
    for one in (clip, other):
        shown = torch.stack([*dream(networks, one, given_poses=False)][GIVEN - 1 :], 1).float()
        squared = (shown - true[:, GIVEN:]).square().mean((-3, -2, -1))
        fidelity.append((-10 * torch.log10(squared.clamp(min=4e-6) / 4)).mean().item())
    return fidelity[0] - fidelity[1]
