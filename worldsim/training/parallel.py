"""Data-parallel training: every process draws its own batch, and all take one step with the mean gradient.

``torchrun --nproc-per-node 4 -m worldsim.cli train ...`` starts the processes and sets RANK, WORLD_SIZE and
LOCAL_RANK; without these there is one process and no overhead. The first process keeps the time, saves, and
writes metrics and sample grids.
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
from worldsim.networks import find_device

__all__ = ["SINGLE_PROCESS", "Group", "process_group"]

_TIMEOUT = timedelta(minutes=10)
"""Time that one process waits for the others: checkpoints take seconds."""


@dataclass(frozen=True, slots=True)
class Group:
    """The processes that train together."""

    rank: int = 0
    size: int = 1
    host_group: dist.ProcessGroup | None = None
    """Process group on the host: broadcasts of the time must not wait for a GPU."""

    @property
    def is_first(self) -> bool:
        """True in the process that keeps the time, saves and logs."""
        return self.rank == 0

    @property
    def seed_suffix(self) -> list[int]:
        """Last numbers of a step's seed; none in the first process."""
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

    def broadcast_weights(self, networks: nn.Module) -> None:
        """Give all processes the first one's weights and buffers."""
        if self.size > 1:
            for tensor in networks.state_dict().values():
                dist.broadcast(tensor, 0)

    def broadcast_seconds(self, seconds: float) -> float:
        """Return the first process's ``seconds`` in all processes."""
        if self.size == 1:
            return seconds
        value = torch.tensor([seconds], dtype=torch.float64)
        dist.broadcast(value, 0, group=self.host_group)
        return float(value)


SINGLE_PROCESS = Group()
"""One process."""


@contextlib.contextmanager
def process_group(device: str) -> Iterator[tuple[Group, torch.device]]:
    """Join the group that torchrun started; yields it and the process's device.

    Without torchrun the group is ``SINGLE_PROCESS``.

    Raises:
        ConfigError: a device with a number, of which each process has another.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS, find_device(device)
        return
    if ":" in device:
        raise ConfigError("processes that train together choose their own GPUs", device, "leave it out")
    found = find_device(device)
    if found.type == "cuda":
        found = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(found)
    dist.init_process_group("nccl" if found.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        host_group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
        yield Group(dist.get_rank(), size, host_group), found
    finally:
        dist.destroy_process_group()
