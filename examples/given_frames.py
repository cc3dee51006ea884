"""Begin a session with given frames, and correct it with a real frame on the way.

    python examples/given_frames.py --world doom-maze

The given frames are one of the world's starts here. In your program they come from a camera or a recording:
uint8 [T, H, W, 3] of the world's size, the keys that led into each frame, and camera poses where the world
has them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

import worldsim
from worldsim import Context


def main(arguments: Sequence[str] | None = None) -> int:
    """Open a session from given frames, step it, observe a real frame, step on."""
    parser = argparse.ArgumentParser(description="Start from given frames.")
    parser.add_argument("--world", default="doom-maze", help="name or folder (default: %(default)s)")
    parser.add_argument("--start", type=int, default=0, help="number of the start (default: %(default)s)")
    options = parser.parse_args(arguments)

    world = worldsim.load(options.world)
    recorded = world.starts[options.start]
    space = world.spec.control_space
    # Controls as a list, one a frame: what ``space.control`` reads. The first one led to the first frame.
    held = [space.from_vector(row) for row in recorded.controls]
    given = Context(frames=recorded.frames, controls=held, poses=recorded.poses)

    session = world.engine(slots=1).open(seed=0, start=given)
    print(f"began with {len(given.frames)} given frames; newest index {session.index}")
    step = session.step(space.from_discrete(1))
    print(f"imagined frame {step.index}, change {_change(step.frame, given.frames[-1]):.2f} grey levels")

    # A real camera saw this instead, at a pose that is known: the session goes on from it.
    session.observe(recorded.frames[-1], None if recorded.poses is None else recorded.poses[-1])
    step = session.step()
    print(f"imagined frame {step.index}, change {_change(step.frame, given.frames[-1]):.2f} grey levels")
    return 0


def _change(frame: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(frame.astype(int) - other.astype(int)).mean())


if __name__ == "__main__":
    raise SystemExit(main())
