"""A trained baseline: saved, loaded, and rolling out like a world."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from worldsim import config
from worldsim.errors import CheckpointError, WorldsimError
from worldsim.evaluation.baselines.network import BaselineConfig, BaselineNetwork
from worldsim.pixels import to_frame, to_model

__all__ = ["Baseline"]

_DAMAGE = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, WorldsimError)


class Baseline:
    """A network, and what is told of its training."""

    def __init__(self, network: BaselineNetwork, minutes: float) -> None:
        self.network = network.eval().requires_grad_(False)
        self.minutes = minutes
        """Minutes of training."""

    @property
    def name(self) -> str:
        """Name: "convlstm" or "predrnn"."""
        return self.network.config.kind

    def rollout(self, frames: np.ndarray, controls: np.ndarray, context: int) -> np.ndarray:
        """Continue from the first ``context`` of ``frames`` [N, T, H, W, 3] under ``controls`` [N, F, M].

        Returns ``uint8 [N, F - context, H, W, 3]``.
        """
        held = torch.from_numpy(controls.astype(np.float32))
        with torch.inference_mode():
            shown = self.network(to_model(frames[:, :context]), held, context)
        return to_frame(shown[:, context - 1 :].clamp(-1, 1)).numpy()

    def save(self, path: Path) -> None:
        """Write it: weights in float16, the rest as metadata."""
        weights = {name: value.half().contiguous() for name, value in self.network.state_dict().items()}
        about = {"config": config.to_dict(self.network.config), "minutes": self.minutes}
        path.parent.mkdir(parents=True, exist_ok=True)
        building = path.with_suffix(".tmp")
        building.write_bytes(save(weights, {"baseline": json.dumps(about)}))
        building.replace(path)

    @staticmethod
    def load(path: Path) -> Baseline:
        """Read one that :meth:`save` wrote.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["baseline"])
                weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            network = BaselineNetwork(config.from_dict(BaselineConfig, about["config"]))
            network.load_state_dict(weights)
        except _DAMAGE as error:
            rule, remedy = "a baseline must be a file that `worldsim baseline` wrote", "train it again"
            raise CheckpointError(rule, f"{path}: {error}", remedy) from error
        return Baseline(network, about["minutes"])
