"""``worldsim baseline``: train a ConvLSTM or a PredRNN on the data that a world is learnt from.

Clips of ten frames, the first few given; then more and more of its own frames are read back (scheduled
sampling), so that it is trained for what it is measured on. Mean absolute error, AdamW, a rate that falls to
zero over the minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from worldsim.data.clips import ClipStore
from worldsim.errors import ConfigError
from worldsim.evaluation.baselines.baseline import Baseline
from worldsim.evaluation.baselines.network import KINDS, BaselineConfig, BaselineNetwork
from worldsim.options import COUNT, MINUTES, SEED, THREADS, Parser
from worldsim.pixels import to_model
from worldsim.utils.mixed_precision import mixed_precision
from worldsim.utils.output_paths import claim_file
from worldsim.utils.progress import ProgressReporter

__all__ = ["main", "train"]

_LENGTH, _GIVEN, _BATCH, _RATE = 10, 4, 8, 1e-3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = _parser().parse_args(argv)
    claim_file(args.out, replace=args.resume or args.force, remedy="add --resume or --force")
    if args.threads:
        torch.set_num_threads(args.threads)
    clips = ClipStore(args.data, cache=args.cache)
    space, size = clips.spec.control_space, clips.spec.size
    config = BaselineConfig(kind=args.kind, size=size, control=space.size, hidden=args.hidden)
    begun = Baseline.load(args.out) if args.resume else None
    if begun is not None and begun.network.config != config:
        rule, found = "--resume needs a baseline of the same kind, sizes and keys", begun.network.config
        raise ConfigError(rule, found, "give the same kind and --hidden, or another --out without --resume")
    with ProgressReporter(f"training {args.kind}, Ctrl-C to end it", 60 * args.minutes) as reporter:
        baseline = train(clips, config, args.minutes, args.seed, begun=begun, on_progress=reporter.update)
    baseline.save(args.out)
    count = sum(weight.numel() for weight in baseline.network.parameters())
    print(f"{args.kind}, {count / 1e6:.1f}M parameters, {baseline.minutes:.3g} minutes: {args.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="worldsim baseline", description="Train a recurrent baseline.")
    parser.add_argument("kind", choices=KINDS, help="the architecture")
    parser.add_argument("--data", type=Path, required=True, help="folder that `worldsim record` wrote")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="for decoded frames (default: beside the data)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="file to write, e.g. runs/convlstm.safetensors"
    )
    parser.add_argument("--minutes", type=MINUTES, default=60, help="wall clock of the training")
    parser.add_argument("--resume", action="store_true", help="train the baseline in that file further")
    parser.add_argument("--force", action="store_true", help="replace the baseline in that file")
    parser.add_argument("--hidden", type=COUNT, default=48, help="channels of a layer")
    parser.add_argument("--seed", type=SEED, default=0, help="random seed")
    parser.add_argument("--threads", type=THREADS, help="CPU threads (default: all)")
    return parser


def train(
    clips: ClipStore,
    config: BaselineConfig,
    minutes: float,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
    *,
    begun: Baseline | None = None,
    on_progress: Callable[[float, str], None] = lambda seconds, text: None,
) -> Baseline:
    """Train for so many minutes of ``clock``, which tells seconds.

    A baseline that was ``begun`` before is trained further. Ctrl-C ends it early, with what has been learnt
    until then.
    """
    torch.manual_seed(seed)
    network = BaselineNetwork(config) if begun is None else begun.network.requires_grad_().train()
    before, began = begun.minutes if begun is not None else 0.0, clock()
    rng = np.random.default_rng([seed, round(60 * before)])
    try:
        _teach(network, clips, rng, 60 * minutes, clock, on_progress)
    except KeyboardInterrupt:
        print("ended early; what has been learnt is kept", file=sys.stderr)
    return Baseline(network, before + min((clock() - began) / 60, minutes))


def _teach(
    network: BaselineNetwork,
    clips: ClipStore,
    rng: np.random.Generator,
    seconds: float,
    clock: Callable[[], float],
    on_progress: Callable[[float, str], None],
) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-4)
    began, progress = clock(), 0.0
    while progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1.0, 40 * progress + 0.05) * (1 - progress)
        clip = clips.sample(_BATCH, _LENGTH, rng)
        frames, controls = to_model(clip.frames), torch.from_numpy(clip.controls)
        # Ever fewer true frames are read after the given ones; none in the last quarter.
        is_true = rng.random(clip.ends.shape) < 1 - progress / 0.75
        is_true[:, :_GIVEN] = True
        with mixed_precision("cpu"):
            shown = network(frames, controls, torch.from_numpy(is_true))
        loss = (shown.float() - frames[:, 1:]).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        spent = clock() - began
        progress = spent / seconds
        on_progress(min(spent, seconds), f"error {loss.item():.4f}")
