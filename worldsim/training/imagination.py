"""Rollouts of recorded clips, as at inference: for sample grids and ``action_psnr_gap``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from worldsim.data.clips import Clip, ClipStore
from worldsim.networks import Networks
from worldsim.pixels import to_model
from worldsim.sampling.clock import imagine_frame, init_state, observe_frame
from worldsim.sampling.control_batch import ControlBatch
from worldsim.utils.mixed_precision import mixed_precision

CONTEXT_FRAMES = 4
"""True frames before a rollout begins."""


@torch.no_grad()
def imagine(networks: Networks, clip: Clip, *, given_poses: bool) -> Iterator[Tensor]:
    """Frames [B, 3, H, W] in [-1, 1] of rollouts under the controls of ``clip``, from its frame 1 on.

    The first ``CONTEXT_FRAMES`` frames are the clip's own. ``given_poses``: cameras follow the clip's poses;
    else the keys.
    """
    rows, length = clip.frames.shape[:2]
    true = to_model(clip.frames, networks.device)
    poses = np.tile(np.eye(4), (rows, length, 1, 1)) if clip.poses is None else clip.poses
    with mixed_precision(networks.device.type):
        memory = init_state(networks, true[:, 0], poses[:, 0], np.arange(rows))
        for t in range(1, length):
            is_true = t < CONTEXT_FRAMES
            asked = np.full(rows, clip.poses is not None and (is_true or given_poses))
            controls = ControlBatch(clip.controls[:, t], poses[:, t], asked)
            if is_true:
                yield observe_frame(networks, memory, true[:, t], controls).frame
            else:
                yield imagine_frame(networks, memory, controls, networks.sampler.default_steps).frame


def action_psnr_gap(networks: Networks, clips: ClipStore, rows: int = 8, frames: int = 16) -> float:
    """Return the dB by which rollouts are better under the true keys than under another clip's.

    0: keys are ignored. The clips are always the same, without poses; shorter where no episode is as long as
    ``frames``.
    """
    length = min(CONTEXT_FRAMES + frames, max(episode.length for episode in clips.episodes))
    clip = clips.sample(rows, length, np.random.default_rng(1))
    controls = clip.controls.copy()
    controls[:, CONTEXT_FRAMES:] = np.roll(controls[:, CONTEXT_FRAMES:], 1, 0)
    other = Clip(clip.frames, controls, clip.poses, clip.rewards, clip.ends)
    true = to_model(clip.frames, networks.device)
    fidelity = []
    for one in (clip, other):
        shown = torch.stack([*imagine(networks, one, given_poses=False)][CONTEXT_FRAMES - 1 :], 1).float()
        squared = (shown - true[:, CONTEXT_FRAMES:]).square().mean((-3, -2, -1))
        fidelity.append((-10 * torch.log10(squared.clamp(min=4e-6) / 4)).mean().item())
    return fidelity[0] - fidelity[1]
