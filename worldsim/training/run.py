"""``worldsim train``: train a world on a dataset within the given minutes."""

from __future__ import annotations

import argparse
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from worldsim import config as configs
from worldsim.checkpoint import WorldConfig, find_world, load_world, save_world
from worldsim.data.clips import ClipStore
from worldsim.data.dataset import Dataset, Split
from worldsim.data.spec import SourceSpec
from worldsim.errors import ConfigError, install
from worldsim.networks import Networks
from worldsim.options import MINUTES, SEED, THREADS, Parser, frame_size
from worldsim.training.enlarging import enlarged
from worldsim.training.imagination import action_psnr_gap
from worldsim.training.parallel import Group, process_group
from worldsim.training.protocol import ExtendsNetworks, TrainingRecipe
from worldsim.training.recipe_ranges import check_recipe
from worldsim.training.recipes import default_recipe, measure_contrast, recipe_names, recipe_of
from worldsim.training.sample_grid import write_sample_grid
from worldsim.training.stage import Logs, Stage
from worldsim.training.starts import choose_starts
from worldsim.training.state import STATE
from worldsim.training.trainer import MetricWriter, Trainer
from worldsim.utils.output_paths import claim_folder
from worldsim.utils.progress import ProgressReporter


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    options = Parser(prog="worldsim train", description="Train a world on recorded data.")
    add = options.add_argument
    add("name", help="name of the world, e.g. doom-maze")
    add(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="folders that `worldsim record` wrote, all of the same frames and controls",
    )
    add("--cache", type=Path, metavar="DIR", help="for decoded frames (default: beside the data)")
    add(
        "--out",
        type=Path,
        required=True,
        help="run folder: state, TensorBoard log, sample grids and the world itself",
    )
    add("--minutes", type=MINUTES, default=150, help="wall clock that the stages share")
    recipes = f"{', '.join(recipe_names())}, or MODULE:NAME of your own"
    add("--recipe", help=f"{recipes} (default: small for a static scene, else latent-dynamics)")
    add("--size", type=frame_size, help="frame size HxW; must divide the dataset's (default: the dataset's)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a field of the recipe, e.g. width=256",
    )
    add(
        "--stages",
        help="comma-separated stages of the recipe to run, e.g. scene,motion or dynamics (default: all)",
    )
    add(
        "--init",
        help="world to start from, a shipped name or a folder; it keeps its own networks, and may have "
        "smaller frames",
    )
    add("--resume", action="store_true", help="go on from the state in --out")
    add("--seed", type=SEED, default=0, help="random seed")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add("--threads", type=THREADS, help="CPU threads (default: all)")
    return options


def main(argv: list[str]) -> int:
    """Run the command; 130 where Ctrl-C ended it (the world written so far is usable)."""
    args = parser().parse_args(argv)
    with process_group(args.device) as (group, device):
        return _run(args, group, device)


def _run(args: argparse.Namespace, group: Group, device: torch.device) -> int:
    """``main`` in one of the processes that train together."""
    if Path(args.name).name != args.name:
        raise ConfigError("a world's name must be that of one folder", args.name, "choose the place by --out")
    chosen = args.recipe or default_recipe(Dataset(args.data[0]).spec)
    recipe = configs.override(recipe_of(chosen), dict(pair.partition("=")[::2] for pair in args.set))
    check_recipe(recipe)
    if group.is_first:
        claim_folder(args.out, (STATE, args.name), replace=args.resume, remedy="add --resume")
    if args.threads:
        torch.set_num_threads(args.threads)
    splits: tuple[Split, Split] = ("train", "held_out")
    clips, held_out = (_decode_all(args, split) for split in splits)
    starts = choose_starts(held_out)
    networks = _networks(args, recipe, clips, device)
    stages = _chosen(recipe.stages(networks, clips, warm=bool(args.init)), args.stages)
    world = WorldConfig(name=args.name, source=clips.spec, networks=networks.config)
    told = textwrap.fill(f"Recipe {chosen}, {asdict(recipe)}.", 110, break_on_hyphens=False)
    card = f"# {args.name}\n\n{told}\n"
    save = partial(save_world, args.out / args.name, world, networks, starts, card)
    finished = _train(args, networks, stages, held_out, save, group)
    if group.is_first:
        # Where torchrun started this, it sends SIGTERM as soon as another process has ended by Ctrl-C.
        with _on_term(signal.SIG_IGN):
            save()
        print(f"{'trained' if finished else 'interrupted; --resume goes on'}: {args.out / args.name}")
    return 0 if finished else 130


def _decode_all(args: argparse.Namespace, split: Split) -> ClipStore:
    """The clips of a split of all datasets that have any."""
    given = [folder for folder in args.data if any(e.split == split for e in Dataset(folder).episodes)]
    return ClipStore.joined([_decode(one, args.size, split, args.cache) for one in given or args.data[:1]])


def _decode(data: Path, size: tuple[int, int] | None, split: Split, cache: Path | None = None) -> ClipStore:
    """The clips of a split; the first time, its videos are decoded."""
    with ProgressReporter(f"decoding {split}", 1.0) as reporter:

        def show(done: int, total: int) -> None:
            reporter.update(done / total, f"{done}/{total} episodes")

        return ClipStore(data, size, split=split, on_progress=show, cache=cache)


def _networks(
    args: argparse.Namespace, recipe: TrainingRecipe, clips: ClipStore, device: torch.device
) -> Networks:
    """Fresh networks, or those of the world to start from, ready for training."""
    if args.init:
        stored = load_world(find_world(args.init))
        _check_source(stored.config.source, clips.spec)
        networks = enlarged(stored.networks, stored.config.source, clips.spec)
        networks = _extended(networks, recipe, clips.spec)
    else:
        torch.manual_seed(args.seed)
        config = recipe.plan(clips.spec, clips.poses)
        config = replace(config, typical_contrast=measure_contrast(clips))
        networks = Networks(config, clips.spec)
    networks.to(device)
    return networks.train()


def _extended(networks: Networks, recipe: TrainingRecipe, source: SourceSpec) -> Networks:
    """The networks with what the recipe adds to them, with fresh weights there."""
    config = recipe.extend(networks.config) if isinstance(recipe, ExtendsNetworks) else networks.config
    if config == networks.config:
        return networks
    extended = Networks(config, source)
    found = extended.load_state_dict(networks.state_dict(), strict=False)
    assert not found.unexpected_keys, "a recipe adds parts, it takes none away"
    return extended


def _check_source(learnt: SourceSpec, given: SourceSpec) -> None:
    """Check that controls and poses of a stored world match the data; its frames may be smaller."""
    for name in ("control_space", "has_pose"):
        if getattr(learnt, name) != getattr(given, name):
            rule = f"--init needs a world of the data's {name}, {getattr(given, name)}"
            raise ConfigError(rule, getattr(learnt, name), "choose another world")


def _chosen(stages: list[Stage], names: str | None) -> list[Stage]:
    if names is None:
        return stages
    known, chosen = [stage.name for stage in stages], names.split(",")
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise ConfigError(f"a stage must be one of {', '.join(known)}", unknown)
    return [stage for stage in stages if stage.name in chosen]


def _train(
    args: argparse.Namespace,
    networks: Networks,
    stages: list[Stage],
    held_out: ClipStore,
    save: Callable[[], None],
    group: Group,
) -> bool:
    """Run the stages; False where Ctrl-C or a SIGTERM ended them early.

    ``save`` writes the world at every checkpoint, so that a run that is killed leaves one, too.
    """

    def on_checkpoint(stage: str, step: int) -> Logs:
        save()
        write_sample_grid(networks, held_out, args.out / f"samples-{stage}-{step:06}.png")
        return {"action_psnr_gap": action_psnr_gap(networks, held_out)}

    # A background job gets no Ctrl-C; SIGTERM ends it as well, with its state saved.
    writers = _metric_writer(args.out) if group.is_first else nullcontext()
    with writers as writer, _on_term(signal.default_int_handler):
        every = min(120.0, max(20.0, args.minutes * 60 / 6))
        trainer = Trainer(
            networks, stages, args.out, args.minutes, args.seed, writer, on_checkpoint, every, group
        )
        if args.resume:
            trainer.resume()
        if group.is_first:
            size, peak = networks.parameter_count() / 1e6, trainer.peak / 1e12
            print(f"{size:.1f}M parameters, matmul peak {peak:.2f} TFLOP/s", file=sys.stderr)
        return trainer.run()


@contextmanager
def _on_term(handler: Any) -> Iterator[None]:
    """Handle SIGTERM otherwise meanwhile."""
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _metric_writer(out: Path) -> Iterator[MetricWriter | None]:
    """A writer of metrics: TensorBoard, if it is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print(f"metrics are not logged: {install('train')} for TensorBoard", file=sys.stderr)
        yield None
        return
    with SummaryWriter(str(out / "tensorboard")) as writer:
        yield writer
