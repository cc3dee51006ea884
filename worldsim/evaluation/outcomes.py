"""Predicted rewards and ends against the true ones, with the true past given.

Shapes: N stretches of episodes, T arrivals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from worldsim.data.clips import shift
from worldsim.data.collector import Collector
from worldsim.data.episodes import EpisodeArrays
from worldsim.engine.world import World
from worldsim.evaluation.calibration import auroc
from worldsim.evaluation.metric import Metric, metric, pooled
from worldsim.pixels import to_model
from worldsim.sampling.clock import init_state, observe_frame
from worldsim.sampling.control_batch import ControlBatch

__all__ = ["LENGTH", "Ending", "ending_of", "endings", "outcome_metrics", "score_outcomes"]

LENGTH = 24
"""Frames of a stretch."""
_PRECISION = 0.8


@dataclass(frozen=True, slots=True)
class Ending:
    """The last arrivals of an episode, with or without an end; an end repeats the last frame."""

    frames: np.ndarray
    """``uint8 [T, H, W, 3]``."""
    controls: np.ndarray
    """``float32 [T, M]``."""
    poses: np.ndarray | None
    rewards: np.ndarray
    """``float32 [T]``."""
    ends: np.ndarray
    """``bool [T]``."""


def endings(collector: Collector, seeds: Iterator[int], count: int) -> list[Ending]:
    """The last arrivals of the next ``count`` episodes that are long enough, however they closed."""
    found: list[Ending] = []
    for _, seed in zip(range(4 * count), seeds, strict=False):
        episode = collector.play(seed)
        if len(episode) >= LENGTH and len(found) < count:
            found.append(ending_of(episode))
    return found


def ending_of(episode: EpisodeArrays) -> Ending:
    """The last arrivals of an episode of at least ``LENGTH`` frames."""
    led = shift(episode.controls, episode.rewards, episode.terminated)
    at = led.frame[-LENGTH:]
    poses = None if episode.poses is None else episode.poses[at]
    last = slice(-LENGTH, None)
    return Ending(episode.frames[at], led.controls[last], poses, led.rewards[last], led.ends[last])


def score_outcomes(world: World, stretches: Sequence[Ending]) -> dict[str, np.ndarray]:
    """Return predicted ``end`` (probability) and ``reward``, true ``is_end`` and ``got``, each [N, T - 1]."""
    frames = np.stack([stretch.frames for stretch in stretches])
    n, length = frames.shape[:2]
    known = [stretch.poses for stretch in stretches if stretch.poses is not None]
    poses = np.stack(known) if known else np.tile(np.eye(4), (n, length, 1, 1))
    controls = np.stack([stretch.controls for stretch in stretches])
    end, reward = [], []
    with torch.inference_mode():
        seeds = np.arange(n, dtype=np.uint64)
        memory = init_state(world.networks, to_model(frames[:, 0], world.device), poses[:, 0], seeds)
        for t in range(1, length):
            given = ControlBatch(controls[:, t], poses[:, t], np.full(n, world.networks.has_poses))
            unit = observe_frame(world.networks, memory, to_model(frames[:, t], world.device), given)
            end.append(1 - unit.continue_prob.double().cpu().numpy())
            reward.append(unit.reward.double().cpu().numpy())
    return {
        "end": np.stack(end, 1),
        "reward": np.stack(reward, 1),
        "is_end": np.stack([stretch.ends[1:] for stretch in stretches]),
        "got": np.stack([stretch.rewards[1:] for stretch in stretches]).astype(np.float64),
    }


def outcome_metrics(scores: dict[str, np.ndarray]) -> dict[str, Metric]:
    """Metrics of predicted rewards, and of ends where there were any."""
    count, got = len(scores["got"]), scores["got"]

    def of(error: np.ndarray) -> float:
        return float(np.sqrt(np.square(error).mean()))

    metrics = {
        "reward_rmse": metric(
            pooled(lambda rows: of(scores["reward"][rows] - got[rows]), count),
            "predicted reward against the received one, at the end of episodes; lower: their mean",
            unit="reward",
            lower_reference=of(got - got.mean()),
            upper_reference=0.0,
        )
    }
    is_end, told = scores["is_end"], scores["end"]
    if not is_end.any() or is_end.all():
        return metrics
    share = is_end.mean()
    return metrics | {
        "end_brier": metric(
            pooled(lambda rows: float(np.square(told[rows] - is_end[rows]).mean()), count),
            "squared error of the predicted probability of an end; lower: predicting the share of ends",
            unit="",
            lower_reference=float(share * (1 - share)),
            upper_reference=0.0,
        ),
        "end_ece": metric(
            pooled(lambda rows: _miscalibration(told[rows], is_end[rows]), count),
            "predicted probability of an end against its frequency, over ten bins; lower: no end predicted",
            unit="",
            lower_reference=float(share),
            upper_reference=0.0,
        ),
        "end_auroc": metric(
            pooled(lambda rows: auroc(told[rows], is_end[rows]), count),
            "predicted probability of an end, at ends against other frames; lower: chance",
            unit="AUROC",
            lower_reference=0.5,
            upper_reference=1.0,
        ),
        "end_recall": metric(
            pooled(lambda rows: _recall(told[rows], is_end[rows]), count),
            f"recall of ends at the threshold with a precision of {_PRECISION:.0%}",
            unit="share",
            lower_reference=0.0,
            upper_reference=1.0,
        ),
    }


def _recall(told: np.ndarray, is_so: np.ndarray) -> float:
    """Highest recall of a threshold whose precision is at least ``_PRECISION``; NaN without ends."""
    order = np.argsort(-told.ravel(), kind="stable")
    score, right = told.ravel()[order], np.cumsum(is_so.ravel()[order])
    whole = np.append(score[1:] != score[:-1], True)  # equal scores are told of together
    reached = whole & (right >= _PRECISION * np.arange(1, len(score) + 1))
    return float(right[reached].max(initial=0) / right[-1]) if right[-1] else float("nan")


def _miscalibration(told: np.ndarray, is_so: np.ndarray) -> float:
    """Mean over all frames of how far their bin's mean chance is from their bin's share."""
    bins = np.minimum((told * 10).astype(int), 9)
    return float(sum(abs((told - is_so)[bins == i].sum()) for i in np.unique(bins)) / told.size)
