"""``worldsim dream-train``: train a policy in a dream, play the real game, fine-tune the world, and repeat.

A round is a folder: the world (fine-tuned from the second round on), the policy, its score. What is there
already is not made again, so that an interrupted run goes on with ``--resume``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from worldsim.agents.dreamer.games import Games
from worldsim.agents.dreamer.policy import load_policy, save_policy
from worldsim.agents.dreamer.policy_collector import PolicyCollector
from worldsim.agents.dreamer.score import score_policy
from worldsim.agents.dreamer.training import DreamSettings, real_beginnings, train_policy
from worldsim.data.dataset import Dataset
from worldsim.data.recorder import RecordConfig, record
from worldsim.engine.world import World, load
from worldsim.envs.episode_collector import EpisodeCollector
from worldsim.options import COUNT, MINUTES, NATURAL, PROCESSES, THREADS, Number, Parser
from worldsim.training import run as world_training
from worldsim.training.state import STATE
from worldsim.utils.output_paths import claim_folder
from worldsim.utils.run_command import run_command

__all__ = ["main"]

_TABLE = "rounds.json"
_POLICY = "policy.safetensors"
_SCORE = "score.json"
_SEED = Number(high=3998)
"""As of recordings: those above would play the episodes that metrics are measured on."""
_TEMPERATURE = Number(whole=False, high=10)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command(lambda: _run(_parser().parse_args(argv)), "worldsim dream-train")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="worldsim dream-train",
        description="Learn to play in a dream, and play the real game.",
    )
    add = parser.add_argument
    add("world", help="name or folder of the world to dream, e.g. take-cover")
    add("--minutes", type=MINUTES, required=True, help="wall clock of all learning; real play comes on top")
    add("--out", type=Path, required=True, help="run folder: a folder a round, the data, the table")
    add("--rounds", type=COUNT, default=1, help="from the second on the world learns, too (%(default)s)")
    add("--temperature", type=_TEMPERATURE, default=1.15, help="of the dream (%(default)s)")
    add("--hold", type=COUNT, default=4, help="frames that a decision is held (%(default)s)")
    add("--dreams", type=PROCESSES, default=256, help="dreams side by side (%(default)s)")
    add("--starts", type=COUNT, default=128, help="real beginnings of dreams (%(default)s)")
    add("--episode", type=COUNT, default=1050, help="frames of an episode at most (%(default)s)")
    add("--collect", type=COUNT, default=60_000, help="real frames a further round adds (%(default)s)")
    add("--recipe", default="latent-dynamics", help="`worldsim train`'s, of the further rounds (%(default)s)")
    add("--episodes", type=NATURAL, default=100, help="real episodes a round is scored on (%(default)s)")
    add("--games", type=PROCESSES, default=10, help="real games side by side (%(default)s)")
    add("--seed", type=_SEED, default=0, help="of all chance (%(default)s)")
    add("--threads", type=THREADS, help="CPU threads (default: all)")
    add("--device", default="auto", help="auto, cpu, cuda, ... (%(default)s)")
    add("--resume", action="store_true", help="go on with the rounds in --out")
    return parser


def _run(args: argparse.Namespace) -> int:
    claim_folder(args.out, ("round-0", _TABLE), replace=args.resume, remedy="add --resume")
    if args.threads:
        torch.set_num_threads(args.threads)
    source, table = args.world, []
    for number in range(args.rounds):
        folder = args.out / f"round-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        if number:
            _collect(args, number, source, args.out / f"round-{number - 1}" / _POLICY)
            source = _improve_world(args, source, folder)
        row = {"round": number} | _play_round(args, number, load(source, args.device), folder)
        table.append(row)
        (args.out / _TABLE).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        print(_line(row), flush=True)
    return 0


def _play_round(args: argparse.Namespace, number: int, world: World, folder: Path) -> dict[str, Any]:
    """Learn a policy in ``world`` and let it play; the round's row of the table."""
    path = folder / _POLICY
    if not path.is_file():
        settings = DreamSettings(
            temperature=args.temperature,
            hold=args.hold,
            dreams=args.dreams,
            episode=args.episode,
            seed=args.seed + number,
        )
        begun = world.with_starts(real_beginnings(world, args.starts, args.seed))
        outcome = train_policy(begun, _share(args), settings, partial(print, flush=True))
        tics = outcome.dream_frames * (world.spec.tics or 1)
        summary = {"dream_mean": tics, "fps": outcome.frames_per_second}
        (folder / "dream.json").write_text(json.dumps(summary) + "\n", encoding="utf-8")
        save_policy(path, outcome.policy, outcome.metadata)
    row = json.loads((folder / "dream.json").read_text(encoding="utf-8"))
    policy, scored = load_policy(path), folder / _SCORE
    row["frames"] = policy.metadata.frames
    if args.episodes and not scored.is_file():
        with Games(world.spec.name, world.spec.size, min(args.games, args.episodes), args.episode) as games:
            score = score_policy(games, world, policy, args.seed, args.episodes)
        scored.write_text(json.dumps({"real_mean": score.mean, "se": score.se}) + "\n", encoding="utf-8")
    return row | (json.loads(scored.read_text(encoding="utf-8")) if scored.is_file() else {})


def _collect(args: argparse.Namespace, number: int, source: str, policy: Path) -> None:
    """Add real frames to the data: of the recording behaviours first, then of the newest policy."""
    data, spec = args.out / "data", load(source, "cpu").spec
    config = RecordConfig(source=spec.name, seed=args.seed, size=spec.size, codec="raw")
    mixture = partial(EpisodeCollector, spec.name, spec.size, args.episode)
    mine = partial(PolicyCollector, source, policy, args.games, args.episode)
    for frames, make_collector in ((args.collect, mixture), ((number + 1) * args.collect, mine)):
        if not (data / "meta").exists() or sum(row.length for row in Dataset(data).episodes) < frames:
            record(make_collector, data, config, frames=frames, workers=1, resume=True)


def _improve_world(args: argparse.Namespace, source: str, folder: Path) -> str:
    """Fine-tune the world's dynamics on all data; its folder."""
    name = load(source, "cpu").name
    made = folder / "world" / name
    if (folder / "improved").exists():
        return str(made)
    words = [name, "--data", str(args.out / "data"), "--out", str(folder / "world"), "--init", source]
    words += ["--recipe", args.recipe, "--stages", "dynamics", "--minutes", str(_share(args))]
    words += ["--device", args.device, "--seed", str(args.seed), "--set", "lr_scale=0.3"]
    words += ["--threads", str(args.threads)] if args.threads else []
    if (folder / "world" / STATE).exists():
        words.append("--resume")
    code = world_training.main(words)
    if code:
        raise KeyboardInterrupt  # it was interrupted; its state is kept
    (folder / "improved").touch()
    return str(made)


def _share(args: argparse.Namespace) -> float:
    """Minutes of one learning: each round has one of a policy, all but the first one of the world."""
    return float(args.minutes) / (2 * args.rounds - 1)


def _line(row: dict[str, Any]) -> str:
    real = f"{row['real_mean']:.0f} ± {row['se']:.0f}" if "real_mean" in row else "not played"
    dream = f"{row['dream_mean']:.0f} tics after {row['frames']} frames at {row['fps']:.0f}/s"
    return f"round {row['round']}: dream {dream}; real {real}"
