"""``worldsim score``: score of an agent in the real game, beside random keys and blind alternation.

A score is the time that an episode lasts, in the game's own tics, or the sum of its rewards. Every agent
plays the same fresh episodes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.agents.dreamer.batch_agents import PolicyBatchAgent, RandomBatchAgent
from worldsim.agents.dreamer.games import SCORES, Games, ScoreName
from worldsim.agents.dreamer.policy import LatentPolicy, find_policy, load_policy
from worldsim.agents.dreamer.rhythms import best_rhythm
from worldsim.engine.world import World, load
from worldsim.errors import ConfigError
from worldsim.options import COUNT, NATURAL, PROCESSES, Number, Parser
from worldsim.utils.run_command import run_command

__all__ = ["Score", "fresh_seeds", "main", "mean_and_error", "score_policy"]

_SEED = Number(high=9_999)
_FIRST_SEED = 4_000_000_000
"""First seed of the episodes that are scored: no recording and no dream begins with them."""
_SEARCHED_SEED = 3_500_000_000
"""First seed of the episodes that the best period is searched on."""


@dataclass(frozen=True)
class Score:
    """Score of an agent over some episodes; its rivals' are NaN where they did not play."""

    episodes: int
    by: ScoreName
    """The unit: "tics" lived, or the sum of an episode's "reward"."""
    mean: float
    se: float
    """Standard error of the mean."""
    median: float
    blind_mean: float = float("nan")
    blind_se: float = float("nan")
    """The best blind rhythm of a search over patterns and periods, on episodes of the search's own."""
    blind_period: int = 0
    """Frames it holds an action; 0 where none was searched."""
    blind_pattern: str = ""
    random_mean: float = float("nan")
    random_se: float = float("nan")
    swapped_mean: float = float("nan")
    """The policy again, shown other games' frames."""
    swapped_se: float = float("nan")


def fresh_seeds(seed: int, count: int, first: int = _FIRST_SEED) -> list[int]:
    """Seeds of ``count`` episodes; other seeds, other episodes."""
    return [first + seed * 10_000 + number for number in range(count)]


def score_policy(
    games: Games,
    world: World,
    policy: LatentPolicy,
    seed: int,
    episodes: int,
    *,
    rivals: int = 0,
    swapped: bool = False,
    by: ScoreName | None = None,
) -> Score:
    """Let a policy play, and what it must be better than.

    Args:
        games: the source's instances.
        world: takes the frames in.
        policy: reads its features.
        seed: of the episodes.
        episodes: how many.
        rivals: episodes of each rhythm in the search for the best blind one; 0: no rivals play.
        swapped: let the policy play again, shown other games' frames.
        by: the unit; None: the one that the policy learnt for.
    """
    by = by or score_name(policy)
    play = partial(games.scores, seeds=fresh_seeds(seed, episodes), by=by)
    count, space = len(games), games.spec.control_space
    mine = play(PolicyBatchAgent(world, policy, count))
    values: dict[str, Any] = _named("", mine) | {"median": float(np.median(mine))}
    if rivals:
        rhythm = best_rhythm(games, fresh_seeds(seed, rivals, _SEARCHED_SEED), by=by)
        values |= {"blind_period": rhythm.period, "blind_pattern": rhythm.name}
        values |= _named("blind_", play(rhythm.agent(count)))
        values |= _named("random_", play(RandomBatchAgent(count, space, seed)))
    if swapped:
        values |= _named("swapped_", play(PolicyBatchAgent(world, policy, count, swapped=True)))
    return Score(episodes, by, **values)


def score_name(policy: LatentPolicy) -> ScoreName:
    """The unit of a policy's score: what it learnt for."""
    return "tics" if policy.metadata.reward == "survival" else "reward"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return run_command(lambda: _score(_parser().parse_args(argv)), "worldsim score")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="worldsim score", description="Let an agent play the real game, and score it.")
    add = parser.add_argument
    add("world", help="name or folder of the world that the agent sees through, e.g. take-cover")
    add("--agent", default="dream", help="a policy's file; dream: the one shipped with the world")
    add("--episodes", type=COUNT, default=100, help="fresh real episodes")
    add("--episode", type=COUNT, default=1050, help="frames of an episode at most")
    add("--by", choices=SCORES, help="time lived, or rewards (default: what the policy learnt for)")
    add("--seed", type=_SEED, default=0, help="seed of the episodes")
    add("--swapped", action="store_true", help="play again, shown other games' frames: a control")
    add("--rivals", type=NATURAL, default=30, help="episodes to try each blind rhythm on; 0: no rivals")
    add("--games", type=PROCESSES, default=10, help="real games side by side")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add("--json", action="store_true", help="one JSON line of figures")
    return parser


def _score(options: argparse.Namespace) -> int:
    world = load(options.world, options.device)
    path = find_policy(options.world) if options.agent == "dream" else Path(options.agent)
    policy = load_policy(path)
    if options.swapped and min(options.games, options.episodes) < 2:
        rule = "--swapped needs at least two games and episodes"
        raise ConfigError(rule, (options.games, options.episodes))
    count = min(options.games, options.episodes)
    with Games(world.spec.name, world.spec.size, count, options.episode) as games:
        score = score_policy(
            games,
            world,
            policy,
            options.seed,
            options.episodes,
            rivals=options.rivals,
            swapped=options.swapped,
            by=options.by,
        )
    print(json.dumps(_without_nan(asdict(score))) if options.json else _told(score))
    return 0


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean of ``values`` [N] and its standard error; the error of a single value is 0."""
    return float(values.mean()), float(values.std(ddof=min(1, len(values) - 1)) / len(values) ** 0.5)


def _named(prefix: str, scores: np.ndarray) -> dict[str, float]:
    mean, error = mean_and_error(scores)
    return {f"{prefix}mean": mean, f"{prefix}se": error}


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in values.items()}


def _told(score: Score) -> str:
    mine = f"{score.mean:.4g} ± {score.se:.2g} {score.by} over {score.episodes} episodes"
    parts = [f"{mine}, median {score.median:.4g}"]
    if score.blind_period:
        blind = f"{score.blind_mean:.4g} ± {score.blind_se:.2g}"
        parts.append(f"best blind rhythm ({score.blind_pattern}, {score.blind_period} frames each) {blind}")
        parts.append(f"random keys {score.random_mean:.4g}")
    if score.swapped_mean == score.swapped_mean:
        parts.append(f"shown other games' frames {score.swapped_mean:.4g}")
    return "; ".join(parts)
