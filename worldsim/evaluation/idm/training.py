"""``worldsim train-idm``: train the inverse dynamics model of a source on real frames, on one core.

Its episodes have seeds of their own, apart from those of recordings and of reports. Training begins with
short clips, then uses long ones, in which many frames are fused into a track. Finally the encoders are
frozen: the codes of all clips are cached, and the rest of the network is trained for many epochs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldsim import checkpoints
from worldsim.data.collector import Collector
from worldsim.evaluation.idm.accuracy import measure_accuracy
from worldsim.evaluation.idm.collect import IDM_SEEDS, LabelledFrames, collect_frames
from worldsim.evaluation.idm.dataset import CachedFeatures, ClipSampler
from worldsim.evaluation.idm.loss import idm_loss
from worldsim.evaluation.idm.model import InverseDynamicsModel
from worldsim.evaluation.idm.network import HEIGHT, WIDTH, IDMConfig, IDMNetwork
from worldsim.evaluation.idm.optimizer import Muon
from worldsim.options import MINUTES, SEED, THREADS, Number, Parser
from worldsim.utils.mixed_precision import mixed_precision
from worldsim.utils.output_paths import claim_file
from worldsim.utils.progress import ProgressReporter

__all__ = ["main", "train"]

_FRAMES_PLAYED = Number(low=1000)
"""Number of real frames; a tenth as many more are held out."""
_SHORT, _LONG = 4, 20
"""Frames of a clip, in the first and in the second phase."""
_FRAMES, _CACHED_FRAMES = 100, 640
"""Frames of a batch, with trained and with frozen encoders."""
_SHORT_UNTIL, _LONG_UNTIL, _CACHED_UNTIL = 0.5, 0.75, 0.85
"""Ends of the phases, as shares of the time: short clips, long clips, caching; then frozen encoders."""
_RATES = (0.03, 3e-3)
"""Learning rates of Muon and of AdamW."""
_WARM_UP = 0.02
"""Share of the time in which the learning rates rise."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    path = args.out or checkpoints.FOLDER / "idm" / f"{args.source}.safetensors"
    claim_file(path, replace=args.resume or args.force, remedy="add --resume or --force")
    begun = InverseDynamicsModel.load(path).network if args.resume else None
    collector = _collector(args.source)
    try:
        with ProgressReporter("playing", 1.0) as reporter:
            held_out = collect_frames(collector, iter(IDM_SEEDS[-len(IDM_SEEDS) // 10 :]), args.frames // 10)
            labelled = collect_frames(collector, iter(IDM_SEEDS), args.frames, reporter.update)
    finally:
        collector.close()
    # Processor time: other work on the machine, or a pause, costs no training.
    clock = lambda: time.process_time() / args.threads  # noqa: E731
    with ProgressReporter("training, Ctrl-C to end it", 1.0) as reporter:
        keys = collector.spec.control_space.keys
        network = train(
            labelled, keys, args.minutes, args.seed, clock, begun=begun, on_progress=reporter.update
        )
    idm = InverseDynamicsModel(
        network, collector.spec.name, measure_accuracy(network, held_out, collector.spec.fps)
    )
    idm.save(path)
    print(", ".join(f"{name} {value:.3f}" for name, value in idm.accuracy.items()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="worldsim train-idm", description="Train the inverse dynamics model of a source.")
    parser.add_argument("source", help="a source with camera poses, e.g. doom-maze")
    parser.add_argument("--out", type=Path, help="file (default: among the shipped ones)")
    parser.add_argument("--frames", type=_FRAMES_PLAYED, default=200_000, help="real frames, 15 KB each")
    parser.add_argument("--minutes", type=MINUTES, default=40, help="processor time of the training")
    parser.add_argument("--resume", action="store_true", help="train the IDM in that file further")
    parser.add_argument("--force", action="store_true", help="replace the IDM in that file")
    parser.add_argument("--seed", type=SEED, default=0, help="random seed")
    parser.add_argument("--threads", type=THREADS, default=1, help="CPU threads")
    return parser


def _collector(source: str) -> Collector:
    # Environments lie above and are optional: imported only where one is played.
    from worldsim.envs.episode_collector import EpisodeCollector

    return EpisodeCollector(source, (HEIGHT, WIDTH), max_frames=400)


def train(
    labelled: LabelledFrames,
    keys: tuple[str, ...],
    minutes: float,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
    *,
    begun: IDMNetwork | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> IDMNetwork:
    """Train for so many minutes of ``clock``, which tells seconds; the rates fall to zero over them.

    ``begun``: a network to train further. Ctrl-C ends the training early and keeps the weights.
    """
    torch.manual_seed(seed)
    network = IDMNetwork(_config(labelled, keys)) if begun is None else begun.requires_grad_().train()
    sampler = ClipSampler(labelled, network.config, np.random.default_rng(seed))
    progress = _Progress(60 * minutes, clock, on_progress)
    try:
        _train_all(network, sampler, progress)
        network.eval()
        _train_head(
            network, sampler.cache_features(network, lambda: progress.share() < _CACHED_UNTIL), progress
        )
    except KeyboardInterrupt:
        print("ended early; what has been learnt is kept", file=sys.stderr)
    return network.eval()


class _Progress:
    """Progress of the training time."""

    def __init__(
        self, seconds: float, clock: Callable[[], float], on_progress: Callable[[float], None]
    ) -> None:
        self._seconds, self._clock, self._tell, self._began = seconds, clock, on_progress, clock()

    def share(self) -> float:
        """Return the elapsed share of the time, in [0, 1]."""
        share = min((self._clock() - self._began) / self._seconds, 1.0)
        self._tell(share)
        return share


def _train_all(network: IDMNetwork, sampler: ClipSampler, progress: _Progress) -> None:
    """Train the whole network on clips."""
    optimizers, share = _optimizers(network), progress.share()
    while share < _LONG_UNTIL:
        for optimizer, rate in zip(optimizers, _RATES, strict=True):
            warm = min(1.0, 0.05 + share / _WARM_UP)
            optimizer.param_groups[0]["lr"] = rate * warm * (1 - share / _LONG_UNTIL)
        length = _SHORT if share < _SHORT_UNTIL else _LONG
        frames, targets = sampler.draw(length, _FRAMES // length)
        with mixed_precision("cpu"):
            output = network(frames)
        _step(network, idm_loss(network, output, targets), optimizers)
        share = progress.share()


def _train_head(network: IDMNetwork, kept: CachedFeatures, progress: _Progress) -> None:
    """Train all but the encoders, on cached codes."""
    parts = (
        network.pose_head,
        network.motion_head,
        network.feature_head,
        network.feature_probe,
        network.temporal,
        network.correction_head,
    )
    weights = [weight for part in (*parts, network.key_head) for weight in part.parameters()]
    optimizer = torch.optim.AdamW(weights, _RATES[1], weight_decay=1e-2, betas=(0.9, 0.98))
    began = share = progress.share()
    while share < 1:
        left = (1 - share) / max(1 - began, 1e-6)
        optimizer.param_groups[0]["lr"] = _RATES[1] * min(1.0, 0.05 + (share - began) / _WARM_UP) * left
        look, pair, targets = kept.draw(max(_CACHED_FRAMES // kept.length, 1))
        _step(network, idm_loss(network, network.predict_from(look, pair), targets), (optimizer,))
        share = progress.share()


def _step(network: IDMNetwork, loss: Tensor, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    network.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()


def _config(labelled: LabelledFrames, keys: tuple[str, ...]) -> IDMConfig:
    ground = labelled.tracks[:, :2]
    low, high = ground.min(0), ground.max(0)
    x, y = ((low + high) / 2).tolist()
    return IDMConfig(keys=keys, map_centre=(x, y), map_radius=float(np.maximum(high - low, 1e-3).max() / 2))


def _optimizers(network: IDMNetwork) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Return Muon for the encoders and AdamW for the rest."""
    looking = [network.column_encoder, network.frame_encoder, network.pair_encoder]
    large = [weight for part in looking for weight in part.parameters() if weight.ndim > 1]
    chosen = {id(weight) for weight in large}
    rest = [weight for weight in network.parameters() if id(weight) not in chosen]
    adam = torch.optim.AdamW(rest, _RATES[1], weight_decay=1e-2, betas=(0.9, 0.98))
    return Muon(large, _RATES[0]), adam
