"""Report of the machine and of packages that a run lacks on it."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import torch

NEEDED = (
    *("numpy", "torch", "einops", "safetensors", "rich", "PIL", "pyarrow", "gymnasium", "vizdoom", "pytest"),
    *("hypothesis", "msgpack", "msgspec", "zmq"),
)
WANTED = ("tensorboard", "av", "prometheus_client")
"""Without these a run goes on: no figures, no mp4 files, no metrics of a server."""


def main() -> int:
    """Write the report; 1 where the device or a package is not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    packages = {name: _version(name) for name in (*NEEDED, *WANTED)}
    report = {
        "python": sys.version,
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "free_gib": {
            str(path): round(shutil.disk_usage(path).free / 2**30, 1)
            for path in (Path("/dev/shm"), Path("/tmp"))
            if path.is_dir()
        },
        "compiler": shutil.which("cc") or shutil.which("gcc"),
        "packages": packages,
        "torch": {"version": torch.__version__, "cuda": torch.version.cuda, "cudnn": _cudnn()},
        "card": _card(),
        "nvidia_smi": _smi(),
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    lacking = [name for name in NEEDED if packages[name].startswith("missing")]
    if args.device == "cuda" and not torch.cuda.is_available():
        lacking.append("a GPU")
    if lacking:
        print(f"missing: {', '.join(lacking)}", file=sys.stderr)
    return 1 if lacking else 0


def _version(name: str) -> str:
    try:
        module = importlib.import_module(name)
    except Exception as error:  # also a library that does not load
        return f"missing: {type(error).__name__}: {error}"[:200]
    return str(getattr(module, "__version__", "there"))


def _cudnn() -> int | None:
    return torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None


def _card() -> dict[str, object] | None:
    if not torch.cuda.is_available():
        return None
    told = torch.cuda.get_device_properties(0)
    return {
        "name": told.name,
        "capability": [told.major, told.minor],
        "memory_gib": round(told.total_memory / 2**30, 1),
        "multiprocessors": told.multi_processor_count,
    }


def _smi() -> str | None:
    query = "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit,temperature.gpu"
    try:
        line = ["nvidia-smi", query, "--format=csv"]
        return subprocess.run(line, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


if __name__ == "__main__":
    sys.exit(main())
