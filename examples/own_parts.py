"""A tokenizer and a unit of your own, trained, played and stepped in Gymnasium; the package stays as it is.

    python examples/own_parts.py --minutes 1 --out runs/own-parts

Importing this file registers both parts. A world that was trained with them is loaded by any program that
imports this file first.

Shapes: B batch, N tokens, C latent channels, H x W frame.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import worldsim
from worldsim.agents.human.play import main as play
from worldsim.camera import Intrinsics
from worldsim.checkpoint import WorldConfig, save_world
from worldsim.controls import ControlSpace
from worldsim.data.clips import ClipStore
from worldsim.data.episodes import EpisodeArrays
from worldsim.data.recorder import RecordConfig, record
from worldsim.data.spec import SourceSpec
from worldsim.errors import ConfigError
from worldsim.model.heads import HeadsConfig
from worldsim.model.transformer import TransformerConfig
from worldsim.networks import Networks, NetworksConfig
from worldsim.registry import register
from worldsim.tokenizer.protocol import LatentSpec, MotionCondition, PreviousFrame, Prior
from worldsim.training.stage import ParamGroup, Stage
from worldsim.training.starts import choose_starts
from worldsim.training.trainer import Trainer
from worldsim.training.world_model_objective import world_model_objective

SIZE = (24, 32)


@register("tokenizer", "linear-patches")
@dataclass(frozen=True, kw_only=True, slots=True)
class LinearPatchesConfig:
    """One linear map from each patch of a frame to a token, and one back."""

    patch: int = 4
    """Side of a patch in pixels."""
    channels: int = 16
    """Channels of a token, C."""

    def build(
        self, size: tuple[int, int], condition_size: int, intrinsics: Intrinsics | None
    ) -> LinearPatchesTokenizer:
        """The tokenizer of frames of ``size`` (height, width); it needs neither condition nor camera."""
        if size[0] % self.patch or size[1] % self.patch:
            raise ConfigError(f"a frame must be made of whole patches of {self.patch}", size)
        return LinearPatchesTokenizer(self, size)


class LinearPatchesTokenizer(nn.Module):
    """Encodes each patch of each frame alone."""

    scene = None
    """There is no static scene."""
    supports_kernels = False
    """There are no C kernels for it: PyTorch runs it."""
    prior_channels = 1
    """Nothing is known of a frame beforehand, which takes one channel of zeros."""
    uses_previous_frame = False

    def __init__(self, config: LinearPatchesConfig, size: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.size = config, size
        grid = (size[0] // config.patch, size[1] // config.patch)
        self.latent_spec = LatentSpec(
            kind="continuous", tokens=grid[0] * grid[1], channels=config.channels, grid=grid, bounded=True
        )
        self.encoder = nn.Linear(3 * config.patch**2, config.channels)
        self.decoder = nn.Linear(config.channels, 3 * config.patch**2)

    def prepare(self, dtype: torch.dtype) -> None:
        """Nothing: it is small enough to stay in float32."""

    def blank(self, batch: int, device: torch.device) -> PreviousFrame:
        """The previous frame of a world that has just begun: grey."""
        return PreviousFrame.blank(batch, self.size, device)

    def prior(self, previous: PreviousFrame, motion: MotionCondition) -> Prior:
        """Nothing is known of the new frame."""
        return Prior.unknown(previous, motion, self.latent_spec.tokens, self.prior_channels)

    def encode(self, frame: Tensor, prior: Prior) -> Tensor:
        """Frame [B, 3, H, W] in [-1, 1] to latent [B, N, C] in [-1, 1]."""
        patches = F.pixel_unshuffle(frame, self.config.patch).flatten(2).transpose(1, 2)
        return self.encoder(patches).float().tanh()

    def decode(self, latent: Tensor, prior: Prior) -> Tensor:
        """Latent [B, N, C] to frame [B, 3, H, W]."""
        planes = self.decoder(latent).float().transpose(1, 2).unflatten(2, self.latent_spec.grid)
        return F.pixel_shuffle(planes, self.config.patch)


@register("unit", "causal-pair")
@dataclass(frozen=True, kw_only=True, slots=True)
class CausalPairUnit:
    """Two frames a step; the tokens of the first do not see those of the second."""

    def build(self, grid: tuple[int, int]) -> CausalPair:
        """The unit of a tokenizer whose frames have ``grid`` tokens, rows x columns."""
        return CausalPair(grid)


@dataclass(frozen=True, slots=True)
class CausalPair:
    """Two consecutive frames, predicted together; tokens are frame-major, then row-major."""

    grid: tuple[int, int]
    """Rows and columns of a frame's tokens."""
    frames: int = 2

    @property
    def tokens(self) -> int:
        """Tokens of both frames, N."""
        return self.frames * self.grid[0] * self.grid[1]

    def order(self) -> tuple[tuple[int, ...], ...]:
        """One pass, in which all tokens are predicted."""
        return (tuple(range(self.tokens)),)

    def positions(self) -> np.ndarray:
        """``int64 [N, 3]``: each token's frame, row and column."""
        axes = [np.arange(size) for size in (self.frames, *self.grid)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)

    def mask(self) -> np.ndarray:
        """``bool [N, N]``: True where the row's token may look at the column's token."""
        frame = self.positions()[:, 0]
        seen: np.ndarray = frame[:, None] >= frame[None]
        return seen


SPEC = SourceSpec(
    name="square",
    size=SIZE,
    fps=10.0,
    control_space=ControlSpace(
        keys=("left", "right"), yaw=False, pose=False, discrete_actions=((), ("left",), ("right",))
    ),
)
"""A white square on a blue floor, pushed by two keys. It has no camera."""


class SquareCollector:
    """Plays the toy source with random keys; each is held for four frames."""

    spec = SPEC

    def play(self, seed: int, length: int = 48) -> EpisodeArrays:
        """The episode of ``length`` frames that ``seed`` fixes. A touch of the left side is worth 1."""
        rng = np.random.default_rng(seed)
        keys = np.repeat(rng.integers(0, 3, -(-length // 4)), 4)[:length]
        moves = np.array([0, -2, 2])[keys]
        x, column, frames = int(rng.integers(4, SIZE[1] - 8)), np.zeros(length, int), []
        for t in range(length):
            column[t], frame = x, np.full((*SIZE, 3), (20, 40, 120), np.uint8)
            frame[10:16, x : x + 6] = 255
            frames.append(frame)
            x = int(np.clip(x + moves[t], 0, SIZE[1] - 6))
        controls = np.zeros((length, SPEC.control_space.size), np.float32)
        controls[keys > 0, keys[keys > 0] - 1] = 1
        return EpisodeArrays(
            frames=np.stack(frames),
            controls=controls,
            poses=None,
            rewards=(column == 0).astype(np.float32),
            terminated=np.zeros(length, bool),
            truncated=np.arange(length) == length - 1,
            seed=seed,
        )

    def close(self) -> None:
        """Nothing to release."""


def train(data: Path, out: Path, minutes: float) -> Path:
    """Train both parts and a small transformer on ``data``; returns the world's folder."""
    clips, held_out = ClipStore(data), ClipStore(data, split="held_out")
    torch.manual_seed(0)
    config = NetworksConfig(
        tokenizer=LinearPatchesConfig(),
        unit=CausalPairUnit(),
        generator=TransformerConfig(width=64, layers=2, heads=4, context=4),
        heads=HeadsConfig(poses=False),
    )
    networks = Networks(config, SPEC).train()
    objective = world_model_objective(networks, clips, batch=8, length=10)
    stage = Stage("world_model", 1.0, [ParamGroup(list(networks.parameters()), 2e-3)], objective)
    Trainer(networks, [stage], out, minutes, seed=0).run()
    world = WorldConfig(name="square", source=SPEC, networks=config)
    save_world(out / "square", world, networks, choose_starts(held_out, count=2), "# square\n")
    return out / "square"


def main(arguments: Sequence[str] | None = None) -> int:
    """Record, train, play and step; returns the exit code."""
    parser = argparse.ArgumentParser(description="A tokenizer and a unit of your own.")
    parser.add_argument("--minutes", type=float, default=1.0, help="minutes of training (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/own-parts"), help="folder (%(default)s)")
    options = parser.parse_args(arguments)

    data = options.out / "data"
    record(
        SquareCollector, data, RecordConfig(source="square", seed=0, codec="raw"), frames=1200, resume=True
    )
    folder = train(data, options.out, options.minutes)

    world = worldsim.load(folder, "cpu")
    first, second = world.engine(slots=1).open(seed=0).step_chunk(["right", "right"])
    print(f"{world.unit_frames} frames a unit; frames {first.index} and {second.index} in one step")

    prefix = str(options.out / "play")
    code = play(["--world", str(folder), "--headless", "--frames", "16", "--out-prefix", prefix, "--force"])

    env = gymnasium.make("worldsim:WorldsimWorld-v0", world=folder, device="cpu")
    env.reset(seed=0)
    rewards = [float(env.step(env.action_space.sample())[1]) for _ in range(8)]
    env.close()
    print(f"8 steps in Gymnasium, reward {sum(rewards):.2f}")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
