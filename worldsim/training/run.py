"""``worldsim train``: from a dataset to a world, within the minutes given."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from worldsim import config as configs
from worldsim.checkpoint import WorldConfig, find_world, load_world, save_world
from worldsim.data.clips import ClipStore
from worldsim.errors import ConfigError, DataError
from worldsim.networks import Networks
from worldsim.training.pictures import write_strip
from worldsim.training.plan import stages_of
from worldsim.training.recipes import RECIPES, plan_networks, recipe_of
from worldsim.training.starts import choose_starts
from worldsim.training.trainer import Trainer


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = argparse.ArgumentParser(prog="worldsim train", description="Train a world on a recorded dataset.")
    options.add_argument("name", help="name of the world, e.g. doom-maze")
    options.add_argument("--data", type=Path, required=True, help="folder that `worldsim record` wrote")
    options.add_argument("--out", type=Path, required=True, help="run folder: state, figures, strips and the world itself")
    options.add_argument("--minutes", type=float, default=150, help="wall clock that the stages share (default: 150)")
    options.add_argument("--recipe", choices=sorted(RECIPES), default="small")
    options.add_argument("--size", help="frame size HxW; must divide the dataset's (default: the dataset's)")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe field, e.g. width=256")
    options.add_argument("--stages", help="comma-separated stages to run, of place,motion,dream,rollout (default: all)")
    options.add_argument("--init", help="world to start from: a shipped name or a folder")
    options.add_argument("--resume", action="store_true", help="go on from the state in --out")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default="auto")
    options.add_argument("--threads", type=int, help="CPU threads (default: all)")
    return options


def main(argv: list[str]) -> int:
    """Run the command; 130 where Ctrl-C ended it (the world written so far is usable)."""
    args = parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device)
    recipe = configs.override(recipe_of(args.recipe), dict(pair.partition("=")[::2] for pair in args.set))
    size = None if args.size is None else _read_size(args.size)
    clips = ClipStore(args.data, size, on_progress=lambda done, total: print(f"\rdecoding {done}/{total}", end="", file=sys.stderr))
    held_out = ClipStore(args.data, size, split="held_out")
    if args.init:
        stored = load_world(find_world(args.init), device)
        networks = Networks(stored.config.networks)
        networks.load_state_dict(stored.networks.state_dict())
    else:
        torch.manual_seed(args.seed)
        networks = Networks(plan_networks(recipe, clips.spec, clips.poses))
    networks.to(device).to(memory_format=torch.channels_last).train()
    stages = stages_of(recipe, networks, clips, warm=bool(args.init))
    if args.stages:
        chosen = args.stages.split(",")
        unknown = set(chosen) - {stage.name for stage in stages}
        if unknown:
            raise ConfigError(f"a stage must be one of {', '.join(stage.name for stage in stages)}", sorted(unknown))
        stages = [stage for stage in stages if stage.name in chosen]
    args.out.mkdir(parents=True, exist_ok=True)
    world = WorldConfig(name=args.name, source=clips.spec, networks=networks.config)
    starts = choose_starts(held_out)

    def picture(stage: str, step: int) -> None:
        write_strip(networks, held_out, args.out / f"strip-{stage}-{step:06}.png")

    trainer = Trainer(networks, stages, args.out, args.minutes, args.seed, _writer(args.out), picture)
    if args.resume:
        trainer.resume()
    print(f"{networks.parameter_count() / 1e6:.1f}M parameters, {len(clips)} frames, matmul peak {trainer.peak / 1e12:.2f} TFLOP/s", file=sys.stderr)
    finished = trainer.run()
    card = f"# {args.name}\n\nRecipe {args.recipe}, {asdict(recipe)}.\n"
    save_world(args.out / args.name, world, networks, starts, card)
    print(f"{'trained' if finished else 'interrupted; --resume goes on'}: {args.out / args.name}")
    return 0 if finished else 130


def _read_size(text: str) -> tuple[int, int]:
    height, x, width = text.partition("x")
    if not (x and height.isdigit() and width.isdigit()):
        raise DataError("a size must be HxW in pixels, e.g. 120x160", text)
    return int(height), int(width)


def _writer(out: Path):  # type: ignore[no-untyped-def]
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("figures are not written: pip install 'worldsim[train]' for TensorBoard", file=sys.stderr)
        return None
    return SummaryWriter(str(out / "figures"))
