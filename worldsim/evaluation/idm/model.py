"""The IDM: reads motion and keys from frames. It has seen nothing but the real environment's own.

What a world rollouts is read by the IDM by a network that never saw a rollout, and whose accuracy on real frames that it
never saw either is the upper reference of every metric that it gives.

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
"""Steps that are told from one window, and frames before and after them that are looked at as well: as far as
the network sees in time."""
_AT_ONCE = 256
"""Frames that are read at once, about."""


@dataclass(frozen=True, slots=True)
class IDMPrediction:
    """What the IDM sees in N clips of T frames."""

    motion: np.ndarray
    """``float64 [N, T - 1, 3]``: metres forward, metres right, radians to the right, frame to frame."""
    keys: np.ndarray
    """``bool [N, T - 1, M]``: which keys were held on the way."""
    features: np.ndarray
    """``float64 [N, T, D]``: code of each frame alone."""


class InverseDynamicsModel:
    """A trained network and what it was trained on."""

    def __init__(self, network: IDMNetwork, source: str, accuracy: dict[str, float]) -> None:
        self.network = network.eval().requires_grad_(False)
        """In evaluation mode."""
        self.source = source
        """Name of the environment."""
        self.accuracy = accuracy
        """How well it did on held-out real frames when it was trained."""

    def predict(self, frames: np.ndarray) -> IDMPrediction:
        """InverseDynamicsModel clips ``uint8 [N, T, 60, 80, 3]``, T >= 2; see :func:`resize_for_idm`.

        Long ones are read in windows that overlap, so that each motion has its past and future in view.
        """
        parts = [self._read(frames[:, window.seen], window) for window in _windows(frames.shape[1])]
        return IDMPrediction(
            *(
                np.concatenate([getattr(part, field.name) for part in parts], 1)
                for field in dataclasses.fields(IDMPrediction)
            )
        )

    def features(self, frames: np.ndarray) -> np.ndarray:
        """Codes ``float64 [..., D]`` of frames ``uint8 [..., 60, 80, 3]``, each encoded alone."""
        flat = frames.reshape(-1, *frames.shape[-3:])
        with torch.inference_mode():
            codes = [self.network.encode(to_model(flat[i : i + 256])) for i in range(0, len(flat), 256)]
        return torch.cat(codes).double().numpy().reshape(*frames.shape[:-3], -1)

    def _read(self, clips: np.ndarray, window: _Window) -> IDMPrediction:
        """Read what a window shows of clips, a few at a time; what it does not tell is left out."""
        some, told = max(_AT_ONCE // clips.shape[1], 1), window.told
        frames = slice(told.start + 1 if window.seen.start + told.start else 0, told.stop + 1)
        motion, keys, features = [], [], []
        with torch.inference_mode():
            for first in range(0, len(clips), some):
                output = self.network(to_model(clips[first : first + some]))
                motion.append(motion_between(output.track)[:, told].double().numpy())
                keys.append(output.keys[:, told].numpy() > 0)
                features.append(output.features[:, frames].double().numpy())
        return IDMPrediction(np.concatenate(motion), np.concatenate(keys), np.concatenate(features))

    def save(self, path: Path) -> None:
        """Write it: matrices in float16, vectors as they are, the rest as metadata."""
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
        """Read one that :meth:`save` wrote.

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
    """The shipped IDM of a source; None where there is none."""
    path = checkpoints.FOLDER / "idm" / f"{spec.name}.safetensors"
    return InverseDynamicsModel.load(path) if path.is_file() and idm_supports(spec) else None


def idm_supports(spec: SourceSpec) -> bool:
    """Whether a source has camera poses to learn from, and frames of a size that the IDM can read."""
    return spec.has_pose and spec.size[0] % HEIGHT == 0 and spec.size[1] % WIDTH == 0


def resize_for_idm(frames: np.ndarray) -> np.ndarray:
    """Frames ``uint8 [..., H, W, 3]`` at the size that the IDM reads."""
    return resize_area(frames, (HEIGHT, WIDTH))


@dataclass(frozen=True, slots=True)
class _Window:
    """Of a long clip."""

    seen: slice
    """Frames that are read."""
    told: slice
    """Steps between them that count."""


def _windows(length: int) -> list[_Window]:
    """Windows whose steps, one after the other, are those of a clip of ``length`` frames."""
    windows = []
    for first in range(0, length - 1, _WINDOW):
        last = min(first + _WINDOW, length - 1)
        start = max(first - _MARGIN, 0)
        windows.append(_Window(slice(start, last + 1 + _MARGIN), slice(first - start, last - start)))
    return windows


def ego_motion(poses: np.ndarray) -> np.ndarray:
    """``float64 [..., T - 1, 3]`` of poses ``[..., T, 4, 4]``: metres forward and right, radians right."""
    moved = camera.relative(poses[..., :-1, :, :], poses[..., 1:, :, :])
    yaw = np.arctan2(moved[..., 0, 2], moved[..., 2, 2])
    return np.stack([moved[..., 2, 3], moved[..., 0, 3], yaw], -1)
