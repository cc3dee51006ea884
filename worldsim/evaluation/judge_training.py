"""``worldsim judge``: train the judge of a source on the real environment's own frames, minutes on one core.

It plays episodes of its own; their seeds are neither those that worlds are trained on nor those reported on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim import camera, checkpoints
from worldsim.data.clips import shift
from worldsim.data.recorder import Player
from worldsim.errors import SourceError
from worldsim.evaluation.judge import Judge, planar_motion
from worldsim.evaluation.judge_network import HEIGHT, WIDTH, JudgeConfig, JudgeNetwork, Reading
from worldsim.pixels import to_model

__all__ = ["JUDGE_SEEDS", "Footage", "accuracy_of", "main", "play", "train"]

JUDGE_SEEDS = range(4_200_000_000, 4_290_000_000)
"""Seeds of the episodes that judges are trained on; the last tenth is for their own accuracy."""
_LENGTH = 8
"""Frames of a training clip."""
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Footage:
    """F real frames, episode after episode."""

    frames: np.ndarray
    """``uint8 [F, 60, 80, 3]``."""
    controls: np.ndarray
    """``float32 [F, M + 1]``: what led into each frame."""
    poses: np.ndarray
    """``float64 [F, 4, 4]``."""
    starts: np.ndarray
    """``int64``: frames from which a clip lies within one episode."""

    def clips(self, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frames, controls and poses of the clips that begin there, ``[B, length, ...]``."""
        at = starts[:, None] + np.arange(length)
        return self.frames[at], self.controls[at], self.poses[at]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    player = _player(args.source)
    try:
        held_out = play(player, iter(JUDGE_SEEDS[-len(JUDGE_SEEDS) // 10 :]), max(args.frames // 10, 1000))
        footage = play(player, iter(JUDGE_SEEDS), args.frames)
    finally:
        player.close()
    network = train(footage, player.spec.control_space.keys, args.minutes, args.seed)
    judge = Judge(network, player.spec.name, accuracy_of(network, held_out))
    judge.save(args.out or checkpoints.FOLDER / "judges" / f"{args.source}.safetensors")
    print(", ".join(f"{name} {value:.3f}" for name, value in judge.accuracy.items()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="worldsim judge", description="Train the judge of a source.")
    parser.add_argument("source", help="a source with camera poses, e.g. doom-maze")
    parser.add_argument("--out", type=Path, help="file (default: among the shipped ones)")
    parser.add_argument("--frames", type=int, default=60_000, help="real frames (%(default)s)")
    parser.add_argument("--minutes", type=float, default=10, help="of training (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    return parser


def _player(source: str) -> Player:
    # Environments lie above and are optional: imported only where one is played.
    from worldsim.envs.player import MixturePlayer

    return MixturePlayer(source, (HEIGHT, WIDTH), max_frames=400)


def play(player: Player, seeds: Iterator[int], count: int) -> Footage:
    """Play about ``count`` frames.

    Raises:
        SourceError: the source has no camera poses.
    """
    frames, controls, poses, starts, total = [], [], [], [], 0
    while total < count:
        episode = player.play(next(seeds))
        if episode.poses is None:
            raise SourceError("a judge needs a source with camera poses", player.spec.name)
        frames.append(episode.frames)
        led = shift(episode.controls, episode.rewards, episode.terminated)
        controls.append(led.controls[: len(episode)])
        poses.append(episode.poses)
        starts.append(total + np.arange(max(len(episode) - _LENGTH + 1, 0)))
        total += len(episode)
    return Footage(*(np.concatenate(parts) for parts in (frames, controls, poses, starts)))


def train(
    footage: Footage,
    keys: tuple[str, ...],
    minutes: float,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> JudgeNetwork:
    """Train for so many minutes of ``clock``, which tells seconds; the rate falls to zero over them."""
    torch.manual_seed(seed)
    ground = footage.poses[:, :2, 3]
    low, high = ground.min(0), ground.max(0)
    centre, spread = (low + high) / 2, float(np.maximum(high - low, 1e-3).max() / 2)
    network = JudgeNetwork(JudgeConfig(keys=keys, centre=(float(centre[0]), float(centre[1])), spread=spread))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-3)
    down = footage.controls[:, : len(keys)].mean(0).clip(0.02, 0.98)
    weight = torch.from_numpy((1 - down) / down).float()
    rng, began, progress = np.random.default_rng(seed), clock(), 0.0
    while progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, 40 * progress + 0.05) * (1 - progress)
        clip = footage.clips(rng.choice(footage.starts, _BATCH), _LENGTH)
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(network, *clip, weight, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        progress = (clock() - began) / (60 * minutes)
    return network


def _loss(
    network: JudgeNetwork,
    frames: np.ndarray,
    controls: np.ndarray,
    poses: np.ndarray,
    weight: Tensor,
    rng: np.random.Generator,
) -> Tensor:
    config = network.config
    reading: Reading = network(_disturbed(to_model(frames), rng))
    motion = torch.from_numpy(planar_motion(poses) / config.scale).float()
    held = torch.from_numpy(controls[:, 1:, : len(config.keys)])
    place = torch.from_numpy(_places(poses, config)).float()
    return (
        F.smooth_l1_loss(reading.motion, motion, beta=0.1)
        + 0.1 * F.binary_cross_entropy_with_logits(reading.keys, held, pos_weight=weight)
        + 0.3 * F.smooth_l1_loss(reading.place, place, beta=0.1)
    )


def _places(poses: np.ndarray, config: JudgeConfig) -> np.ndarray:
    x, y, _, yaw = np.moveaxis(camera.planar(poses), -1, 0)
    cx, cy = config.centre
    return np.stack([(x - cx) / config.spread, (y - cy) / config.spread, np.cos(yaw), np.sin(yaw)], -1)


def _disturbed(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """A third of the clips is softened, all are a little noisy: the judge must not go by fine grain alone."""
    soft = F.avg_pool2d(frames.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(frames)
    is_soft = torch.from_numpy(rng.random(len(frames)) < 1 / 3)[:, None, None, None, None]
    return torch.where(is_soft, soft, frames) + 0.02 * torch.randn_like(frames)


def accuracy_of(network: JudgeNetwork, footage: Footage) -> dict[str, float]:
    """On held-out real frames: error per frame of the motion, balanced accuracy per key."""
    judge = Judge(network, "", {})
    starts = footage.starts[::_LENGTH]
    frames, controls, poses = footage.clips(starts, _LENGTH)
    verdict, true = judge.read(frames), planar_motion(poses)
    metres = np.linalg.norm((verdict.motion - true)[..., :2], axis=-1)
    accuracy = {
        "metres_per_frame": float(metres.mean()),
        "degrees_per_frame": float(np.degrees(np.abs(verdict.motion - true)[..., 2]).mean()),
        "metres_moved": float(np.linalg.norm(true[..., :2], axis=-1).mean()),
        "degrees_moved": float(np.degrees(np.abs(true[..., 2])).mean()),
    }
    for i, key in enumerate(network.config.keys):
        held, seen = controls[:, 1:, i] > 0.5, verdict.keys[..., i]
        rates = [np.mean(seen[held]), np.mean(~seen[~held])] if held.any() and not held.all() else [np.nan]
        accuracy[key] = float(np.mean(rates))
    return accuracy
