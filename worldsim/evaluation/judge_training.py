"""``worldsim judge``: train the judge of a source on the real environment's own frames, on one core.

It plays episodes of its own; their seeds are neither those that worlds are trained on nor those reported on.
Short clips from many places come first, then long ones, in which the readings of many frames become one
track. At last the eye is closed: what it sees in all frames is kept, and what follows from that is taught
many times over.
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
from worldsim.data.recorder import Player
from worldsim.evaluation.judge import Judge
from worldsim.evaluation.judge_accuracy import accuracy_of
from worldsim.evaluation.judge_footage import JUDGE_SEEDS, Footage, play
from worldsim.evaluation.judge_lessons import Lessons, Seen
from worldsim.evaluation.judge_loss import judge_loss
from worldsim.evaluation.judge_network import HEIGHT, WIDTH, JudgeConfig, JudgeNetwork
from worldsim.evaluation.judge_optimizer import Muon
from worldsim.options import MINUTES, SEED, THREADS, Number, Parser
from worldsim.outputs import claim_file
from worldsim.ticker import Ticker

__all__ = ["main", "train"]

_FRAMES_PLAYED = Number(low=1000)
"""Real frames; a tenth as many more are held out."""
_SHORT, _LONG = 4, 20
"""Frames of a clip, at first and later."""
_FRAMES, _KEPT_FRAMES = 100, 640
"""Of a batch, with the eye open and closed."""
_SHORT_UNTIL, _LONG_UNTIL, _SEEN_UNTIL = 0.5, 0.75, 0.85
"""Shares of the time: clips are short; long; what is seen is kept. In the rest the eye is closed."""
_RATES = (0.03, 3e-3)
"""Of Muon and of AdamW."""
_WARM = 0.02
"""Share of the time in which the rates rise."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    path = args.out or checkpoints.FOLDER / "judges" / f"{args.source}.safetensors"
    claim_file(path, replace=args.resume or args.force, remedy="add --resume or --force")
    begun = Judge.load(path).network if args.resume else None
    player = _player(args.source)
    try:
        with Ticker("playing", 1.0) as ticker:
            held_out = play(player, iter(JUDGE_SEEDS[-len(JUDGE_SEEDS) // 10 :]), args.frames // 10)
            footage = play(player, iter(JUDGE_SEEDS), args.frames, ticker.update)
    finally:
        player.close()
    # Processor time: whoever else is busy on the machine, or stops this for a while, costs no training.
    clock = lambda: time.process_time() / args.threads  # noqa: E731
    with Ticker("training, Ctrl-C to end it", 1.0) as ticker:
        keys = player.spec.control_space.keys
        network = train(footage, keys, args.minutes, args.seed, clock, begun=begun, on_progress=ticker.update)
    judge = Judge(network, player.spec.name, accuracy_of(network, held_out, player.spec.fps))
    judge.save(path)
    print(", ".join(f"{name} {value:.3f}" for name, value in judge.accuracy.items()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="worldsim judge", description="Train the judge of a source.")
    parser.add_argument("source", help="a source with camera poses, e.g. doom-maze")
    parser.add_argument("--out", type=Path, help="file (default: among the shipped ones)")
    parser.add_argument(
        "--frames", type=_FRAMES_PLAYED, default=200_000, help="real frames, 15 KB each (%(default)s)"
    )
    parser.add_argument(
        "--minutes", type=MINUTES, default=40, help="of training, in processor time (%(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="train the judge in that file further")
    parser.add_argument("--force", action="store_true", help="replace the judge in that file")
    parser.add_argument("--seed", type=SEED, default=0, help="of all chance (%(default)s)")
    parser.add_argument("--threads", type=THREADS, default=1, help="CPU threads (%(default)s)")
    return parser


def _player(source: str) -> Player:
    # Environments lie above and are optional: imported only where one is played.
    from worldsim.envs.player import MixturePlayer

    return MixturePlayer(source, (HEIGHT, WIDTH), max_frames=400)


def train(
    footage: Footage,
    keys: tuple[str, ...],
    minutes: float,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
    *,
    begun: JudgeNetwork | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> JudgeNetwork:
    """Train for so many minutes of ``clock``, which tells seconds; the rates fall to zero over them.

    A network that was ``begun`` before is trained further. Ctrl-C ends it early, with what has been
    learnt until then.
    """
    torch.manual_seed(seed)
    network = JudgeNetwork(_config(footage, keys)) if begun is None else begun.requires_grad_().train()
    lessons = Lessons(footage, network.config, np.random.default_rng(seed))
    pace = _Pace(60 * minutes, clock, on_progress)
    try:
        _teach_to_see(network, lessons, pace)
        network.eval()
        _teach_to_understand(network, lessons.seen_by(network, lambda: pace.share() < _SEEN_UNTIL), pace)
    except KeyboardInterrupt:
        print("ended early; what has been learnt is kept", file=sys.stderr)
    return network.eval()


class _Pace:
    """How far the time has gone."""

    def __init__(
        self, seconds: float, clock: Callable[[], float], on_progress: Callable[[float], None]
    ) -> None:
        self._seconds, self._clock, self._tell, self._began = seconds, clock, on_progress, clock()

    def share(self) -> float:
        """Of the time, in [0, 1]."""
        share = min((self._clock() - self._began) / self._seconds, 1.0)
        self._tell(share)
        return share


def _teach_to_see(network: JudgeNetwork, lessons: Lessons, pace: _Pace) -> None:
    """Train all of the network on clips."""
    optimizers, share = _optimizers(network), pace.share()
    while share < _LONG_UNTIL:
        for optimizer, rate in zip(optimizers, _RATES, strict=True):
            warm = min(1.0, 0.05 + share / _WARM)
            optimizer.param_groups[0]["lr"] = rate * warm * (1 - share / _LONG_UNTIL)
        length = _SHORT if share < _SHORT_UNTIL else _LONG
        frames, truth = lessons.draw(length, _FRAMES // length)
        with torch.autocast("cpu", torch.bfloat16):
            reading = network(frames)
        _learn(network, judge_loss(network, reading, truth), optimizers)
        share = pace.share()


def _teach_to_understand(network: JudgeNetwork, kept: Seen, pace: _Pace) -> None:
    """Train what follows from what was seen."""
    parts = network.where, network.moved, network.code, network.recall, network.time, network.mend
    weights = [weight for part in (*parts, network.held) for weight in part.parameters()]
    optimizer = torch.optim.AdamW(weights, _RATES[1], weight_decay=1e-2, betas=(0.9, 0.98))
    began = share = pace.share()
    while share < 1:
        left = (1 - share) / max(1 - began, 1e-6)
        optimizer.param_groups[0]["lr"] = _RATES[1] * min(1.0, 0.05 + (share - began) / _WARM) * left
        look, pair, truth = kept.draw(max(_KEPT_FRAMES // kept.length, 1))
        _learn(network, judge_loss(network, network.understand(look, pair), truth), (optimizer,))
        share = pace.share()


def _learn(network: JudgeNetwork, loss: Tensor, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    network.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()


def _config(footage: Footage, keys: tuple[str, ...]) -> JudgeConfig:
    ground = footage.tracks[:, :2]
    low, high = ground.min(0), ground.max(0)
    x, y = ((low + high) / 2).tolist()
    return JudgeConfig(keys=keys, centre=(x, y), spread=float(np.maximum(high - low, 1e-3).max() / 2))


def _optimizers(network: JudgeNetwork) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for what looks at pictures, AdamW for the rest."""
    looking = [network.eye, network.look, network.pair]
    large = [weight for part in looking for weight in part.parameters() if weight.ndim > 1]
    chosen = {id(weight) for weight in large}
    rest = [weight for weight in network.parameters() if id(weight) not in chosen]
    adam = torch.optim.AdamW(rest, _RATES[1], weight_decay=1e-2, betas=(0.9, 0.98))
    return Muon(large, _RATES[0]), adam
