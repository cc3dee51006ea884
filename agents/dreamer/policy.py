"""A small policy on the latent of an imagined frame, and its file.

A world's folder may hold the policy that is shipped with it, ``policy.safetensors``.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.distributions import Categorical

from worldsim.checkpoint import find_world, write_checksums
from worldsim.errors import CheckpointError, ConfigError, StorageError

__all__ = [
    "POLICY",
    "LatentPolicy",
    "PolicyMetadata",
    "find_policy",
    "load_policy",
    "save_policy",
    "ship_policy",
]

POLICY = "policy.safetensors"
"""Name of a policy's file in a world's folder, and in the folder of a round."""
_METADATA = "policy"
_MOST_HIDDEN, _MOST_LAYERS = 4096, 2
_LEAST_DEVIATION = 1e-2
"""Standard deviation below which inputs and principal components are not scaled up any further."""


@dataclass(frozen=True, kw_only=True)
class PolicyMetadata:
    """Metadata of a policy's file.

    Raises:
        ConfigError: sizes out of their ranges.
    """

    world: str
    """Name of the world that it learnt in."""
    features: int
    """Length of an observation, L."""
    actions: int
    """The world's key combinations."""
    hidden: int = 64
    """Units of a layer, 1 to 4096; without layers: principal components, C."""
    layers: int = 1
    """Layers of tanh units, 1 or 2; 0: the policy is linear on principal components of observations."""
    hold: int = 4
    """Frames that every decision is held."""
    temperature: float = 1.0
    """Temperature of the dream."""
    frames: int = 0
    """Imagined frames that it learnt from."""
    reward: Literal["survival", "world"] = "survival"
    """The reward that it learnt for: a long life, or the world's rewards."""

    def __post_init__(self) -> None:
        if not 1 <= self.hidden <= _MOST_HIDDEN or not 0 <= self.layers <= _MOST_LAYERS:
            rule = f"a policy has 1 to {_MOST_HIDDEN} units in at most {_MOST_LAYERS} layers"
            raise ConfigError(rule, (self.hidden, self.layers))
        if min(self.features, self.actions, self.hold) < 1:
            rule = "a policy has features, actions, and frames that a decision is held"
            raise ConfigError(rule, (self.features, self.actions, self.hold))
        if not self.layers and self.hidden > self.features:
            rule = f"a policy has no more principal components than features, {self.features}"
            raise ConfigError(rule, self.hidden, "use fewer: --hidden")


class LatentPolicy(nn.Module):
    """Observations float32 [B, L] to a distribution over actions and a value [B]; layers of tanh units.

    Without layers it is the controller of Ha and Schmidhuber (2018), "World Models": linear on the latent
    state, here on its first principal components, which ``project`` sets. Its value is not learnt.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, metadata: PolicyMetadata) -> None:
        super().__init__()
        self.metadata = metadata
        self.features = nn.Linear(metadata.features, metadata.hidden)
        deeper = metadata.layers - 1
        self.deeper = nn.ModuleList(nn.Linear(metadata.hidden, metadata.hidden) for _ in range(deeper))
        self.actor = nn.Linear(metadata.hidden, metadata.actions)
        self.critic = nn.Linear(metadata.hidden, 1)
        self.register_buffer("mean", torch.zeros(metadata.features))
        self.register_buffer("std", torch.ones(metadata.features))
        with torch.no_grad():
            self.actor.weight.mul_(0.01)  # begin with every action about equally likely
            self.actor.bias.zero_()

    def forward(self, observations: Tensor) -> tuple[Categorical, Tensor]:
        hidden = self.encode(observations)
        return Categorical(logits=self.actor(hidden)), self.critic(hidden).squeeze(-1)

    def encode(self, observations: Tensor) -> Tensor:
        """Activations of the last layer, float32 [B, hidden]; without layers the principal components."""
        hidden = self.features((observations - self.mean) / self.std)
        if not self.metadata.layers:
            return hidden
        hidden = torch.tanh(hidden)
        for layer in self.deeper:
            hidden = torch.tanh(layer(hidden))
        return hidden

    def normalise(self, observations: Tensor) -> None:
        """Take mean and deviation of ``observations`` [..., L] for those that inputs are scaled by."""
        rows = observations.flatten(0, -2)
        self.mean.copy_(rows.mean(0))
        self.std.copy_(rows.std(0).clamp(min=_LEAST_DEVIATION))

    @torch.no_grad()
    def project(self, observations: Tensor) -> None:
        """Set the features to the whitened principal components of ``observations`` [..., L].

        Observations are normalised first. Over them each component has mean 0 and variance 1, the one of the
        largest variance first; one that hardly varies is scaled by ``1 / _LEAST_DEVIATION`` at most.

        Raises:
            ConfigError: no more observations than components.
        """
        rows = ((observations.flatten(0, -2) - self.mean) / self.std).double().cpu()
        count = self.metadata.hidden
        if len(rows) <= count:
            rule = f"{count} principal components need more observations than that"
            raise ConfigError(rule, len(rows), "use more dreams, or fewer components: --hidden")
        variances, axes = torch.linalg.eigh(torch.cov(rows.T))
        deviations = variances[-count:].clamp(min=_LEAST_DEVIATION**2).sqrt()
        weight = (axes[:, -count:] / deviations).T.flip(0)
        self.features.weight.copy_(weight)
        self.features.bias.copy_(-weight @ rows.mean(0))


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


def load_policy(path: str | os.PathLike[str]) -> LatentPolicy:
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
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        raise CheckpointError(rule, f"{path}: {error}", "train one, or name another file") from error
    return policy.eval()


def find_policy(world: str | os.PathLike[str]) -> Path:
    """The file of the policy in a world's folder.

    Args:
        world: name of a shipped world, or a folder.

    Raises:
        CheckpointError: there is no such world, or no policy in its folder.
    """
    path = find_world(world) / POLICY
    if not path.is_file():
        rule = f"no policy is shipped with {Path(world).name}"
        raise CheckpointError(rule, str(path), "train one with `worldsim dream-train`, and name its file")
    return path


def ship_policy(world: str | os.PathLike[str], file: str | os.PathLike[str]) -> Path:
    """Copy a policy into the folder of the world that it plays, and renew the folder's checksums.

    Args:
        world: name of a shipped world, or a folder.
        file: the policy's.

    Returns:
        the copy's path.

    Raises:
        CheckpointError: there is no such world, or ``file`` holds no policy.
        StorageError: the folder cannot be written.
    """
    folder, policy = find_world(world), load_policy(file)
    save_policy(folder / POLICY, policy, policy.metadata)
    try:
        write_checksums(folder)
    except OSError as error:
        raise StorageError.of(error, folder) from error
    return folder / POLICY
