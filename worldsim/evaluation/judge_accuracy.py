"""How well a judge reads real frames that it never saw: the ceiling of every figure that it gives.

Shapes: N clips, T frames, M keys.
"""

from __future__ import annotations

import numpy as np
import torch

from worldsim.evaluation.judge import Judge
from worldsim.evaluation.judge_footage import Footage
from worldsim.evaluation.judge_network import JudgeNetwork
from worldsim.evaluation.judge_track import between, wrapped
from worldsim.evaluation.obedience import LEAST_WAY, in_seconds

__all__ = ["accuracy_of"]

_LENGTH = 65
"""Frames of a clip: as many as of a dream that is judged."""


def accuracy_of(network: JudgeNetwork, footage: Footage, fps: float) -> dict[str, float]:
    """Errors of the motion per frame and per second, and the balanced accuracy of each key."""
    judge, second = Judge(network, "", {}), max(round(fps), 1)
    length = min(_LENGTH, int(footage.lengths.max()))
    frames, controls, tracks = footage.clips(footage.starts(length)[::length], length)
    verdict = judge.read(frames)
    true = between(torch.from_numpy(tracks)).numpy()
    off = verdict.motion - true
    accuracy = {
        "metres_per_frame": float(np.linalg.norm(off[..., :2], axis=-1).mean()),
        "degrees_per_frame": float(np.degrees(np.abs(off[..., 2])).mean()),
        "metres_moved": float(np.linalg.norm(true[..., :2], axis=-1).mean()),
        "degrees_moved": float(np.degrees(np.abs(true[..., 2])).mean()),
    }
    if true.shape[1] >= second:
        accuracy |= _per_second(verdict.motion, true, second)
    for i, key in enumerate(network.config.keys):
        held, seen = controls[:, 1:, i] > 0.5, verdict.keys[..., i]
        rates = [np.mean(seen[held]), np.mean(~seen[~held])] if held.any() and not held.all() else [np.nan]
        accuracy[key] = float(np.mean(rates))
    return accuracy


def _per_second(seen: np.ndarray, true: np.ndarray, second: int) -> dict[str, float]:
    seen, true = in_seconds(seen, second), in_seconds(true, second)
    turned = wrapped(torch.from_numpy(seen - true)[..., 2]).abs().numpy()
    way = np.linalg.norm(true[..., :2], axis=-1)
    is_way = way > LEAST_WAY
    off = np.linalg.norm((seen - true)[..., :2], axis=-1)
    share = float(100 * off[is_way].sum() / way[is_way].sum()) if is_way.any() else float("nan")
    return {"degrees_per_second": float(np.degrees(turned).mean()), "percent_per_second": share}
