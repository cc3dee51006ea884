"""Try several futures of one moment: fork, step the branches as one batch, keep the best, rewind, snapshot.

python examples/branch.py --world doom-maze
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

import worldsim
from worldsim import Session


def best_action(session: Session, actions: int, depth: int) -> int:
    """The discrete action that shows most change when it is held for ``depth`` frames."""
    space = session.engine.world.spec.control_space
    branches = session.fork(actions)
    held = {branch: space.from_discrete(number) for number, branch in enumerate(branches)}
    for _ in range(depth):
        session.engine.step(held)  # all branches in one batch
    changes = [np.abs(branch.frame.astype(int) - session.frame.astype(int)).mean() for branch in branches]
    for branch in branches:
        branch.close()
    return int(np.argmax(changes))


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan a few steps; go back; store and restore; compare the frames to the bit."""
    parser = argparse.ArgumentParser(description="Fork, rewind, snapshot.")
    parser.add_argument("--world", default="doom-maze", help="name or folder (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=4, help="frames to plan (default: %(default)s)")
    options = parser.parse_args(arguments)

    world = worldsim.load(options.world)
    space = world.spec.control_space
    actions = len(space.discrete_actions)
    engine = world.engine(slots=actions + 1, rewind_frames=options.frames)
    session = engine.open(seed=0, start=0)

    chosen, frames = [], []
    for _ in range(options.frames):
        chosen.append(best_action(session, actions, depth=2))
        frames.append(session.step(space.from_discrete(chosen[-1])).frame)
    print(f"actions {chosen}")

    session.rewind(options.frames)
    blob = session.snapshot()
    twin = engine.restore(blob)
    again = [twin.step(space.from_discrete(number)).frame for number in chosen]
    same = all(np.array_equal(a, b) for a, b in zip(frames, again, strict=True))
    print(f"snapshot of {len(blob):,} bytes; the same frames again: {same}")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
