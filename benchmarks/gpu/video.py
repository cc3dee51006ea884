"""A contact sheet and a short video of a world, rollout beside source, without any video package."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from worldsim.engine.world import load
from worldsim.evaluation.open_collector import open_collector
from worldsim.evaluation.videos import VideoPairs, render_videos
from worldsim.options import COUNT, Parser

_SCALE = 2
"""Enlargement of frames."""


def main() -> int:
    """Write ``<folder's parent>-sheet.png`` and ``-video.webp``."""
    parser = Parser(description=__doc__)
    parser.add_argument("world", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--frames", type=COUNT, default=120)
    parser.add_argument("--count", type=COUNT, default=4)
    args = parser.parse_args()
    world = load(args.world, args.device)
    player = open_collector(world, args.frames + 64)
    try:
        made = render_videos(world, player, count=args.count, frames=args.frames)
    finally:
        player.close()
    name = args.world.resolve().parent.name
    Image.fromarray(made.sheet()).save(args.out / f"{name}-sheet.png")
    _write(made, args.out / f"{name}-video.webp")
    return 0


def _write(videos: VideoPairs, path: Path) -> None:
    """Write all rollouts in a row, the source below, as one animated image."""
    wide = np.concatenate(list(videos.pairs), axis=3)  # [2, T, H, N x W, 3]
    shown = [np.concatenate(list(pair)).repeat(_SCALE, 0).repeat(_SCALE, 1) for pair in wide.swapaxes(0, 1)]
    first, *rest = [Image.fromarray(frame) for frame in shown]
    duration = round(1000 / videos.fps)
    first.save(path, save_all=True, append_images=rest, duration=duration, loop=0, quality=80, method=2)


if __name__ == "__main__":
    sys.exit(main())
