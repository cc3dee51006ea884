"""``python -m benchmarks.ablation``: contribution of each part of a recipe, one change at a time.

All worlds are trained for the same minutes on the same data. What is not studied is taken from ``--init``:
scene and motion of a world with a static scene, the tokenizer of a next-scale world. The rest is trained
anew. Then the evaluation suite measures them.
Results are kept under ``--out``: the same command continues where an interrupted one ended.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from worldsim import config as configs
from worldsim.checkpoint import StoredWorld, WorldConfig, find_world, load_world, save_world
from worldsim.data.clips import ClipStore
from worldsim.engine.world import load
from worldsim.errors import ConfigError
from worldsim.evaluation.idm.model import find_idm
from worldsim.evaluation.open_collector import open_collector
from worldsim.evaluation.suite import CONTEXT, EvalConfig, evaluate
from worldsim.evaluation.trajectories import MOST_SKIPPED
from worldsim.networks import Networks, NetworksConfig
from worldsim.options import MINUTES, SEED, THREADS, Parser
from worldsim.training.protocol import TrainingRecipe
from worldsim.training.recipes import Recipe, recipe_of
from worldsim.training.stage import Logs
from worldsim.training.trainer import Trainer
from worldsim.utils.output_paths import check_writable
from worldsim.utils.progress import ProgressReporter
from worldsim.utils.run_command import run_command

__all__ = ["CONFIG", "STUDIES", "Study", "main", "measure", "study_of", "train"]


@dataclass(frozen=True)
class Study:
    """Variants of a kind of recipe."""

    variants: dict[str, dict[str, str]]
    """Changes of the recipe, by name."""
    stages: tuple[str, ...]
    """Stages of the recipe that are run."""
    inherited: tuple[str, ...]
    """Beginnings of the names of weights that are taken from the given world."""
    same_weights: dict[str, str] = field(default_factory=dict)
    """Variants that differ at play alone, and the variant whose weights they take."""


_PLAIN = {
    "temporal_rope": "false", "flips": "0", "flip_ramp": "0", "flip_inheritance": "false",
    "hidden_frames": "0", "own_past": "0", "short": "4096",
}  # fmt: skip


def _without(*restored: str) -> dict[str, str]:
    """Changes of a plain next-scale recipe but for some fields, which keep their defaults."""
    return {name: value for name, value in _PLAIN.items() if name not in restored}


_ROPE, _FLIPS = ("temporal_rope",), ("temporal_rope", "flips", "flip_ramp")
STUDIES: dict[str, Study] = {
    "static scene": Study(
        variants={
            "all": {},
            "keys-only": {"conditioning": "keys"},
            "pose-only": {"conditioning": "pose"},
            "no-context-noise": {"context_noise": "0"},
            "no-self-rollout": {"self_rollout_fraction": "0"},
            "velocity": {"prediction": "velocity"},
            "context-16": {"context": "16", "length": "17"},
            "context-32": {"context": "32", "length": "33"},
            "context-64": {"context": "64", "length": "65"},
        },
        stages=("world_model", "self_rollout"),
        inherited=("tokenizer.scene.", "heads.", "walkable_map."),
    ),
    "next-scale": Study(
        variants={
            "plain": _without(),
            "temporal-rope": _without(*_ROPE),
            "flips": _without(*_FLIPS),
            "inheritance": _without(*_FLIPS, "flip_inheritance"),
            "frame-mask": _without(*_FLIPS, "flip_inheritance", "hidden_frames"),
            "own-errors": _without(*_FLIPS, "flip_inheritance", "hidden_frames", "own_past"),
            "staged": {},
            "guidance-2": {"guidance": "2"},
            "guidance-4": {"guidance": "4"},
        },
        stages=("generator", "outcome"),
        inherited=("tokenizer.",),
        same_weights={"guidance-2": "staged", "guidance-4": "staged"},
    ),
    "temporal factor": Study(
        variants={"frames-1": {"frames": "1"}, "frames-4": {"frames": "4"}},
        stages=("tokenizer", "generator", "outcome"),
        inherited=(),
    ),
}
"""Studies by name. Recipes for a static scene belong to the first, in which "all" has a context of 8 and
"keys-only" has no poses, and so no static scene. Each next-scale variant up to "staged" adds a part to those
before. Variants of the temporal factor have a tokenizer of their own."""
CONFIG = EvalConfig(trajectories=16, teacher_forced_frames=64, score_every=4, horizon=64)
METRICS = (
    "next_psnr",
    "next_psnr_changed",
    "next_gain",
    "rollout16_psnr",
    "rollout16_action_gap",
    "object_pixels_ratio@17_32",
    "rollout64_psnr",
    "rollout64_action_gap",
    "gradient_ratio64",
    "frechet",
    "key_accuracy",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    study = STUDIES[args.study] if args.study else study_of(args.recipe)
    names = _names(study, args.only)
    check_writable(args.out)
    if args.threads:
        torch.set_num_threads(args.threads)
    clips = ClipStore(args.data)
    recipe = configs.override(recipe_of(args.recipe), dict(pair.partition("=")[::2] for pair in args.set))
    for name in names:
        if not (args.out / f"{name}.json").exists():
            made = retune if name in study.same_weights else train
            row = made(study, name, recipe, clips, args.init, args.minutes, args.seed, args.out)
            if row is None:
                print("interrupted; the same command goes on", file=sys.stderr)
                return 130
            row["metrics"] = measure(args.out / name)
            (args.out / f"{name}.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    rows = {name: json.loads((args.out / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    for name, row in rows.items():
        values = " ".join(f"{metric} {row['metrics'][metric][0]:.2f}" for metric in row["metrics"])
        print(f"{name}: {row['steps']} steps, {values}", file=sys.stderr)
    print(json.dumps(rows))
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmarks.ablation",
        description="Contribution of each part of a recipe, at equal minutes.",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that `worldsim record` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for worlds and metrics")
    parser.add_argument("--minutes", type=MINUTES, default=10, help="wall clock of each training")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="variants (default: all)")
    parser.add_argument("--init", default="doom-maze", help="world that the rest is taken from")
    parser.add_argument("--recipe", default="small", help="study and sizes")
    parser.add_argument("--study", choices=list(STUDIES), help="(default: that of the recipe)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a recipe field of all"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="random seed")
    parser.add_argument("--threads", type=THREADS, help="CPU threads (default: all)")
    return parser


def study_of(recipe: str) -> Study:
    """The study that a recipe of this name belongs to.

    Raises:
        ConfigError: none studies it.
    """
    if recipe in STUDIES:
        return STUDIES[recipe]
    if not isinstance(recipe_of(recipe), Recipe):
        raise ConfigError("a recipe must have a study of its variants", recipe, "choose small or next-scale")
    return STUDIES["static scene"]


def _names(study: Study, only: Sequence[str] | None) -> list[str]:
    """Names of the variants to run.

    Raises:
        ConfigError: the study has no such variant.
    """
    for name in only or ():
        if name not in study.variants:
            raise ConfigError(f"a variant must be one of {', '.join(study.variants)}", name)
    return list(only or study.variants)


def train(
    study: Study,
    name: str,
    recipe: TrainingRecipe,
    clips: ClipStore,
    init: str,
    minutes: float,
    seed: int,
    out: Path,
) -> dict[str, object] | None:
    """Train a variant into ``out / name``. Return its report, or None where it was interrupted."""
    recipe = configs.override(recipe, study.variants[name])
    stored = load_world(find_world(init))
    if (stored.config.source.name, stored.config.source.size) != (clips.spec.name, clips.spec.size):
        rule = f"the world --init must be of the data's source and size: {clips.spec.name} {clips.spec.size}"
        seen = (stored.config.source.name, stored.config.source.size)
        raise ConfigError(rule, seen, "give a world that was trained on such data")
    torch.manual_seed(seed)
    networks = Networks(_planned(recipe, clips, stored), clips.spec)
    _inherit(study, networks, stored.networks)
    stages = recipe.stages(networks.train(), clips, warm=study is STUDIES["static scene"])
    plan = [stage for stage in stages if stage.name in study.stages]
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    steps: dict[str, int] = {}

    def count(stage: str, step: int) -> Logs:
        steps[stage] = step
        return {}

    trainer = Trainer(networks, plan, folder, minutes, seed, on_checkpoint=count)
    if (folder / "state.safetensors").exists():
        trainer.resume()
    if not trainer.run():
        return None
    world = WorldConfig(name=stored.config.name, source=clips.spec, networks=networks.config)
    save_world(folder / "world", world, networks, stored.starts, f"# {name}\n")
    return {"changed": study.variants[name], "minutes": minutes, "steps": steps}


def retune(
    study: Study,
    name: str,
    recipe: TrainingRecipe,
    clips: ClipStore,
    init: str,
    minutes: float,
    seed: int,
    out: Path,
) -> dict[str, object] | None:
    """As ``train``, for a variant that differs at play alone: it takes the weights of another in ``out``."""
    other = study.same_weights[name]
    if not (out / other / "world").is_dir():
        made = train(study, other, recipe, clips, init, minutes, seed, out)
        if made is None:
            return None
    stored = load_world(out / other / "world")
    recipe = configs.override(recipe, study.variants[name])
    networks = Networks(_planned(recipe, clips, stored), clips.spec)
    networks.load_state_dict(stored.networks.state_dict())
    world = WorldConfig(name=stored.config.name, source=clips.spec, networks=networks.config)
    save_world(out / name / "world", world, networks, stored.starts, f"# {name}\n")
    return {"changed": study.variants[name], "minutes": minutes, "steps": {}, "weights": other}


def measure(folder: Path) -> dict[str, tuple[float, float, float]]:
    """Metrics of the world in ``folder / "world"``: value, and the ends of its interval."""
    world = load(folder / "world")
    collector = open_collector(world, CONTEXT + CONFIG.horizon + MOST_SKIPPED)
    try:
        with ProgressReporter(f"measuring {folder.name}", 1.0) as reporter:
            report = evaluate(world, collector, CONFIG, idm=find_idm(world.spec), on_progress=reporter.update)
    finally:
        collector.close()
    found = {name: report.metrics[name] for name in METRICS if name in report.metrics}
    return {name: (metric.value, *(metric.ci or (metric.value,) * 2)) for name, metric in found.items()}


def _planned(recipe: TrainingRecipe, clips: ClipStore, stored: StoredWorld) -> NetworksConfig:
    """Networks of the recipe's sizes around the stored scene and motion."""
    planned, held = recipe.plan(clips.spec, clips.poses), stored.config.networks
    if not planned.scale_noise_by_speed or not held.scale_noise_by_speed:
        return planned
    tokenizer = replace(planned.tokenizer, scene=held.tokenizer.scene)
    return replace(
        planned,
        tokenizer=tokenizer,
        heads=held.heads,
        walkable_map=held.walkable_map,
        twist_scale=held.twist_scale,
    )


def _inherit(study: Study, networks: Networks, stored: Networks) -> None:
    """Load what the study takes over; scene, motion and walkable map only where the networks have them."""
    mine, theirs = networks.config.tokenizer, stored.config.tokenizer
    if "tokenizer." in study.inherited and mine != theirs:
        rule = "variants that share a tokenizer need the one of the world --init"
        raise ConfigError(rule, type(theirs).__name__, "give a world of the recipe and the same --set")
    if _is_static(networks) == (study is STUDIES["static scene"]):
        held = stored.state_dict()
        given = {name: value for name, value in held.items() if name.startswith(study.inherited)}
        networks.load_state_dict(networks.state_dict() | given)


def _is_static(networks: Networks) -> bool:
    return networks.walkable_map is not None


if __name__ == "__main__":
    raise SystemExit(run_command(main))
