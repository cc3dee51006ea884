"""The judge: reads motion and keys from frames. It has seen nothing but the real environment's own.

What a world dreams is judged by a network that never saw a dream, and whose accuracy on real frames that it
never saw either is the ceiling of every figure that it gives.

Shapes: N clips, T frames.
"""

from __future__ import annotations

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
from worldsim.evaluation.judge_network import HEIGHT, WIDTH, JudgeConfig, JudgeNetwork
from worldsim.pixels import resize_area, to_model

__all__ = ["Judge", "Verdict", "can_be_judged", "find_judge", "planar_motion", "small"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge sees in N clips of T frames."""

    motion: np.ndarray
    """``float64 [N, T - 1, 3]``: metres forward, metres right, radians to the right, frame to frame."""
    keys: np.ndarray
    """``bool [N, T - 1, M]``: which keys were held on the way."""
    features: np.ndarray
    """``float64 [N, T, D]``: code of each frame alone."""


class Judge:
    """A trained network and what it was trained on."""

    def __init__(self, network: JudgeNetwork, source: str, accuracy: dict[str, float]) -> None:
        self._network = network.eval().requires_grad_(False)
        self.source = source
        """Name of the environment."""
        self.accuracy = accuracy
        """How well it did on held-out real frames when it was trained."""

    def read(self, frames: np.ndarray) -> Verdict:
        """Judge clips ``uint8 [N, T, 60, 80, 3]``, T >= 2; see :func:`small`."""
        keys, motion, features = [], [], []
        scale = np.array(self._network.config.scale)
        with torch.inference_mode():
            for clip in frames:
                reading = self._network(to_model(clip[None]))
                motion.append(reading.motion[0].double().numpy() * scale)
                keys.append(reading.keys[0].numpy() > 0)
                features.append(reading.features[0].double().numpy())
        return Verdict(np.stack(motion), np.stack(keys), np.stack(features))

    def features(self, frames: np.ndarray) -> np.ndarray:
        """Codes ``float64 [..., D]`` of frames ``uint8 [..., 60, 80, 3]``, each judged alone."""
        flat = frames.reshape(-1, *frames.shape[-3:])
        with torch.inference_mode():
            codes = [self._network.encode(to_model(flat[i : i + 256])) for i in range(0, len(flat), 256)]
        return torch.cat(codes).double().numpy().reshape(*frames.shape[:-3], -1)

    def save(self, path: Path) -> None:
        """Write it: weights in float16, the rest as metadata."""
        weights = {name: value.half().contiguous() for name, value in self._network.state_dict().items()}
        about = {
            "config": config.to_dict(self._network.config),
            "source": self.source,
            "accuracy": self.accuracy,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        building = path.with_suffix(".tmp")
        building.write_bytes(save(weights, {"judge": json.dumps(about)}))
        building.replace(path)

    @staticmethod
    def load(path: Path) -> Judge:
        """Read one that :meth:`save` wrote.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["judge"])
                weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            network = JudgeNetwork(config.from_dict(JudgeConfig, about["config"]))
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
            rule, remedy = "a judge must be a file that `worldsim judge` wrote", "train it again"
            raise CheckpointError(rule, f"{path}: {error}", remedy) from error
        return Judge(network, about["source"], about["accuracy"])


def find_judge(spec: SourceSpec) -> Judge | None:
    """The shipped judge of a source; None where there is none."""
    path = checkpoints.FOLDER / "judges" / f"{spec.name}.safetensors"
    return Judge.load(path) if path.is_file() and can_be_judged(spec) else None


def can_be_judged(spec: SourceSpec) -> bool:
    """Whether a source has camera poses to learn from, and frames of a size that the judge can read."""
    return spec.has_pose and spec.size[0] % HEIGHT == 0 and spec.size[1] % WIDTH == 0


def small(frames: np.ndarray) -> np.ndarray:
    """Frames ``uint8 [..., H, W, 3]`` at the size that the judge reads."""
    return resize_area(frames, (HEIGHT, WIDTH))


def planar_motion(poses: np.ndarray) -> np.ndarray:
    """``float64 [..., T - 1, 3]`` of poses ``[..., T, 4, 4]``: metres forward and right, radians right."""
    moved = camera.relative(poses[..., :-1, :, :], poses[..., 1:, :, :])
    yaw = np.arctan2(moved[..., 0, 2], moved[..., 2, 2])
    return np.stack([moved[..., 2, 3], moved[..., 0, 3], yaw], -1)
