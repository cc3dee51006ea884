"""``python -m benchmarks.compression WORLD --data DIR``: bits a frame of a world against video codecs.

The world codes recorded episodes, held out from training, with its own probabilities. x264 and AV1 code the
same frames at several qualities; what they need at the world's PSNR is interpolated (the logarithm of their
bits over PSNR). LZMA packs the world's bits without its probabilities. Containers and controls are left out.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldsim.compression.coder import BitCounter
from worldsim.compression.frames import check_world, code_frames
from worldsim.data.clips import shift
from worldsim.data.dataset import Dataset
from worldsim.data.video import require_av
from worldsim.engine.world import World, load
from worldsim.options import COUNT, Parser
from worldsim.utils.run_command import run_command

__all__ = ["codec_points", "main"]

_CODECS: dict[str, tuple[tuple[int, ...], dict[str, str]]] = {
    "libx264": ((16, 20, 24, 28, 32, 36, 40), {"preset": "veryslow", "g": "10000"}),
    "libsvtav1": ((20, 30, 40, 50, 60), {"preset": "4", "g": "10000"}),
}
"""Encoder -> constant rate factors that are tried, and its other options."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print one line of JSON."""
    args = _parser().parse_args(argv)
    world, dataset = load(args.world, "cpu", torch.float32), Dataset(args.data)
    check_world(world)
    chosen = [one.index for one in dataset.episodes if one.split == "held_out" and one.length > 8]
    rows = [_measure(world, dataset, number, args.frames) for number in chosen[: args.episodes]]
    names = sorted(set.intersection(*(set(row) for row in rows)))
    print(json.dumps({name: round(float(np.mean([row[name] for row in rows])), 2) for name in names}))
    return 0


def _measure(world: World, dataset: Dataset, number: int, most: int) -> dict[str, float]:
    """Figures of one episode, in bits a frame and dB."""
    episode = dataset.episode(number)
    frames = episode.frames[:most]
    controls = shift(episode.controls, episode.rewards, episode.terminated).controls[: len(frames)]
    counter = BitCounter()
    coded = list(code_frames(world, counter, controls.astype(np.float32), frames))
    shown, bits = np.stack([one.frame for one in coded]), np.stack([one.bits for one in coded])
    packed = lzma.compress(np.packbits(bits > 0, axis=None).tobytes(), preset=9 | lzma.PRESET_EXTREME)
    psnr = _psnr(frames, shown)
    found = {"psnr": psnr, "world": counter.total / len(frames), "lzma": 8 * len(packed) / len(frames)}
    found["raw_bits"] = float(bits[0].size)
    for codec in _CODECS:
        points = codec_points(frames, dataset.spec.fps, codec)
        if points:
            quality, sizes = np.array(sorted(points)).T
            found[codec] = float(np.exp(np.interp(psnr, quality, np.log(sizes))))
    return found


def codec_points(frames: np.ndarray, fps: float, codec: str) -> list[tuple[float, float]]:
    """PSNR and bits a frame of ``frames`` uint8 [T, H, W, 3] at each quality; empty without the encoder."""
    factors, options = _CODECS[codec]
    try:
        return [_encode(frames, fps, codec, {**options, "crf": str(factor)}) for factor in factors]
    except require_av().FFmpegError as error:
        print(f"{codec}: {error}", file=sys.stderr)
        return []


def _encode(frames: np.ndarray, fps: float, codec: str, options: dict[str, str]) -> tuple[float, float]:
    av = require_av()
    encoder = av.CodecContext.create(codec, "w")
    encoder.height, encoder.width = frames.shape[1:3]
    encoder.time_base, encoder.framerate = 1 / Fraction(fps).limit_denominator(1001), Fraction(fps)
    encoder.pix_fmt = "yuv444p" if codec == "libx264" else "yuv420p"
    encoder.options, encoder.thread_count = options, 1
    packets: list[Any] = []
    for frame in frames:
        packets += encoder.encode(av.VideoFrame.from_ndarray(frame, format="rgb24"))
    packets += encoder.encode(None)
    decoder = av.CodecContext.create("h264" if codec == "libx264" else "libdav1d", "r")
    decoder.extradata = encoder.extradata
    shown = [image for packet in [*packets, None] for image in decoder.decode(packet)]
    pixels = np.stack([image.to_ndarray(format="rgb24") for image in shown])
    return _psnr(frames, pixels), 8 * sum(packet.size for packet in packets) / len(frames)


def _psnr(true: np.ndarray, shown: np.ndarray) -> float:
    error = ((true.astype(np.float64) - shown) / 255) ** 2
    return float(-10 * np.log10(max(error.mean(), 1e-9)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.compression", description=__doc__)
    parser.add_argument("world", help="name or folder of a world of the recipe next-scale")
    parser.add_argument("--data", type=Path, required=True, help="folder that `worldsim record` wrote")
    parser.add_argument("--episodes", type=COUNT, default=4, help="held-out episodes")
    parser.add_argument("--frames", type=COUNT, default=200, help="frames of each at most")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
