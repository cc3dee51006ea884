"""The state of a training on disk: weights, optimizer state, progress; safetensors, written atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from worldsim.errors import CheckpointError
from worldsim.networks import Networks

STATE = "state.safetensors"
"""Name of the file in a run's folder."""

OptimizerState = dict[int, dict[str, torch.Tensor]]
"""Adam's moments of each parameter, by the parameter's number."""


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """Progress of a training."""

    stage: int = 0
    """Number of the current or next stage."""
    seconds: float = 0.0
    """Seconds spent in the stage."""
    step: int = 0
    """Steps taken in the stage."""
    done: bool = False
    """All stages are done."""
    name: str = ""
    """Name of the stage, so that a plan with other stages is noticed; empty where none is left."""


def save_state(
    folder: Path,
    networks: Networks,
    optimizer: torch.optim.Optimizer | None,
    progress: TrainProgress,
    companions: Sequence[nn.Module] = (),
) -> None:
    """Write weights, also those of ``companions``, and, inside a stage, the optimizer's state."""
    tensors = {f"w.{name}": _plain(value) for name, value in networks.state_dict().items()}
    for i, companion in enumerate(companions):
        tensors |= {f"c.{i}.{name}": _plain(value) for name, value in companion.state_dict().items()}
    if optimizer is not None:
        for i, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"o.{i}.{name}": _plain(torch.as_tensor(value)) for name, value in moments.items()}
    _replace(folder / STATE, save(tensors, {"progress": json.dumps(asdict(progress))}))


def load_state(
    folder: Path, networks: Networks, companions: Sequence[nn.Module] = ()
) -> tuple[TrainProgress, OptimizerState]:
    """Load the weights into ``networks`` and ``companions``; return the progress and the optimizer's state.

    Raises:
        CheckpointError: there is no state, it is damaged, or it belongs to other networks.
    """
    path = folder / STATE
    if not path.exists():
        raise CheckpointError("there must be a state to resume from", str(path), "start without --resume")
    try:
        progress, tensors = _read_progress(path), load_file(path)
        networks.load_state_dict(_under("w.", tensors))
        for i, companion in enumerate(companions):
            companion.load_state_dict(_under(f"c.{i}.", tensors))
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        rule = "a state must be whole and of these networks"
        raise CheckpointError(rule, str(error)[:200], "resume with the recipe it began with") from error
    moments: OptimizerState = {}
    for name, value in tensors.items():
        if name.startswith("o."):
            _, number, field = name.split(".", 2)
            moments.setdefault(int(number), {})[field] = value
    return progress, moments


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    named = tensors.items()
    return {name.removeprefix(prefix): value for name, value in named if name.startswith(prefix)}


def _plain(value: torch.Tensor) -> torch.Tensor:
    return value.detach().cpu().contiguous()


def _read_progress(path: Path) -> TrainProgress:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    return TrainProgress(**json.loads(header["__metadata__"]["progress"]))


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
