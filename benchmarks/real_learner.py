"""``python -m benchmarks.real_learner``: the learner of the dream, in the real game instead.

The same policy, PPO and latents as ``worldsim dream-train``, and as many real frames as one is willing to
play: what a dream must be compared with. Prints one JSON line: frames, minutes and the score.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from worldsim.agents.dreamer.games import Games
from worldsim.agents.dreamer.policy import POLICY, save_policy
from worldsim.agents.dreamer.score import score_policy
from worldsim.agents.dreamer.training import REWARDS, DreamSettings, TrainingResult, real_envs, train_policy
from worldsim.engine.world import load
from worldsim.options import COUNT, MINUTES, PROCESSES, SEED, THREADS, Parser
from worldsim.utils.output_paths import claim_folder
from worldsim.utils.run_command import run_command

__all__ = ["main"]

_DAY = 24 * 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    claim_folder(args.out, (POLICY,), replace=args.force, remedy="add --force")
    if args.threads:
        torch.set_num_threads(args.threads)
    world = load(args.world, args.device)
    settings = DreamSettings(
        dreams=args.games,
        hold=args.hold,
        episode=args.episode,
        reward=args.reward,
        seed=args.seed,
        frames=args.frames,
    )

    def keep(state: TrainingResult) -> None:
        save_policy(args.out / POLICY, state.policy, state.metadata)

    learnt = train_policy(world, args.minutes, settings, _tell, keep=keep, make_envs=real_envs)
    keep(learnt)
    with Games(world.spec.name, world.spec.size, min(args.games, args.episodes), args.episode) as games:
        score = score_policy(games, world, learnt.policy, args.seed, args.episodes)
    row = {"frames": learnt.metadata.frames, "minutes": round(learnt.minutes, 2)}
    row |= {"fps": round(learnt.frames_per_second, 1), "by": score.by, "mean": score.mean, "se": score.se}
    (args.out / "real.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(row))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m benchmarks.real_learner",
        description="Learn in the real game, with the learner of the dream.",
    )
    add = parser.add_argument
    add("world", help="name or folder of the world that takes the frames in")
    add("--out", type=Path, required=True, help="folder for the policy and the figures")
    add("--frames", type=COUNT, required=True, help="real frames to learn from")
    add("--minutes", type=MINUTES, default=_DAY, help="wall clock at most")
    add("--reward", choices=REWARDS, default="survival", help="what is learnt for")
    add("--games", type=PROCESSES, default=16, help="real games side by side")
    add("--hold", type=COUNT, default=4, help="frames that a decision is held")
    add("--episode", type=COUNT, default=1050, help="frames of an episode at most")
    add("--episodes", type=COUNT, default=100, help="episodes of the score")
    add("--seed", type=SEED, default=0, help="random seed")
    add("--threads", type=THREADS, help="CPU threads (default: all)")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add("--force", action="store_true", help="replace what is in --out")
    return parser


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
