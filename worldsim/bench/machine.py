"""What figures depend on: the machine, and its limits measured beside them."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch

from worldsim.engine.world import World
from worldsim.kernels.library import in_use
from worldsim.peak import matmul_peak, memory_bandwidth
from worldsim.processor import processor


@dataclass(frozen=True, slots=True)
class Limits:
    """What the machine can do at most."""

    flops: float
    """FLOP/s of a large matmul, in bfloat16 or float32, whichever is faster."""
    bandwidth: float
    """Bytes/s to and from memory."""

    @staticmethod
    def of(device: torch.device) -> Limits:
        """Measured now, in about a second."""
        return Limits(matmul_peak(device), memory_bandwidth(device))

    def seconds(self, flops: float, moved: float) -> float:
        """The least time for so many operations and bytes: the roofline (Williams et al.)."""
        return max(flops / self.flops, moved / self.bandwidth)


def facts(world: World, limits: Limits) -> dict[str, object]:
    """Machine, world and software, for people who compare."""
    return {
        "world": world.name,
        "digest": world.digest,
        "size": list(world.spec.size),
        "params": world.params,
        "device": str(world.device),
        "processor": processor_name(world.device),
        "dtype": str(world.dtype).removeprefix("torch."),
        "kernels": in_use() if world.device.type == "cpu" else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "peak_tflops": round(limits.flops / 1e12, 4),
        "bandwidth_gb_s": round(limits.bandwidth / 1e9, 2),
    }


def processor_name(device: torch.device) -> str:
    """The name of the accelerator or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor().name or platform.processor()
