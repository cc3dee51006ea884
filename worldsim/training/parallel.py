"""Data-parallel training: every process draws its own batch, and all take one step with the mean gradient.

``torchrun --nproc-per-node 4 -m worldsim.cli train ...`` starts the processes and sets RANK, WORLD_SIZE and
LOCAL_RANK; without these there is one process, and nothing here costs anything. The first process keeps the
time, saves, and writes what there is to look at.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from worldsim.errors import ConfigError
from worldsim.networks import Networks, find_device

__all__ = ["ALONE", "Group", "joined"]

_PATIENCE = timedelta(minutes=10)
"""How long one process waits for the others, whose looks and saves take seconds."""


@dataclass(frozen=True, slots=True)
class Group:
    """The processes that train together."""

    rank: int = 0
    size: int = 1
    clock: dist.ProcessGroup | None = None
    """On the host: what all are told of the time must not wait for a GPU."""

    @property
    def is_first(self) -> bool:
        """Whether this process keeps the time, saves and shows."""
        return self.rank == 0

    @property
    def chance(self) -> list[int]:
        """What the seed of a step's chance ends with; nothing in the first process."""
        return [self.rank] if self.rank else []

    def average(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Replace a detached loss and all gradients by their means over all processes.

        A parameter without a gradient, which another process may have one of, gets 0.
        """
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        tensors = [loss, *(parameter.grad for parameter in parameters if parameter.grad is not None)]
        flat = torch.cat([tensor.flatten().float() for tensor in tensors])
        dist.all_reduce(flat)
        parts = (flat / self.size).split([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, parts, strict=True):
            tensor.copy_(mean.view_as(tensor))

    def agree(self, networks: Networks) -> None:
        """Give all processes the first one's weights and buffers."""
        if self.size > 1:
            for tensor in networks.state_dict().values():
                dist.broadcast(tensor, 0)

    def told(self, seconds: float) -> float:
        """The first process's ``seconds``, in all of them."""
        if self.size == 1:
            return seconds
        value = torch.tensor([seconds], dtype=torch.float64)
        dist.broadcast(value, 0, group=self.clock)
        return float(value)


ALONE = Group()
"""One process."""


@contextlib.contextmanager
def joined(device: str) -> Iterator[tuple[Group, torch.device]]:
    """The group that torchrun started this process in, and the process's device; ``ALONE`` without torchrun.

    Raises:
        ConfigError: a device with a number, of which each process has another.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE, find_device(device)
        return
    if ":" in device:
        raise ConfigError("processes that train together choose their own GPUs", device, "leave it out")
    place = find_device(device)
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        clock = dist.new_group(backend="gloo", timeout=_PATIENCE)
        yield Group(dist.get_rank(), size, clock), place
    finally:
        dist.destroy_process_group()
