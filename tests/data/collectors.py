"""A tiny source for the recorder: each episode's length and content follow from its seed alone."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from worldsim.camera import Intrinsics, from_planar
from worldsim.controls import ActionBox, ControlSpace
from worldsim.data.episodes import EpisodeArrays
from worldsim.data.spec import SourceSpec

SPEC = SourceSpec(
    name="dots",
    size=(12, 16),
    fps=17.5,
    control_space=ControlSpace(
        keys=("left", "right"), yaw=True, pose=True, discrete_actions=((), ("left",), ("right",))
    ),
    intrinsics=Intrinsics(8, 8, 8, 6),
    has_pose=True,
    unit_metres=1.0,
)

BOX = ActionBox(low=(-1.0, 0.0), high=(1.0, 2.0))
STEERED = replace(SPEC, control_space=replace(SPEC.control_space, action=BOX))


def make_episode(seed: int, length: int | None = None, *, ended: bool | None = None) -> EpisodeArrays:
    """An episode in which every value differs from row to row."""
    rng = np.random.default_rng(seed)
    length = length or int(rng.integers(5, 30))
    ended = bool(rng.random() < 0.5) if ended is None else ended
    last = np.arange(length) == length - 1
    keys = rng.integers(0, 2, (length, 2)).astype(np.float32)
    yaw = rng.normal(size=(length, 1)).astype(np.float32)
    return EpisodeArrays(
        frames=rng.integers(0, 256, (length, *SPEC.size, 3), dtype=np.uint8),
        controls=np.concatenate([keys, yaw], axis=1),
        poses=from_planar(rng.normal(size=length), rng.normal(size=length), 1.0, rng.normal(size=length)),
        rewards=rng.normal(size=length).astype(np.float32),
        terminated=last & ended,
        truncated=last & (not ended),
        seed=seed,
    )


class DotsCollector:
    """Plays :func:`make_episode`, slowly enough to be interrupted where ``pause`` is set."""

    def __init__(self, pause: float = 0.0, fail_at: int | None = None) -> None:
        self.spec = SPEC
        self._pause = pause
        self._fail_at = fail_at

    def play(self, seed: int) -> EpisodeArrays:
        time.sleep(self._pause)
        if seed == self._fail_at:
            raise ValueError("the dots are gone")
        return make_episode(seed)

    def close(self) -> None:
        pass


def assert_same(a: EpisodeArrays, b: EpisodeArrays) -> None:
    """All arrays are equal, bit for bit."""
    for name in ("frames", "controls", "poses", "rewards", "terminated", "truncated", "seed"):
        x, y = np.asarray(getattr(a, name)), np.asarray(getattr(b, name))
        assert x.dtype == y.dtype, name
        np.testing.assert_array_equal(x, y, err_msg=name)


class SteeredDotsCollector(DotsCollector):
    """The same with a continuous action of two numbers, which is unknown in every third row."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = STEERED

    def play(self, seed: int) -> EpisodeArrays:
        return steer(make_episode(seed))


def steer(episode: EpisodeArrays) -> EpisodeArrays:
    """The same episode with columns of actions."""
    drawn = np.random.default_rng(episode.seed).uniform(BOX.low, BOX.high, (len(episode), BOX.size))
    columns = np.concatenate([np.ones((len(episode), 1)), drawn], 1).astype(np.float32)
    columns[2::3] = 0
    return replace(episode, controls=np.concatenate([episode.controls, columns], 1))
