"""``worldsim compress``: code a recorded episode with the bits and the probabilities of a world."""

from __future__ import annotations

import argparse
import os
import platform
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from worldsim.compression.coder import BitWriter
from worldsim.compression.frames import check_world, code_frames
from worldsim.compression.stream import Header, pack
from worldsim.data.clips import shift
from worldsim.data.dataset import Dataset
from worldsim.engine.world import World, load
from worldsim.errors import ConfigError
from worldsim.kernels.library import active_variant
from worldsim.options import NATURAL, Parser
from worldsim.utils.output_paths import claim_file

__all__ = ["compress", "machine_of", "main", "write_atomically"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: a file is written, and its size told."""
    args = _parser().parse_args(argv)
    claim_file(args.out, replace=args.force)
    world = load(args.world, "cpu", torch.float32)
    check_world(world)
    frames, controls = _episode(args.data, args.episode, world)
    data = compress(world, frames, controls)
    write_atomically(args.out, data)
    bits = 8 * len(data) / len(frames)
    print(f"{args.out}: {len(frames)} frames in {len(data)} bytes, {bits:.0f} bits a frame")
    return 0


def compress(world: World, frames: np.ndarray, controls: np.ndarray) -> bytes:
    """The compressed file of ``frames`` uint8 [T, H, W, 3] and the ``controls`` float32 [T, M] to each.

    Raises:
        ConfigError: the world has no probabilities of bits.
        DependencyError: constriction is not installed.
    """
    check_world(world)
    writer = BitWriter()
    for _ in code_frames(world, writer, controls, frames):
        pass
    packed = zlib.compress(np.ascontiguousarray(controls, "<f4").tobytes(), 9)
    header = Header(
        world=world.name,
        weights_sha256=world.weights_sha256,
        machine=machine_of(world),
        frames=len(frames),
        controls=controls.shape[1],
        control_bytes=len(packed),
    )
    return pack(header, packed, writer.finish())


def machine_of(world: World) -> str:
    """The arithmetic that probabilities hang on: processor family, vector units, torch and kernels."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {capability} torch {torch.__version__} kernels {active_variant()}"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file: a reader sees all of it or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _episode(data: Path, number: int, world: World) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [T, H, W, 3] of a recorded episode, and the controls that led to each [T, M]."""
    dataset = Dataset(data)
    if dataset.spec.size != world.spec.size:
        rule = f"frames must have the world's size {world.spec.size}"
        raise ConfigError(rule, dataset.spec.size, "record them at that size")
    episode = dataset.episode(number)
    if episode.controls.shape[1] != world.networks.control_size:
        rule = f"controls must have the world's {world.networks.control_size} columns"
        raise ConfigError(rule, episode.controls.shape[1], "choose a world of the same source")
    arrivals = shift(episode.controls, episode.rewards, episode.terminated)
    return episode.frames, arrivals.controls[: len(episode.frames)].astype(np.float32)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="worldsim compress", description="Compress a recorded episode with a world of bits.")
    parser.add_argument("world", help="name or folder of a world of the recipe next-scale")
    parser.add_argument("out", type=Path, help="file to write")
    parser.add_argument("--data", type=Path, required=True, help="folder that `worldsim record` wrote")
    parser.add_argument("--episode", type=NATURAL, default=0, help="number of the episode")
    parser.add_argument("--force", action="store_true", help="replace the file")
    return parser
