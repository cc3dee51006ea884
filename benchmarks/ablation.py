"""``python -m benchmarks.ablation``: contribution of each part of a recipe, one change at a time.

All worlds are trained for the same minutes on the same data, from the same scene and motion (``--init``);
only the generator and the rest of the tokenizer are trained anew. Then the evaluation suite measures them.
Results are kept under ``--out``: the same command continues where an interrupted one ended.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from worldsim import config as configs
from worldsim.checkpoint import StoredWorld, WorldConfig, find_world, load_world, save_world
from worldsim.data.clips import ClipStore
from worldsim.engine.world import load
from worldsim.evaluation.idm.model import find_idm
from worldsim.evaluation.open_collector import open_collector
from worldsim.evaluation.suite import CONTEXT, EvalConfig, evaluate
from worldsim.evaluation.trajectories import MOST_SKIPPED
from worldsim.networks import Networks, NetworksConfig
from worldsim.options import MINUTES, SEED, THREADS, Parser
from worldsim.training.protocol import TrainingRecipe
from worldsim.training.recipes import recipe_of
from worldsim.training.stage import Logs
from worldsim.training.trainer import Trainer
from worldsim.utils.output_paths import check_writable
from worldsim.utils.progress import ProgressReporter
from worldsim.utils.run_command import run_command

__all__ = ["CONFIG", "VARIANTS", "main", "measure", "train"]

VARIANTS: dict[str, dict[str, str]] = {
    "all": {},
    "keys-only": {"conditioning": "keys"},
    "pose-only": {"conditioning": "pose"},
    "no-context-noise": {"context_noise": "0"},
    "no-self-rollout": {"self_rollout_fraction": "0"},
    "velocity": {"prediction": "velocity"},
    "context-16": {"context": "16", "length": "17"},
    "context-32": {"context": "32", "length": "33"},
    "context-64": {"context": "64", "length": "65"},
}
"""Changes of the recipe; "all" has a context of 8. "keys-only" has no poses, and so no static scene."""
CONFIG = EvalConfig(trajectories=16, teacher_forced_frames=64, score_every=4, horizon=64)
METRICS = (
    "next_psnr",
    "next_gain",
    "rollout16_psnr",
    "rollout16_action_gap",
    "rollout64_psnr",
    "rollout64_action_gap",
    "gradient_ratio64",
    "frechet",
    "key_accuracy",
)
_INHERITED = ("tokenizer.scene.", "heads.", "walkable_map.")
_STAGES = ("world_model", "self_rollout")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    check_writable(args.out)
    if args.threads:
        torch.set_num_threads(args.threads)
    names = args.only or list(VARIANTS)
    clips = ClipStore(args.data)
    for name in names:
        if not (args.out / f"{name}.json").exists():
            row = train(name, recipe_of(args.recipe), clips, args.init, args.minutes, args.seed, args.out)
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
    parser.add_argument("--minutes", type=MINUTES, default=10, help="of training, for each (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, help="these alone")
    parser.add_argument(
        "--init", default="doom-maze", help="world that scene and motion are taken from (%(default)s)"
    )
    parser.add_argument("--recipe", default="small", help="sizes (%(default)s)")
    parser.add_argument("--seed", type=SEED, default=0, help="of all chance (%(default)s)")
    parser.add_argument("--threads", type=THREADS, help="CPU threads (default: all)")
    return parser


def train(
    name: str, recipe: TrainingRecipe, clips: ClipStore, init: str, minutes: float, seed: int, out: Path
) -> dict[str, object] | None:
    """Train a variant into ``out / name``. Return its report, or None where it was interrupted."""
    recipe = configs.override(recipe, VARIANTS[name])
    stored = load_world(find_world(init))
    torch.manual_seed(seed)
    networks = Networks(_planned(recipe, clips, stored), clips.spec)
    _inherit(networks, stored.networks)
    plan = [stage for stage in recipe.stages(networks.train(), clips, warm=True) if stage.name in _STAGES]
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
    return {"changed": VARIANTS[name], "minutes": minutes, "steps": steps}


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


def _inherit(networks: Networks, stored: Networks) -> None:
    """Load scene, motion and walkable map where the networks have them."""
    if networks.walkable_map is not None:
        given = {name: value for name, value in stored.state_dict().items() if name.startswith(_INHERITED)}
        networks.load_state_dict(networks.state_dict() | given)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
