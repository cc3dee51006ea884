"""The machine that was measured, and its limits."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch

from worldsim.engine.world import World
from worldsim.kernels.library import active_variant
from worldsim.utils.cpu_info import cpu_info
from worldsim.utils.roofline import matmul_peak, memory_bandwidth


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """Peak throughput and bandwidth of the machine."""

    flops: float
    """FLOP/s of a large matmul, in bfloat16 or float32, whichever is faster."""
    bandwidth: float
    """Bytes/s to and from memory."""

    @staticmethod
    def of(device: torch.device) -> MachineLimits:
        """Measure them, in about a second."""
        return MachineLimits(matmul_peak(device, seconds=0.5), memory_bandwidth(device))

    def seconds(self, flops: float, moved: float) -> float:
        """Return the roofline's lower bound on the time of so many operations and bytes (Williams et al.)."""
        return max(flops / self.flops, moved / self.bandwidth)


def machine_info(world: World, limits: MachineLimits) -> dict[str, object]:
    """Return machine, world and software versions."""
    return {
        "world": world.name,
        "weights_sha256": world.weights_sha256,
        "size": list(world.spec.size),
        "params": world.params,
        "device": str(world.device),
        "processor": processor_name(world.device),
        "dtype": str(world.dtype).removeprefix("torch."),
        "kernels": active_variant() if world.device.type == "cpu" else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "peak_tflops": round(limits.flops / 1e12, 4),
        "bandwidth_gb_s": round(limits.bandwidth / 1e9, 2),
    }


def processor_name(device: torch.device) -> str:
    """Return the name of the accelerator or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_info().name or platform.processor()
