"""An assertion that a world follows its controls, for tests of your own worlds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worldsim.data.collector import Collector
from worldsim.engine.world import World
from worldsim.evaluation.image_metrics import psnr
from worldsim.evaluation.metric import Estimate, estimate
from worldsim.evaluation.open_collector import open_collector
from worldsim.evaluation.rollouts import RolloutConfig, rollout
from worldsim.evaluation.trajectories import MOST_SKIPPED, Trajectories, check_seeds, collect, reporting_seeds

__all__ = ["Faithfulness", "assert_faithful"]

_CONTEXT = 4


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Mean PSNR in dB of imagined frames against the source's, with its 95 % interval."""

    true: Estimate
    """Under the controls that the source had."""
    shuffled: Estimate
    """Under another trajectory's."""
    static: Estimate
    """PSNR of the last given frame, repeated; the lower reference."""
    gap: Estimate
    """``true`` less ``shuffled``, trajectory by trajectory."""


def assert_faithful(
    world: World,
    collector: Collector | None = None,
    *,
    gap: float = 2.0,
    over_static: float = 1.0,
    trajectories: int = 8,
    frames: int = 32,
    denoising_steps: int | None = None,
    seed: int = 0,
) -> Faithfulness:
    """Assert that rollouts are nearer to the truth under the true controls than under another trajectory's.

    Use it in a test of your own world::

        def test_my_world_follows_its_keys():
            assert_faithful(worldsim.load("runs/mine/mine"), gap=2.0)

    Args:
        world: the world.
        collector: plays its source at its frame size; None: one is opened, and closed at the end.
        gap: dB that the true controls must be worth, in the mean over all frames.
        over_static: dB by which the rollout must be better than the last given frame, repeated.
        trajectories: how many real episodes, N >= 2.
        frames: how many are imagined in each.
        denoising_steps: denoising passes K (default: the sampler's).
        seed: which reporting run; it fixes the episodes and the rollouts' chance.

    Raises:
        AssertionError: it does not follow them; the message has the metrics.
        DataError: a start's seed is a reporting seed.
        SourceError: the episodes are too short.
        DependencyError: the package behind the source is missing.
    """
    check_seeds(start.seed for start in world.starts)
    opened = open_collector(world, _CONTEXT + frames + MOST_SKIPPED) if collector is None else collector
    try:
        true = collect(opened, reporting_seeds(seed), trajectories, _CONTEXT + frames)
    finally:
        if collector is None:
            opened.close()
    found = _measure(world, true, frames, denoising_steps, seed * 1000)
    assert found.gap.value >= gap, (
        f"the true controls must be worth {gap:.2f} dB over another trajectory's; they are worth "
        f"{found.gap.value:.2f} dB ({found.true.value:.2f} against {found.shuffled.value:.2f})"
    )
    assert found.true.value >= found.static.value + over_static, (
        f"a rollout must be {over_static:.2f} dB nearer to the truth than a static image; it has "
        f"{found.true.value:.2f} dB, the static image {found.static.value:.2f} dB"
    )
    return found


def _measure(
    world: World, true: Trajectories, frames: int, denoising_steps: int | None, seed: int
) -> Faithfulness:
    later = true.frames[:, _CONTEXT:]
    ways = {"true": true.controls, "shuffled": np.roll(true.controls, 1, 0)}
    scores = {"static": psnr(true.frames[:, _CONTEXT - 1, None], later).mean(1)}
    for name, controls in ways.items():
        config = RolloutConfig(
            context=_CONTEXT, frames=frames, denoising_steps=denoising_steps, controls=controls
        )
        shown = [np.stack([step.frame for step in row]) for row in rollout(world, true, config, seed)]
        scores[name] = psnr(np.stack(shown, 1), later).mean(1)
    estimates = {name: estimate(values) for name, values in scores.items()}
    return Faithfulness(**estimates, gap=estimate(scores["true"] - scores["shuffled"]))
