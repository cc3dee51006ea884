"""A small policy on the latent of an imagined frame, and its file."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.distributions import Categorical

from worldsim import checkpoints
from worldsim.errors import CheckpointError, StorageError

__all__ = ["LatentPolicy", "PolicyMetadata", "find_policy", "load_policy", "save_policy"]

_METADATA = "policy"


@dataclass(frozen=True, kw_only=True)
class PolicyMetadata:
    """Metadata of a policy's file."""

    world: str
    """Name of the world that it learnt in."""
    features: int
    """Length of an observation, L."""
    actions: int
    """The world's key combinations."""
    hidden: int = 64
    hold: int = 4
    """Frames that every decision is held."""
    temperature: float = 1.0
    """Temperature of the dream."""
    frames: int = 0
    """Imagined frames that it learnt from."""


class LatentPolicy(nn.Module):
    """Observations float32 [B, L] to a distribution over actions and a value [B]; one layer of tanh units."""

    mean: Tensor
    std: Tensor

    def __init__(self, metadata: PolicyMetadata) -> None:
        super().__init__()
        self.metadata = metadata
        self.features = nn.Linear(metadata.features, metadata.hidden)
        self.actor = nn.Linear(metadata.hidden, metadata.actions)
        self.critic = nn.Linear(metadata.hidden, 1)
        self.register_buffer("mean", torch.zeros(metadata.features))
        self.register_buffer("std", torch.ones(metadata.features))
        with torch.no_grad():
            self.actor.weight.mul_(0.01)  # begin with every action about equally likely
            self.actor.bias.zero_()

    def forward(self, observations: Tensor) -> tuple[Categorical, Tensor]:
        hidden = torch.tanh(self.features((observations - self.mean) / self.std))
        return Categorical(logits=self.actor(hidden)), self.critic(hidden).squeeze(-1)

    def normalise(self, observations: Tensor) -> None:
        """Take mean and deviation of ``observations`` [..., L] for those that inputs are scaled by."""
        rows = observations.flatten(0, -2)
        self.mean.copy_(rows.mean(0))
        self.std.copy_(rows.std(0).clamp(min=1e-2))


def save_policy(path: Path, policy: LatentPolicy, metadata: PolicyMetadata) -> None:
    """Write a policy's weights and ``metadata``, whole or not at all.

    Raises:
        StorageError: the file cannot be written.
    """
    tensors = {name: part.detach().cpu().contiguous() for name, part in policy.state_dict().items()}
    blob = save(tensors, {_METADATA: json.dumps(asdict(metadata), sort_keys=True)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(blob)
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError as error:
        raise StorageError.of(error, path) from error


def load_policy(path: Path) -> LatentPolicy:
    """A policy from its file.

    Raises:
        CheckpointError: there is no such file, or it holds no policy.
    """
    rule = "a policy must be a file that `worldsim dream-train` wrote"
    try:
        with safe_open(path, "pt") as file:
            fields = json.loads((file.metadata() or {})[_METADATA])
        policy = LatentPolicy(PolicyMetadata(**fields))
        policy.load_state_dict(load_file(path))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(rule, f"{path}: {error}", "train one, or name another file") from error
    return policy.eval()


def find_policy(world: str) -> Path:
    """The file of the policy that is shipped for a world.

    Raises:
        CheckpointError: none is.
    """
    path = checkpoints.FOLDER / "policies" / f"{world}.safetensors"
    if not path.is_file():
        rule = f"no policy is shipped for {world}"
        raise CheckpointError(rule, str(path), "train one with `worldsim dream-train`, and name its file")
    return path
