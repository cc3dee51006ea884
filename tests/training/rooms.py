"""A tiny recorded dataset: a camera that walks in circles through a room of stripes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from worldsim.camera import Intrinsics, from_planar
from worldsim.controls import ActionBox, ControlSpace
from worldsim.data.episodes import EpisodeArrays
from worldsim.data.gather import gather
from worldsim.data.shards import Shard, write_shard
from worldsim.data.spec import SourceSpec, StaticSceneSpec
from worldsim.data.video import CodecName
from worldsim.envs.sources.doom import DOOM_KEYS

HEIGHT, WIDTH = 60, 80


def room_spec(
    *,
    poses: bool = True,
    static: bool = True,
    prompts: tuple[str, ...] = (),
    action: ActionBox | None = None,
) -> SourceSpec:
    """The maze's source at 80x60; ``static``: with a static scene."""
    discrete_actions = ((), *((key,) for key in DOOM_KEYS))
    return SourceSpec(
        name="doom-maze",
        size=(HEIGHT, WIDTH),
        fps=17.5,
        control_space=ControlSpace(
            keys=DOOM_KEYS,
            yaw=True,
            pose=poses,
            discrete_actions=discrete_actions,
            prompts=prompts,
            action=action,
        ),
        intrinsics=Intrinsics(40.0, 48.0, 40.0, 30.0) if poses else None,
        has_pose=poses,
        unit_metres=1 / 32 if poses else None,
        tics=2,
        static_scene=StaticSceneSpec(floor_height=0.0, ceiling_height=4.0) if static else None,
    )


def walk(seed: int, length: int, *, poses: bool = True) -> EpisodeArrays:
    """An episode of ``length`` frames: forward is held, the camera turns, the stripes move with it."""
    rng = np.random.default_rng(seed)
    yaw = rng.uniform(-3, 3) + 0.1 * np.arange(length)
    x, y = 2 + np.sin(yaw), 2 - np.cos(yaw)
    keys = np.zeros((length, len(DOOM_KEYS) + 1), np.float32)
    keys[:, 0], keys[:, 4] = 1, rng.integers(0, 2, length)
    column = np.arange(WIDTH) / WIDTH
    stripes = 127.5 + 100 * np.sin(6 * (yaw[:, None] + column) + np.arange(3)[:, None, None])
    frames = np.broadcast_to(stripes.transpose(1, 2, 0)[:, None], (length, HEIGHT, WIDTH, 3))
    last = np.arange(length) == length - 1
    return EpisodeArrays(
        frames=frames.astype(np.uint8),
        controls=keys,
        poses=from_planar(x, y, 1.3, yaw) if poses else None,
        rewards=(rng.random(length) < 0.1).astype(np.float32),
        terminated=last & (seed % 2 == 1),
        truncated=last & (seed % 2 == 0),
        seed=seed,
    )


def write_walks(
    root: Path,
    lengths: dict[int, int],
    *,
    poses: bool = True,
    static: bool = True,
    codec: CodecName = "raw",
    prompts: tuple[str, ...] = (),
    action: ActionBox | None = None,
) -> Path:
    """A dataset in ``root`` of one episode per seed in ``lengths``; seeds that 20 divides are held out.

    The episodes have the ``prompts`` in turn, and random actions in the box ``action``.
    """
    shards = [Shard(root / "shards", number) for number in range(len(lengths))]
    spec = room_spec(poses=poses, static=static, prompts=prompts, action=action)
    for shard, (seed, length) in zip(shards, lengths.items(), strict=True):
        episode = walk(seed, length, poses=poses)
        if prompts:
            number = np.full((length, 1), 1 + shard.number % len(prompts), np.float32)
            episode = replace(episode, controls=np.concatenate([episode.controls, number], 1))
        if action is not None:
            drawn = np.random.default_rng(seed).uniform(action.low, action.high, (length, action.size))
            columns = np.concatenate([np.ones((length, 1)), drawn], 1).astype(np.float32)
            episode = replace(episode, controls=np.concatenate([episode.controls, columns], 1))
        write_shard(shard, episode, spec, codec)
    gather(root, spec, shards)
    return root
