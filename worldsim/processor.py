"""What Linux tells of the processor; nothing elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Processor:
    """The first one of the machine, as ``/proc/cpuinfo`` has it."""

    name: str = ""
    """Its model, e.g. "AMD EPYC 9554"."""
    vendor: str = ""
    """E.g. "GenuineIntel"; empty on ARM."""
    flags: frozenset[str] = frozenset()
    """What it can do, e.g. "avx512f"."""


@cache
def processor() -> Processor:
    """Read once."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return Processor()
    pairs = (line.partition(":")[::2] for line in reversed(lines))
    told = {key.strip(): value.strip() for key, value in pairs}
    flags = told.get("flags", told.get("Features", ""))
    return Processor(told.get("model name", ""), told.get("vendor_id", ""), frozenset(flags.split()))
