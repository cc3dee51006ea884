"""``worldsim play``: walk through a learned world, in a window or, without a display, into a video."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldsim.agents.human.display import NoDisplay, check_pygame, has_display
from worldsim.agents.human.headless import walk
from worldsim.agents.human.keymap import load_keymap
from worldsim.agents.human.player import DRIVERS, POLICY_DRIVER, WorldPlayer
from worldsim.agents.human.policy_driver import find_agent_policy, policy_maker
from worldsim.agents.human.reference_run import open_reference
from worldsim.agents.human.stats import Stats
from worldsim.controls import Control
from worldsim.errors import ConfigError
from worldsim.options import COUNT, DENOISING, FRAMES_PER_SECOND, SEED, TEMPERATURE, Number, Parser
from worldsim.utils.output_paths import claim_file, unused_paths
from worldsim.utils.run_command import run_command

if TYPE_CHECKING:
    from worldsim.engine.engine import Engine
    from worldsim.engine.world import World

SLOTS = 4  # two futures, one that is being opened, one to spare
REWIND_FRAMES = 160  # frames that can be rewound; each takes about a megabyte
KEYMAP_HELP = """\
a keymap replaces the default keys of what it names, for example:

  [keys]                       # the world's keys
  forward = ["w", "up"]
  [commands]                   # what F1 lists, by names such as pause, rewind, fork
  pause = "space"
  [mouse]
  sensitivity = 0.004          # radians per pixel; negative: the other way round
"""
_SCALE = Number(low=1, high=64)
WALK = 200  # frames, where nobody says how many


def main(argv: Sequence[str] | None = None) -> int:
    """Run with these arguments and return the exit code: 0, or 2 after a user's error."""
    return run_command(lambda: _play(_parser().parse_args(argv)), "worldsim play")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="worldsim play",
        description="Walk through a learned world. F1 shows the keys.",
        epilog=KEYMAP_HELP,
    )
    add = parser.add_argument
    add("named", nargs="?", metavar="WORLD", help="a world's name or folder")
    add("--world", default="doom-maze", help="the same as an option")
    add(
        "--start",
        type=COUNT,
        default=1,
        help="number of the place to start from, from 1",
    )
    add("--seed", type=SEED, default=0, help="random seed: another one imagines another future")
    add(
        "--denoising-steps",
        type=DENOISING,
        help="denoising steps a frame, K, of those that the world takes (default: the sampler's)",
    )
    add(
        "--temperature",
        type=TEMPERATURE,
        default=1.0,
        help="factor of the sampled noise: 1 as trained, 0 is deterministic",
    )
    add("--unit", help="predicted in one step: a unit that the world was trained for (default: the first)")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add(
        "--fps",
        type=FRAMES_PER_SECOND,
        help="frames a second; 0 is as fast as it goes (default: the world's own pace)",
    )
    add(
        "--agent",
        metavar="NAME|FILE",
        help="who steers first: human, scripted, random, dream (the policy that is shipped with the world), "
        "or a policy's file (default: human; without a window scripted)",
    )
    add("--scale", type=_SCALE, help="window pixels per picture pixel (default: what fits)")
    add("--fullscreen", action="store_true", help="fill the screen")
    add(
        "--keymap",
        type=Path,
        help="TOML file with your keys (default: worldsim/keys.toml in your config folder)",
    )
    add("--headless", action="store_true", help="no window: walk, and write a video and a contact sheet")
    add("--frames", type=COUNT, help=f"frames to walk without a window (default: {WALK})")
    add("--record", type=Path, metavar="MP4", help="record to this file, in a window from the first frame on")
    add("--force", action="store_true", help="replace files of an earlier walk or recording")
    add("--json", action="store_true", help="without a window: one JSON line of figures on stdout")
    add("--out-prefix", default="play", help="files are named after it")
    return parser


def _play(options: argparse.Namespace) -> int:
    if options.record:
        claim_file(options.record, replace=options.force, parents=False)
    options.world = options.named or options.world
    options.policy = find_agent_policy(options.agent, options.world)
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


def _window(options: argparse.Namespace) -> int:
    warning = check_pygame()
    if warning:
        print(warning, file=sys.stderr)
    from worldsim.agents.human.window import Window  # pygame from here on

    with Window.opened(options.world) as window:
        world, engine = _load(options)
        player = _player(options, world, engine, _driver(options, "human"), Stats())
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
    video, picture = _walk_paths(options)
    world, engine = _load(options)
    _warm_up(engine, options.seed)
    driver = _driver(options, "scripted")
    if driver == "human":
        driver = "scripted"
    player = _player(options, world, engine, driver, Stats(window=frames))
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


def _walk_paths(options: argparse.Namespace) -> tuple[Path, Path]:
    """Paths of a headless run's video and contact sheet. Existing files are kept unless --force is given."""
    if options.record:
        video, picture = options.record, options.record.with_suffix(".png")
        if video == picture:
            raise ConfigError("--record must name a video, not its contact sheet", str(video), "write .mp4")
        claim_file(picture, replace=options.force, parents=False)
        return video, picture
    if options.force:
        video, picture = (Path(f"{options.out_prefix}{ending}") for ending in (".mp4", ".png"))
    else:
        video, picture = unused_paths(options.out_prefix, ".mp4", ".png")
    for path in (video, picture):
        claim_file(path, replace=options.force, parents=False)
    return video, picture


def _driver(options: argparse.Namespace, default: str) -> str:
    """Name of the driver that the options ask for."""
    if options.agent is None or options.agent in DRIVERS:
        return options.agent or default
    return POLICY_DRIVER


def _load(options: argparse.Namespace) -> tuple[World, Engine]:
    import worldsim  # loading is what takes time: --help does without

    world = worldsim.load(options.world, device=options.device).for_unit(options.unit)
    if options.start > max(len(world.starts), 1):
        raise ConfigError(f"--start must be 1 to {max(len(world.starts), 1)} in this world", options.start)
    return world, world.engine(
        slots=SLOTS, denoising_steps=options.denoising_steps, rewind_frames=REWIND_FRAMES
    )


def _player(
    options: argparse.Namespace, world: World, engine: Engine, driver: str, stats: Stats
) -> WorldPlayer:
    return WorldPlayer(
        world,
        engine,
        start=options.start - 1,
        seed=options.seed,
        temperature=options.temperature,
        driver=driver,
        open_reference=lambda: open_reference(world.spec),
        make_policy=policy_maker(world, options.world, options.policy),
        stats=stats,
    )


def _warm_up(engine: Engine, seed: int) -> None:
    """The first steps set things up and are no measure of those that follow."""
    session = engine.open(seed=seed)
    for _ in range(3):
        session.step(Control())
    session.close()


def _figures(player: WorldPlayer) -> dict[str, object]:
    stats, world = player.stats, player.world
    return {
        "fps": round(stats.engine_fps, 2),
        "p50_ms": round(stats.percentile(50), 3),
        "p99_ms": round(stats.percentile(99), 3),
        "frames": stats.frames,
        "world": world.name,
        "device": str(world.device),
        "dtype": str(world.dtype).removeprefix("torch."),
        "denoising_steps": player.engine.denoising_steps,
        "unit": world.unit,
        "latency": world.unit_frames,
        "params": world.params,
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr)
