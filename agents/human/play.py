"""``worldsim play``: walk through a learned world, in a window or, without a display, into a video."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldsim.agents.human.compare import open_twin
from worldsim.agents.human.display import NoDisplay, check_pygame, has_display
from worldsim.agents.human.headless import walk
from worldsim.agents.human.keymap import load_keymap
from worldsim.agents.human.player import DRIVERS, STEPS, Player
from worldsim.agents.human.stats import Stats
from worldsim.controls import Control
from worldsim.errors import ConfigError, WorldsimError

if TYPE_CHECKING:
    from worldsim.engine.engine import Engine
    from worldsim.engine.world import World

SLOTS = 4  # two futures, one that is being opened, one to spare
HISTORY = 160  # frames that can be rewound; each takes about a megabyte
KEYMAP_HELP = """\
a keymap replaces the default keys of what it names, for example:

  [keys]                       # the world's keys
  forward = ["w", "up"]
  [commands]                   # what F1 lists, by names such as pause, rewind, fork
  pause = "space"
  [mouse]
  sensitivity = 0.004          # radians per pixel; negative: the other way round
"""
WALK = 200  # frames, where nobody says how many


def main(argv: Sequence[str] | None = None) -> int:
    """Run with these arguments and return the exit code: 0, or 2 after an error that was told in one line."""
    options = _parser().parse_args(argv)
    try:
        return _play(options)
    except (WorldsimError, OSError) as error:
        print(f"worldsim play: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="worldsim play",
        description="Walk through a learned world. F1 shows the keys.",
        epilog=KEYMAP_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--world", default="doom-maze", help="a world's name or folder (default: %(default)s)")
    add(
        "--start",
        type=int,
        default=1,
        help="number of the place to start from, from 1 (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="which dream of that place (default: %(default)s)")
    add(
        "--steps",
        type=int,
        choices=STEPS,
        default=2,
        help="denoising steps a frame, K (default: %(default)s)",
    )
    add("--device", default="auto", help="cpu, cuda, or auto (default)")
    add("--fps", type=float, help="frames a second; 0 is as fast as it goes (default: the world's own pace)")
    add("--agent", choices=DRIVERS, help="who steers first (default: human; without a window scripted)")
    add("--scale", type=int, help="window pixels per picture pixel (default: what fits)")
    add("--fullscreen", action="store_true", help="fill the screen")
    add(
        "--keymap",
        type=Path,
        help="TOML file with your keys (default: worldsim/keys.toml in your config folder)",
    )
    add("--headless", action="store_true", help="no window: walk, and write a video and a contact sheet")
    add("--frames", type=int, help=f"frames to walk without a window (default: {WALK})")
    add("--record", type=Path, metavar="MP4", help="record to this file, in a window from the first frame on")
    add("--json", action="store_true", help="without a window: one JSON line of figures on stdout")
    add("--out-prefix", default="play", help="files are named after it (default: %(default)s)")
    return parser


def _play(options: argparse.Namespace) -> int:
    _check(options)
    if options.headless:
        return _walk(options, options.json)
    if has_display():
        try:
            return _window(options)
        except NoDisplay as reason:
            print(f"No window: {reason}", file=sys.stderr)
    else:
        print("There is no display, so an explorer walks by itself.", file=sys.stderr)
    return _walk(options, True)


def _check(options: argparse.Namespace) -> None:
    for name, least in (("fps", 0), ("scale", 1), ("frames", 1), ("start", 1)):
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise ConfigError(f"--{name} is {least} or more", value)


def _window(options: argparse.Namespace) -> int:
    warning = check_pygame()
    if warning:
        print(warning, file=sys.stderr)
    from worldsim.agents.human.window import Window  # pygame from here on

    with Window.opened(options.world) as window:
        world, engine = _load(options)
        player = _player(options, world, engine, options.agent or "human", Stats())
        try:
            window.run(
                player,
                load_keymap(world.spec.control_space.keys, options.keymap),
                fps=options.fps,
                scale=options.scale,
                fullscreen=options.fullscreen,
                record=options.record,
                prefix=options.out_prefix,
            )
        finally:
            player.close()
    return 0


def _walk(options: argparse.Namespace, tell: bool) -> int:
    frames = options.frames or WALK
    world, engine = _load(options)
    _warm_up(engine, options.seed)
    driver = "scripted" if options.agent in (None, "human") else options.agent
    player = _player(options, world, engine, driver, Stats(window=frames))
    video = options.record or Path(f"{options.out_prefix}.mp4")
    picture = options.record.with_suffix(".png") if options.record else Path(f"{options.out_prefix}.png")
    begun = time.perf_counter()
    try:
        result = walk(player, frames, video, picture, _say)
    finally:
        player.close()
    loop_fps = frames / (time.perf_counter() - begun)
    written = " and ".join(str(path) for path in (result.video, result.sheet) if path)
    _say(
        f"{frames} frames at {player.stats.engine_fps:.1f} fps"
        + (f", written to {written}" if written else "")
    )
    if tell:
        print(json.dumps(_figures(player) | {"loop_fps": round(loop_fps, 2), "compared": result.compared}))
    return 0


def _load(options: argparse.Namespace) -> tuple[World, Engine]:
    import worldsim  # loading is what takes time: --help does without

    world = worldsim.load(options.world, device=options.device)
    return world, world.engine(slots=SLOTS, steps=options.steps, history=HISTORY)


def _player(options: argparse.Namespace, world: World, engine: Engine, driver: str, stats: Stats) -> Player:
    return Player(
        world,
        engine,
        start=options.start - 1,
        seed=options.seed,
        driver=driver,
        open_twin=lambda: open_twin(world.spec),
        stats=stats,
    )


def _warm_up(engine: Engine, seed: int) -> None:
    """The first steps set things up and are no measure of those that follow."""
    session = engine.open(seed=seed)
    for _ in range(3):
        session.step(Control())
    session.close()


def _figures(player: Player) -> dict[str, object]:
    stats, world = player.stats, player.world
    return {
        "fps": round(stats.engine_fps, 2),
        "p50_ms": round(stats.percentile(50), 3),
        "p99_ms": round(stats.percentile(99), 3),
        "frames": stats.frames,
        "world": world.name,
        "device": str(world.device),
        "dtype": str(world.dtype).removeprefix("torch."),
        "steps": player.engine.steps,
        "params": world.params,
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr)
