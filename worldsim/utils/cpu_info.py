"""The processor's model and features, as Linux reports them; empty elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CpuInfo:
    """The machine's first processor, from ``/proc/cpuinfo``."""

    name: str = ""
    """Model, e.g. "AMD EPYC 9554"."""
    vendor: str = ""
    """E.g. "GenuineIntel"; empty on ARM."""
    flags: frozenset[str] = frozenset()
    """Features, e.g. "avx512f"."""


_MATRICES = {"amx_bf16", "bf16"}
"""Linux's names for fast bfloat16 products (Intel's matrix units, ARM's)."""
_VECTORS = "avx512_bf16"
"""Those of vector units: on AMD twice as fast as float32; on Intel half as fast (0.16 and 0.28 TFLOP/s)."""


@cache
def cpu_info() -> CpuInfo:
    """Information on this machine's processor; read once."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return CpuInfo()
    pairs = (line.partition(":")[::2] for line in reversed(lines))
    fields = {key.strip(): value.strip() for key, value in pairs}
    flags = fields.get("flags", fields.get("Features", ""))
    return CpuInfo(fields.get("model name", ""), fields.get("vendor_id", ""), frozenset(flags.split()))


def multiplies_bfloat16() -> bool:
    """Return True if torch multiplies faster in bfloat16 than in float32 on this processor.

    The answer follows the processor's flags, not a timing: it is the same in every process of a machine.
    """
    here = cpu_info()
    return bool(here.flags & _MATRICES) or (_VECTORS in here.flags and here.vendor != "GenuineIntel")
