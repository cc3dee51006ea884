"""What figures depend on: the machine, and its limits measured beside them."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from worldsim.engine.world import World
from worldsim.peak import matmul_peak, memory_bandwidth


@dataclass(frozen=True, slots=True)
class Limits:
    """What the machine can do at most."""

    flops: float
    """FLOP/s of a large bfloat16 matmul."""
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
        "processor": processor(world.device),
        "dtype": str(world.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "peak_tflops": round(limits.flops / 1e12, 4),
        "bandwidth_gb_s": round(limits.bandwidth / 1e9, 2),
    }


def processor(device: torch.device) -> str:
    """The name of the accelerator or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()
