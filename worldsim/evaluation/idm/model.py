"""The inverse dynamics model: predicts camera motion and keys from frames; trained on real frames alone.

It never saw a rollout of any world. Its accuracy on held-out real frames is the upper reference of every
metric that uses it.

Shapes: N clips, T frames.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from worldsim import camera, checkpoints, config
from worldsim.data.spec import SourceSpec
from worldsim.errors import CheckpointError, WorldsimError
from worldsim.evaluation.idm.fuse_track import motion_between
from worldsim.evaluation.idm.network import HEIGHT, WIDTH, IDMConfig, IDMNetwork
from worldsim.pixels import resize_area, to_model

__all__ = [
    "IDMPrediction",
    "InverseDynamicsModel",
    "ego_motion",
    "find_idm",
    "idm_supports",
    "resize_for_idm",
]

_WINDOW, _MARGIN = 64, 12
"""Steps that one window predicts, and extra frames on either side: its temporal receptive field."""
_BATCH_FRAMES = 256
"""Frames that are read at once, approximately."""


@dataclass(frozen=True, slots=True)
class IDMPrediction:
    """Predictions for N clips of T frames."""

    motion: np.ndarray
    """``float64 [N, T - 1, 3]``: metres forward, metres right, radians to the right, frame to frame."""
    keys: np.ndarray
    """``bool [N, T - 1, M]``: keys that were held."""
    features: np.ndarray
    """``float64 [N, T, D]``: features of each frame alone."""


class InverseDynamicsModel:
    """A trained network, the name of its source and its accuracy."""

    def __init__(self, network: IDMNetwork, source: str, accuracy: dict[str, float]) -> None:
        self.network = network.eval().requires_grad_(False)
        """The network, in evaluation mode."""
        self.source = source
        """Name of the source."""
        self.accuracy = accuracy
        """Accuracy on held-out real frames when it was trained."""

    def predict(self, frames: np.ndarray) -> IDMPrediction:
        """Predict motion, keys and features of clips ``uint8 [N, T, 60, 80, 3]``, T >= 2.

        Long clips are read in overlapping windows, so that each motion has past and future frames in view.
        """
        parts = [self._read(frames[:, window.seen], window) for window in _windows(frames.shape[1])]
        return IDMPrediction(
            *(
                np.concatenate([getattr(part, field.name) for part in parts], 1)
                for field in dataclasses.fields(IDMPrediction)
            )
        )

    def features(self, frames: np.ndarray) -> np.ndarray:
        """Return features ``float64 [..., D]`` of frames ``uint8 [..., 60, 80, 3]``, each encoded alone."""
        flat = frames.reshape(-1, *frames.shape[-3:])
        with torch.inference_mode():
            codes = [
                self.network.encode_frames(to_model(flat[i : i + 256])) for i in range(0, len(flat), 256)
            ]
        return torch.cat(codes).double().numpy().reshape(*frames.shape[:-3], -1)

    def _read(self, clips: np.ndarray, window: _Window) -> IDMPrediction:
        """Predict a window of clips, a few clips at a time, without the window's margins."""
        some, steps = max(_BATCH_FRAMES // clips.shape[1], 1), window.predicted
        frames = slice(steps.start + 1 if window.seen.start + steps.start else 0, steps.stop + 1)
        motion, keys, features = [], [], []
        with torch.inference_mode():
            for first in range(0, len(clips), some):
                output = self.network(to_model(clips[first : first + some]))
                motion.append(motion_between(output.track)[:, steps].double().numpy())
                keys.append(output.keys[:, steps].numpy() > 0)
                features.append(output.features[:, frames].double().numpy())
        return IDMPrediction(np.concatenate(motion), np.concatenate(keys), np.concatenate(features))

    def save(self, path: Path) -> None:
        """Write the model: matrices in float16, vectors as they are, the rest as metadata."""
        weights = {
            name: (value.half() if value.ndim > 1 else value).contiguous()
            for name, value in self.network.state_dict().items()
        }
        about = {
            "config": config.to_dict(self.network.config),
            "source": self.source,
            "accuracy": self.accuracy,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        building = path.with_suffix(".tmp")
        building.write_bytes(save(weights, {"idm": json.dumps(about)}))
        building.replace(path)

    @staticmethod
    def load(path: Path) -> InverseDynamicsModel:
        """Load a file that :meth:`save` wrote.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["idm"])
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            network = IDMNetwork(config.from_dict(IDMConfig, about["config"]))
            network.load_state_dict(weights)
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            RuntimeError,
            SafetensorError,
            WorldsimError,
        ) as error:
            rule, remedy = "an IDM must be a file that `worldsim train-idm` wrote", "train it again"
            raise CheckpointError(rule, f"{path}: {error}", remedy) from error
        return InverseDynamicsModel(network, about["source"], about["accuracy"])


def find_idm(spec: SourceSpec) -> InverseDynamicsModel | None:
    """Return the shipped model of a source; None where there is none."""
    path = checkpoints.FOLDER / "idm" / f"{spec.name}.safetensors"
    return InverseDynamicsModel.load(path) if path.is_file() and idm_supports(spec) else None


def idm_supports(spec: SourceSpec) -> bool:
    """True for sources with camera poses and frames of a size that the model can read."""
    return spec.has_pose and spec.size[0] % HEIGHT == 0 and spec.size[1] % WIDTH == 0


def resize_for_idm(frames: np.ndarray) -> np.ndarray:
    """Resize frames ``uint8 [..., H, W, 3]`` to the input size of the model."""
    return resize_area(frames, (HEIGHT, WIDTH))


@dataclass(frozen=True, slots=True)
class _Window:
    """Window of a long clip."""

    seen: slice
    """Frames that are read."""
    predicted: slice
    """Steps between them that are returned."""


def _windows(length: int) -> list[_Window]:
    """Return windows whose steps, concatenated, are those of a clip of ``length`` frames."""
    windows = []
    for first in range(0, length - 1, _WINDOW):
        last = min(first + _WINDOW, length - 1)
        start = max(first - _MARGIN, 0)
        windows.append(_Window(slice(start, last + 1 + _MARGIN), slice(first - start, last - start)))
    return windows


def ego_motion(poses: np.ndarray) -> np.ndarray:
    """Return motions ``float64 [..., T - 1, 3]`` of poses: metres forward and right, radians to the right."""
    moved = camera.relative(poses[..., :-1, :, :], poses[..., 1:, :, :])
    yaw = np.arctan2(moved[..., 0, 2], moved[..., 2, 2])
    return np.stack([moved[..., 2, 3], moved[..., 0, 3], yaw], -1)
