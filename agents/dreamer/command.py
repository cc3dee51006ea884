"""``worldsim dream-train``: train a policy in a dream, play the real game, fine-tune the world, and repeat.

A round is a folder: the world (fine-tuned from the second round on), the policy and an early one, its score,
a video of dream and reality side by side. What is there already is not made again: an interrupted run goes on
with ``--resume``, within a phase where it can.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from worldsim.agents.dreamer.batch_agents import check_world
from worldsim.agents.dreamer.beginnings import real_beginnings, recorded_beginnings
from worldsim.agents.dreamer.collectors import PolicyCollector
from worldsim.agents.dreamer.games import Games
from worldsim.agents.dreamer.options import add_dream_options, dream_settings
from worldsim.agents.dreamer.policy import POLICY, load_policy, save_policy
from worldsim.agents.dreamer.round_videos import SHEET, write_round_videos
from worldsim.agents.dreamer.score import score_policy
from worldsim.agents.dreamer.training import REWARDS, DreamSettings, TrainingResult, train_policy
from worldsim.data.clips import ClipStore
from worldsim.data.dataset import Dataset
from worldsim.data.recorder import RecordConfig, record
from worldsim.engine.precision import DTYPES
from worldsim.engine.temperature import TemperatureRange
from worldsim.engine.world import World, load
from worldsim.envs.episode_collector import EpisodeCollector
from worldsim.errors import ConfigError
from worldsim.options import COUNT, MINUTES, NATURAL, PROCESSES, SHARE, TEMPERATURE, THREADS, Number, Parser
from worldsim.training import run as world_training
from worldsim.training.state import STATE
from worldsim.utils.output_paths import claim_folder
from worldsim.utils.run_command import run_command

__all__ = ["EARLY", "main"]

EARLY = "early.safetensors"
"""The policy after a tenth of its time, to be compared with the last one."""
_TABLE, _SETTINGS = "rounds.json", "settings.json"
_DREAM, _SCORE, _IMPROVED = "dream.json", "score.json", "improved"
_STATE = ("minutes", "reward", "finished")
"""Fields of a training's state that ``dream.json`` keeps beside its figures."""
_FIXED = (
    "world", "temperature", "hottest", "hold", "learner", "hidden", "layers", "reward", "seed", "collect",
    "explore", "recipe",
)  # fmt: skip
"""Options that a run keeps."""
_BEFORE = {"learner": "ppo"}
"""Options that runs of before do not tell, as they were."""
_RECORDED = 3
"""Recorded beginnings for each of a real episode."""
_FINE_TUNING = ("lr_scale=0.06", "batch=24")
"""Settings of the recipe for a trained world; at a rate of 0.3 small batches undo what it has learnt."""
_SEED = Number(high=3998)
"""As of recordings: those above would play the episodes that metrics are measured on."""


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
    add("--rounds", type=COUNT, default=1, help="rounds; from the second on the world learns, too")
    add("--temperature", type=TEMPERATURE, default=1.15, help="of the dream: factor of its noise")
    add("--hottest", type=TEMPERATURE, help="each dream has its own, from --temperature up to this")
    add("--hold", type=COUNT, default=4, help="frames that a decision is held")
    add("--reward", choices=REWARDS, default="auto", help="what the policy learns for")
    add_dream_options(parser)
    add(
        "--begin-in",
        type=Path,
        nargs="+",
        default=[],
        metavar="DATA",
        help="recordings: three of four dreams begin anywhere in their episodes, one where an episode does "
        "(default: what further rounds collect)",
    )
    add(
        "--dtype",
        choices=DTYPES,
        help="of dreams (default: float32 on a CPU; bfloat16 is faster on one with matrix units)",
    )
    add("--collect", type=COUNT, default=60_000, help="real frames that each further round adds")
    add(
        "--explore",
        type=SHARE,
        default=0.5,
        help="share of collected episodes in which random actions disturb the policy",
    )
    add("--recipe", default="latent-dynamics", help="recipe that trains the world in further rounds")
    add("--episodes", type=NATURAL, default=100, help="real episodes a round is scored on")
    add("--games", type=PROCESSES, default=10, help="real games side by side")
    add("--seed", type=_SEED, default=0, help="random seed")
    add("--threads", type=THREADS, help="CPU threads (default: all)")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add("--resume", action="store_true", help="go on with the rounds in --out")
    return parser


def _run(args: argparse.Namespace) -> int:
    settings = _settings(args, 0)
    claim_folder(args.out, ("round-0", _TABLE, _SETTINGS), replace=args.resume, remedy="add --resume")
    if args.threads:
        torch.set_num_threads(args.threads)
    check_world(load(args.world, args.device))
    if args.hottest is not None:
        TemperatureRange.read((args.temperature, args.hottest))
    _check_settings(args, settings)
    source, table = args.world, []
    for number in range(args.rounds):
        folder = args.out / f"round-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        if number:
            source = _collect_and_improve(args, number, source)
        row = {"round": number} | _play_round(args, number, source, folder)
        table.append(row)
        _write_json(args.out / _TABLE, table)
        print(_line(row), flush=True)
    return 0


def _check_settings(args: argparse.Namespace, settings: DreamSettings) -> None:
    """Keep what the run depends on; a run that goes on must have the same."""
    mine = {name: getattr(args, name) for name in _FIXED}
    mine |= {"hidden": settings.hidden, "layers": settings.layers}
    path = args.out / _SETTINGS
    if path.is_file():
        found = _BEFORE | json.loads(path.read_text(encoding="utf-8"))
        for name, value in mine.items():
            if found.get(name) != value:
                rule = f"a run that goes on must have the same --{name}"
                raise ConfigError(rule, value, f"it was begun with {found.get(name)}")
    _write_json(path, mine)


def _collect_and_improve(args: argparse.Namespace, number: int, source: str) -> str:
    """Play real episodes and fine-tune the world; its folder. What is done already stays done."""
    folder = args.out / f"round-{number}"
    if not (folder / _IMPROVED).exists():
        _collect(args, number, source, args.out / f"round-{number - 1}" / POLICY)
    return _improve_world(args, source, folder)


def _play_round(args: argparse.Namespace, number: int, source: str, folder: Path) -> dict[str, Any]:
    """Learn a policy in the world ``source`` and let it play; the round's row of the table."""
    _learn(args, number, load(source, args.device, DTYPES.get(args.dtype)), folder)
    world = load(source, args.device)
    row = _read_json(folder / _DREAM)
    policy, scored = load_policy(folder / POLICY), folder / _SCORE
    row = {"dream_mean": row["dream_mean"], "fps": row["fps"], "frames": policy.metadata.frames}
    if args.episodes and not scored.is_file():
        with Games(world.spec.name, world.spec.size, min(args.games, args.episodes), args.episode) as games:
            score = score_policy(games, world, policy, args.seed, args.episodes)
        _write_json(scored, {"real_mean": score.mean, "se": score.se, "median": score.median, "by": score.by})
    if args.episodes and not (folder / SHEET).is_file():
        write_round_videos(folder, world, policy, args.episode, args.seed + number, _tell)
    return row | (_read_json(scored) if scored.is_file() else {})


def _learn(args: argparse.Namespace, number: int, world: World, folder: Path) -> None:
    """Learn the round's policy, or go on where it was interrupted.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it; the policy so far is kept.
    """
    begun, share = _begun(folder), _share(args)
    if begun is not None and begun.finished:
        return
    tics = world.spec.tics or 1

    def keep(state: TrainingResult) -> None:
        if state.minutes >= 0.1 * share and not (folder / EARLY).exists():
            save_policy(folder / EARLY, state.policy, state.metadata)
        save_policy(folder / POLICY, state.policy, state.metadata)
        mean = None if math.isnan(state.dream_frames) else state.dream_frames * tics
        told = {"dream_mean": mean, "fps": state.frames_per_second}
        _write_json(folder / _DREAM, told | {name: getattr(state, name) for name in _STATE})

    if begun is None and number:
        begun = _last_policy(args.out / f"round-{number - 1}")
    begun_in = _with_beginnings(args, number, world)
    outcome = train_policy(begun_in, share, _settings(args, number), _tell, begun=begun, keep=keep)
    keep(outcome)
    if not outcome.finished:
        raise KeyboardInterrupt


def _settings(args: argparse.Namespace, number: int) -> DreamSettings:
    """Settings of a round's policy."""
    return dream_settings(
        args,
        temperature=args.temperature,
        hottest=args.hottest,
        hold=args.hold,
        reward=args.reward,
        seed=args.seed + number,
    )


def _with_beginnings(args: argparse.Namespace, number: int, world: World) -> World:
    """The world with what its dreams begin with: beginnings of real episodes, and places in recorded ones."""
    found = real_beginnings(world, args.starts, args.seed)
    recorded = [*args.begin_in, *([args.out / "data"] if number else [])]
    if recorded:
        stores = [ClipStore(path, world.spec.size) for path in recorded]
        found += recorded_beginnings(stores, world, _RECORDED * args.starts, args.seed + number)
    return world.with_starts(found)


def _begun(folder: Path) -> TrainingResult | None:
    """The state of a round's policy; None where nothing is learnt yet."""
    if not ((folder / POLICY).is_file() and (folder / _DREAM).is_file()):
        return None
    told, policy = _read_json(folder / _DREAM), load_policy(folder / POLICY)
    return TrainingResult(policy, policy.metadata, math.nan, told["fps"], *(told[name] for name in _STATE))


def _last_policy(folder: Path) -> TrainingResult | None:
    """The policy of the round before, with a new clock: learning goes on from it in the better world."""
    last = _begun(folder)
    return None if last is None else replace(last, minutes=0.0, finished=False)


def _collect(args: argparse.Namespace, number: int, source: str, policy: Path) -> None:
    """Add real frames to the data: of the recording behaviours first, then of the newest policy.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it; whole episodes are kept.
    """
    data, spec = args.out / "data", load(source, "cpu").spec
    config = RecordConfig(source=spec.name, seed=args.seed, size=spec.size, codec="raw")
    mixture = partial(EpisodeCollector, spec.name, spec.size, args.episode)
    mine = partial(PolicyCollector, source, policy, args.games, args.episode, args.explore)
    for frames, make_collector in ((args.collect, mixture), ((number + 1) * args.collect, mine)):
        if (data / "meta").exists() and sum(row.length for row in Dataset(data).episodes) >= frames:
            continue
        if not record(make_collector, data, config, frames=frames, workers=1, resume=True).complete:
            raise KeyboardInterrupt


def _improve_world(args: argparse.Namespace, source: str, folder: Path) -> str:
    """Fine-tune the world on all data, ends included; its folder.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it; its state is kept.
    """
    name = load(source, "cpu").name
    made = folder / "world" / name
    if (folder / _IMPROVED).exists():
        return str(made)
    words = [name, "--data", str(args.out / "data"), "--out", str(folder / "world"), "--init", source]
    words += ["--recipe", args.recipe, "--stages", "dynamics,outcome", "--minutes", str(_share(args))]
    words += ["--device", args.device, "--seed", str(args.seed)]
    words += [word for setting in _FINE_TUNING for word in ("--set", setting)]
    words += ["--threads", str(args.threads)] if args.threads else []
    if (folder / "world" / STATE).exists():
        words.append("--resume")
    if world_training.main(words):
        raise KeyboardInterrupt
    (folder / _IMPROVED).touch()
    return str(made)


def _share(args: argparse.Namespace) -> float:
    """Minutes of one learning: each round has one of a policy, all but the first one of the world."""
    return float(args.minutes) / (2 * args.rounds - 1)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _line(row: dict[str, Any]) -> str:
    real = f"{row['real_mean']:.4g} ± {row['se']:.2g} {row['by']}" if "real_mean" in row else "not played"
    dream = "none ended" if row["dream_mean"] is None else f"{row['dream_mean']:.0f} tics"
    learnt = f"{row['frames']} frames at {row['fps']:.0f}/s"
    return f"round {row['round']}: dream {dream} after {learnt}; real {real}"


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, value: object) -> None:
    """Write a small file, whole or not at all."""
    made = path.with_name(f".{path.name}.tmp")
    made.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    made.replace(path)
