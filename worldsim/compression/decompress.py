"""``worldsim decompress``: frames, bits and controls of a compressed episode."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from worldsim.compression.coder import BitReader
from worldsim.compression.compress import machine_of, write_atomically
from worldsim.compression.frames import check_world, code_frames
from worldsim.compression.stream import unpack
from worldsim.engine.world import World, load
from worldsim.errors import CheckpointError, DataError
from worldsim.options import Parser
from worldsim.utils.output_paths import claim_file

__all__ = ["Decompressed", "decompress", "main"]


@dataclass(frozen=True, slots=True)
class Decompressed:
    """An episode as the world shows it."""

    frames: np.ndarray
    """uint8 [T, H, W, 3]"""
    bits: np.ndarray
    """int8 [T, N, C] of -1 and 1."""
    controls: np.ndarray
    """float32 [T, M]"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: an .npz file with frames, bits and controls is written."""
    args = _parser().parse_args(argv)
    claim_file(args.out, replace=args.force)
    world = load(args.world, "cpu", torch.float32)
    found = decompress(world, args.file)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, frames=found.frames, bits=found.bits, controls=found.controls)
    write_atomically(args.out, buffer.getvalue())
    print(f"{args.out}: {len(found.frames)} frames")
    return 0


def decompress(world: World, path: Path) -> Decompressed:
    """Read a compressed file with the world that wrote it.

    Raises:
        DataError: the file cannot be read, is cut short, or was changed.
        CheckpointError: the world has other weights, or the machine another arithmetic.
        ConfigError: the world has no probabilities of bits.
    """
    check_world(world)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError("a compressed file must be readable", str(path), error.strerror or "") from error
    header, controls, payload = unpack(data, path)
    if header.weights_sha256 != world.weights_sha256:
        rule = "a compressed file needs the weights that it was written with"
        remedy = f"use the world {header.world!r} with the weights {header.weights_sha256[:12]}"
        raise CheckpointError(rule, world.weights_sha256[:12], remedy)
    if header.machine != machine_of(world):
        rule = f"a compressed file needs the arithmetic that it was written with: {header.machine}"
        raise CheckpointError(rule, machine_of(world), "decompress it on such a machine")
    coded = list(code_frames(world, BitReader(payload), controls, None))
    frames = np.zeros((0, *world.spec.size, 3), np.uint8)
    bits = np.zeros((0, *world.networks.tokenizer.latent_spec.shape), np.int8)
    if coded:
        frames, bits = np.stack([one.frame for one in coded]), np.stack([one.bits for one in coded])
    return Decompressed(frames, bits, controls)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="worldsim decompress", description="Restore frames and controls of a compressed episode."
    )
    parser.add_argument("world", help="name or folder of the world that the file was written with")
    parser.add_argument("file", type=Path, help="file that `worldsim compress` wrote")
    parser.add_argument("out", type=Path, help=".npz file to write: frames, bits, controls")
    parser.add_argument("--force", action="store_true", help="replace the file")
    return parser
