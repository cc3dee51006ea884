"""``worldsim eval WORLD --policies``: whether a dream ranks policies as the real game does.

Each policy is played in the dream and in the real game; scores are lengths of episodes in the game's tics.
Dreams begin where real episodes do.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError, safe_open

from worldsim.agents.dreamer.batch_agents import BatchAgent, PolicyBatchAgent, RandomBatchAgent, check_world
from worldsim.agents.dreamer.beginnings import real_beginnings
from worldsim.agents.dreamer.dream_batch import DreamBatch
from worldsim.agents.dreamer.games import Games
from worldsim.agents.dreamer.policy import LatentPolicy, load_policy
from worldsim.agents.dreamer.rhythms import PERIODS, Rhythm, rhythm_patterns
from worldsim.agents.dreamer.score import fresh_seeds, mean_and_error
from worldsim.engine.world import World, load
from worldsim.errors import ConfigError, nearest
from worldsim.evaluation.agreement import MEASURES, Agreement, agreement

__all__ = ["Contender", "PolicyScores", "Ranking", "find_contenders", "rank_policies", "run"]

_BUILT_IN = "builtin"
_BROKEN = "broken:"
_DREAM_SEED = 5_000_000_000
"""First seed of the dreams; real episodes have others."""
_Maker: TypeAlias = Callable[[Games | DreamBatch], BatchAgent]


@dataclass(frozen=True)
class Contender:
    """A policy to be ranked."""

    name: str
    real: Callable[[Games, World], BatchAgent]
    dreamt: Callable[[DreamBatch], BatchAgent]


@dataclass(frozen=True)
class PolicyScores:
    """Scores of one policy, in tics."""

    name: str
    dream_mean: float
    dream_se: float
    dream_capped: float
    """Share of dreams that went on to the longest length."""
    real_mean: float
    real_se: float
    real_capped: float


@dataclass(frozen=True)
class Ranking:
    """Scores of all policies, and how well the dream's agree with the real ones."""

    policies: tuple[PolicyScores, ...]
    agreement: Mapping[str, Agreement]


def find_contenders(given: Iterable[str], world: World) -> list[Contender]:
    """The policies that a command line names.

    Args:
        given: "builtin" (random, still, blind rhythms of several periods) or one of these by its name; a file
            of a policy; a folder, of which all policies are taken; "broken:FILE", a policy whose actions are
            mixed up.
        world: that they are to play.

    Raises:
        ConfigError: an unknown name, a folder without a policy, or fewer than two policies in all.
        CheckpointError: a file that holds no policy.
    """
    check_world(world)
    built_in, found = _built_in(world), dict[str, Contender]()
    for text in given:
        if text == _BUILT_IN:
            found |= built_in
        elif text in built_in:
            found[text] = built_in[text]
        else:
            found |= {one.name: one for one in _learnt(text, built_in)}
    if len(found) < 2:
        rule = "a ranking needs at least two policies"
        raise ConfigError(rule, list(found), f"add {_BUILT_IN}, or more files")
    return list(found.values())


def rank_policies(
    contenders: Sequence[Contender],
    world: World,
    games: Games,
    *,
    episodes: int,
    dreams: int,
    temperature: float,
    denoising_steps: int | None,
    seed: int,
    tell: Callable[[PolicyScores], None] = lambda scores: None,
) -> Ranking:
    """Play all policies in the dream and in the real game.

    Args:
        contenders: the policies.
        world: what is dreamt, and what takes real frames in.
        games: real instances.
        episodes: real episodes of each policy; all policies play the same.
        dreams: imagined episodes of each policy, all side by side.
        temperature: of the dream.
        denoising_steps: denoising passes a frame, K; None: the sampler's default.
        seed: of real episodes, dreams and bootstrap.
        tell: called with each policy's scores.
    """
    begun = world.with_starts(real_beginnings(world, min(dreams, 64), seed))
    batch = DreamBatch(
        begun, dreams, temperature=temperature, denoising_steps=denoising_steps, most=games.most
    )
    tics, real_seeds = games.spec.tics or 1, fresh_seeds(seed, episodes)
    dream_seeds = fresh_seeds(seed, dreams, _DREAM_SEED)
    imagined, real, rows = [], [], []
    for contender in contenders:
        imagined.append(batch.lengths(contender.dreamt(batch), dream_seeds) * tics)
        real.append(games.lengths(contender.real(games, world), real_seeds) * tics)
        capped = [float((lengths >= games.most * tics).mean()) for lengths in (imagined[-1], real[-1])]
        rows.append(
            PolicyScores(
                contender.name,
                *(*mean_and_error(imagined[-1]), capped[0]),
                *(*mean_and_error(real[-1]), capped[1]),
            )
        )
        tell(rows[-1])
    return Ranking(tuple(rows), agreement(imagined, real, seed=seed))


def run(options: argparse.Namespace) -> int:
    """Rank the policies of ``worldsim eval``'s options, and print JSON or a table."""
    world = load(options.world, options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    contenders = find_contenders(options.policies, world)
    console = Console(stderr=True)
    count = min(options.games, options.episodes)
    with Games(world.spec.name, world.spec.size, count, options.episode) as games:
        ranking = rank_policies(
            contenders,
            world,
            games,
            episodes=options.episodes,
            dreams=options.dreams,
            temperature=options.temperature,
            denoising_steps=options.denoising_steps,
            seed=options.seed,
            tell=lambda row: console.print(
                f"{row.name}: dream {row.dream_mean:.0f}, real {row.real_mean:.0f}", highlight=False
            ),
        )
    names = ("episodes", "episode", "dreams", "temperature", "denoising_steps", "seed")
    settings = {"world": world.name, **{name: getattr(options, name) for name in names}}
    if options.json:
        print(json.dumps(settings | ranking_json(ranking), indent=1))
    else:
        Console().print(_table(ranking))
    return 0


def ranking_json(ranking: Ranking) -> dict[str, object]:
    """``policies`` and one entry for each measure with ``value`` and ``ci``; null stands for NaN."""
    measures = {
        name: {"value": _null(found.value), "ci": [_null(found.low), _null(found.high)]}
        for name, found in ranking.agreement.items()
    }
    return {"policies": [asdict(row) for row in ranking.policies], **measures}


def _built_in(world: World) -> dict[str, Contender]:
    """Random keys, no key, blind rhythms."""
    space = world.spec.control_space

    def chance(group: Games | DreamBatch) -> BatchAgent:
        return RandomBatchAgent(len(group), space, 0)

    pattern = next(iter(rhythm_patterns(space).values()))
    rhythms = [Rhythm(f"rhythm-{k}", pattern, k) for k in PERIODS]
    rhythms.append(Rhythm("still", (0,), 1))
    found = {rhythm.name: _sightless(rhythm.name, _rhythm_maker(rhythm)) for rhythm in rhythms}
    return {"random": _sightless("random", chance), **found}


def _rhythm_maker(rhythm: Rhythm) -> _Maker:
    return lambda group: rhythm.agent(len(group))


def _sightless(name: str, make: _Maker) -> Contender:
    """A contender that acts alike in dream and reality, for it sees neither."""
    return Contender(name, lambda games, _: make(games), make)


def _learnt(text: str, built_in: Iterable[str]) -> list[Contender]:
    """The policies in a file or in a folder."""
    broken, path = text.startswith(_BROKEN), Path(text.removeprefix(_BROKEN))
    if path.is_dir() and not broken:
        files = [file for file in sorted(path.rglob("*.safetensors")) if _is_policy(file)]
        if not files:
            rule = "a folder of policies must hold one"
            raise ConfigError(rule, str(path), "train some with `worldsim dream-train`")
        named = {file.relative_to(path).with_suffix("").as_posix(): file for file in files}
        return [_seeing(name, load_policy(file)) for name, file in named.items()]
    if not path.is_file():
        known = [_BUILT_IN, *built_in]
        rule = f"a policy must be a file, a folder, {_BROKEN}FILE, or one of {', '.join(known)}"
        raise ConfigError(rule, text, nearest(text, known))
    policy = load_policy(path)
    return [_seeing(text, _broken(policy) if broken else policy)]


def _seeing(name: str, policy: LatentPolicy) -> Contender:
    return Contender(
        name,
        lambda games, world: PolicyBatchAgent(world, policy, len(games)),
        lambda batch: batch.agent(policy),
    )


def _broken(policy: LatentPolicy) -> LatentPolicy:
    """The same policy whose every action stands for the next one."""
    made = deepcopy(policy)
    with torch.no_grad():
        made.actor.weight.copy_(policy.actor.weight.roll(1, 0))
        made.actor.bias.copy_(policy.actor.bias.roll(1, 0))
    return made


def _is_policy(file: Path) -> bool:
    try:
        with safe_open(file, "pt") as opened:
            return "policy" in (opened.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _null(value: float) -> float | None:
    return None if np.isnan(value) else value


def _table(ranking: Ranking) -> Table:
    agreed = ", ".join(
        f"{name} {ranking.agreement[name].value:.2f} "
        f"({ranking.agreement[name].low:.2f} to {ranking.agreement[name].high:.2f})"
        for name in MEASURES
    )
    table = Table("policy", "dream, tics", "real, tics", "at the cap, dream / real", caption=agreed)
    for row in sorted(ranking.policies, key=lambda row: -row.real_mean):
        table.add_row(
            row.name,
            f"{row.dream_mean:.0f} ± {row.dream_se:.0f}",
            f"{row.real_mean:.0f} ± {row.real_se:.0f}",
            f"{row.dream_capped:.0%} / {row.real_capped:.0%}",
        )
    return table
