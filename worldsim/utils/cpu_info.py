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
