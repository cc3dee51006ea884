"""Accuracy of the inverse dynamics model on held-out real frames: the upper reference of its metrics.

Shapes: N clips, T frames, M keys.
"""

from __future__ import annotations

import numpy as np
import torch

from worldsim.evaluation.controllability import MIN_DISTANCE, per_second
from worldsim.evaluation.idm.collect import LabelledFrames
from worldsim.evaluation.idm.fuse_track import motion_between, wrap_angle
from worldsim.evaluation.idm.model import InverseDynamicsModel
from worldsim.evaluation.idm.network import IDMNetwork

__all__ = ["measure_accuracy"]

_LENGTH = 65
"""Frames of a clip: as many as the model reads of a rollout."""


def measure_accuracy(network: IDMNetwork, labelled: LabelledFrames, fps: float) -> dict[str, float]:
    """Return errors of the motion per frame and per second, and the balanced accuracy of each key."""
    idm, second = InverseDynamicsModel(network, "", {}), max(round(fps), 1)
    length = min(_LENGTH, int(labelled.lengths.max()))
    frames, controls, tracks = labelled.clips(labelled.starts(length)[::length], length)
    prediction = idm.predict(frames)
    true = motion_between(torch.from_numpy(tracks)).numpy()
    off = prediction.motion - true
    accuracy = {
        "metres_per_frame": float(np.linalg.norm(off[..., :2], axis=-1).mean()),
        "degrees_per_frame": float(np.degrees(np.abs(off[..., 2])).mean()),
        "metres_moved": float(np.linalg.norm(true[..., :2], axis=-1).mean()),
        "degrees_moved": float(np.degrees(np.abs(true[..., 2])).mean()),
    }
    if true.shape[1] >= second:
        accuracy |= _per_second(prediction.motion, true, second)
    for i, key in enumerate(network.config.keys):
        held, seen = controls[:, 1:, i] > 0.5, prediction.keys[..., i]
        rates = [np.mean(seen[held]), np.mean(~seen[~held])] if held.any() and not held.all() else [np.nan]
        accuracy[key] = float(np.mean(rates))
    return accuracy


def _per_second(seen: np.ndarray, true: np.ndarray, second: int) -> dict[str, float]:
    seen, true = per_second(seen, second), per_second(true, second)
    turned = wrap_angle(torch.from_numpy(seen - true)[..., 2]).abs().numpy()
    way = np.linalg.norm(true[..., :2], axis=-1)
    is_way = way > MIN_DISTANCE
    off = np.linalg.norm((seen - true)[..., :2], axis=-1)
    share = float(100 * off[is_way].sum() / way[is_way].sum()) if is_way.any() else float("nan")
    return {"degrees_per_second": float(np.degrees(turned).mean()), "percent_per_second": share}
