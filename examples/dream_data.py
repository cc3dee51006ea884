"""Frames along camera paths, many paths as one batch; and dreams as a dataset that LeRobot reads.

    python examples/dream_data.py --world doom-maze --out data/dream

`worldsim train mine --data data/dream ...` learns from such a dataset as from a recorded one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

import worldsim
from worldsim import World, camera
from worldsim.data.episodes import EpisodeArrays
from worldsim.data.recorder import RecordConfig, record


def frames_along(world: World, paths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [B, N, H, W, 3] seen from camera-to-world poses float64 [B, N, 4, 4].

    Also bool [B, N]: where the world knows what there is to see.
    """
    engine = world.engine(slots=len(paths), rewind_frames=0)
    sessions = [engine.open(seed=number, start=0) for number in range(len(paths))]
    steps = [engine.step(dict(zip(sessions, poses, strict=True))) for poses in paths.swapaxes(0, 1)]
    rows = [[told[session] for told in steps] for session in sessions]
    frames = np.array([[step.frame for step in row] for row in rows])
    return frames, np.array([[step.known for step in row] for row in rows])


class Dreamer:
    """A collector: plays a world as the recorder plays a real source. Keys are random, each held a while."""

    def __init__(self, name: str, frames: int) -> None:
        self._engine = worldsim.load(name, "cpu").engine(slots=1, rewind_frames=0)
        self.spec = self._engine.world.spec
        self._frames = frames

    def play(self, seed: int) -> EpisodeArrays:
        """The dream that ``seed`` fixes. Row t: frame t, the control then taken, what followed it."""
        rng, space = np.random.default_rng(seed), self.spec.control_space
        session, before, after, held = self._engine.open(seed), [], [], []
        while len(after) < self._frames and not (after and after[-1].terminated):
            if len(held) % 8 == 0:
                control = space.from_discrete(int(rng.integers(len(space.discrete_actions))))
            held.append(space.vector(control))
            before.append(session.last)
            after.append(session.step(control))
        session.close()
        ended = np.array([step.terminated for step in after])
        return EpisodeArrays(
            frames=np.stack([step.frame for step in before]),
            controls=np.stack(held),
            poses=np.stack([step.pose for step in before]) if self.spec.has_pose else None,
            rewards=np.array([step.reward for step in after], np.float32),
            terminated=ended,
            truncated=np.arange(len(ended)) == (-1 if ended[-1] else len(ended) - 1),
            seed=seed,
        )

    def close(self) -> None:
        """Nothing is held."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Look around in a world with poses; then record dreams."""
    parser = argparse.ArgumentParser(description="Frames along camera paths, and dreams as a dataset.")
    parser.add_argument("--world", default="doom-maze", help="name or folder (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=200, help="in the dataset (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the dataset")
    options = parser.parse_args(arguments)

    world = worldsim.load(options.world)
    if world.spec.has_pose:
        x, y, z, yaw = camera.planar(world.starts[0].poses[-1])
        turns = (np.linspace(0, way, 8) for way in (0.5, -0.5))  # to the left, and to the right
        paths = [[camera.from_planar(x, y, z, yaw + turn) for turn in path] for path in turns]
        frames, known = frames_along(world, np.array(paths))
        print(f"{frames.shape[0]} paths of {frames.shape[1]} frames, {known.mean():.0%} known")

    config = RecordConfig(source=f"dream of {world.name}", seed=0)
    made = record(partial(Dreamer, options.world, 50), options.out, config, frames=options.frames)
    print(f"{made.frames} imagined frames in {made.episodes} episodes in {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
