"""The run: parts in order, each with its limit, each kept as soon as it is done.

Recording goes on beside tests and timings; training gets all the time that is left. A part that fails stops
no other. See docs/how-to/train-on-one-gpu.md.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

from benchmarks.gpu.plan import RunPlan, read_plan
from benchmarks.gpu.rehearsal import rehearse
from benchmarks.gpu.run import Run
from worldsim.errors import WorldsimError


def main(argv: list[str]) -> int:
    """0 where every part was done, 1 where one was not, 2 for a user's error."""
    out = Path(os.environ.get("OUT", "runs/gpu"))
    try:
        plan = read_plan(argv, out)
    except WorldsimError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    # A shell's background job inherits an ignored SIGINT, and its children would: recordings end by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = float(os.environ.get("WORLDSIM_BEGAN", time.time()))
    try:
        return rehearse(plan, began) if plan.is_rehearsal else _run(plan, began)
    finally:
        if not plan.keeps_scratch:
            shutil.rmtree(plan.scratch, ignore_errors=True)


def _run(plan: RunPlan, began: float) -> int:
    return 0 if Run(plan, began).run() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
