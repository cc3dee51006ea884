"""Where a training stands, on disk: weights, Adam's moments and the clock. safetensors and JSON, written atomically."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from worldsim.errors import CheckpointError
from worldsim.networks import Networks


@dataclass(frozen=True, slots=True)
class Clock:
    """How far a training has come."""

    stage: int = 0
    seconds: float = 0.0
    """Spent in the stage."""
    step: int = 0
    """Steps taken in the stage."""
    done: bool = False


def save_state(folder: Path, networks: Networks, optimizer: torch.optim.Optimizer | None, clock: Clock) -> None:
    """Write weights and, inside a stage, the optimizer's moments."""
    tensors = {f"w.{name}": value.detach().cpu().contiguous() for name, value in networks.state_dict().items()}
    if optimizer is not None:
        for i, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"o.{i}.{name}": torch.as_tensor(value).cpu().contiguous() for name, value in moments.items()}
    _replace(folder / "state.safetensors", save(tensors, {"clock": json.dumps(asdict(clock))}))


def load_state(folder: Path, networks: Networks) -> tuple[Clock, dict[int, dict[str, torch.Tensor]]]:
    """Put the weights back; returns the clock and the optimizer's moments.

    Raises:
        CheckpointError: there is no state, or it belongs to other networks.
    """
    path = folder / "state.safetensors"
    if not path.exists():
        raise CheckpointError("there must be a state to resume from", str(path), "start without --resume")
    try:
        tensors = load_file(path)
        networks.load_state_dict({name[2:]: value for name, value in tensors.items() if name.startswith("w.")})
    except (RuntimeError, SafetensorError) as error:
        raise CheckpointError("a state must belong to these networks", str(error)[:200], "resume with the recipe it began with") from error
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("o."):
            _, i, field = name.split(".", 2)
            moments.setdefault(int(i), {})[field] = value
    return _read_clock(path), moments


def _read_clock(path: Path) -> Clock:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    return Clock(**json.loads(header["__metadata__"]["clock"]))


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
