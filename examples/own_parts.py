"""A source, a tokenizer, a unit and a recipe of your own, through every command; the package stays as it is.

    python examples/own_parts.py --minutes 1 --out runs/own-parts

records, trains, plays and steps. The same by the command line, from the folder of this file:

    worldsim record own_parts:square --out runs/data --frames 1200
    worldsim train square --recipe own_parts:patches --data runs/data --out runs/square --minutes 1
    worldsim play --import own_parts --world runs/square/square

Importing this file registers the parts. ``--import`` does it for any command, "module:name" for one part.

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
from worldsim.camera import Intrinsics
from worldsim.cli import main as worldsim_command
from worldsim.controls import Control, ControlSpace
from worldsim.data.clips import ClipStore
from worldsim.data.spec import SourceSpec
from worldsim.envs.sources import Observation
from worldsim.errors import ConfigError, SourceError
from worldsim.model.heads import HeadsConfig
from worldsim.model.transformer import TransformerConfig
from worldsim.networks import Networks, NetworksConfig
from worldsim.registry import register
from worldsim.tokenizer.protocol import LatentSpec, MotionCondition, PreviousFrame, Prior
from worldsim.training.stage import ParamGroup, Stage
from worldsim.training.world_model_objective import world_model_objective
from worldsim.units import TokenForm

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

    def build(self, latent: TokenForm) -> CausalPair:
        """The unit of a tokenizer whose frames have such tokens, in rows and columns of one grid."""
        return CausalPair(latent.grid)


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
    name="own_parts:square",
    size=SIZE,
    fps=10.0,
    control_space=ControlSpace(
        keys=("left", "right"), yaw=False, pose=False, discrete_actions=((), ("left",), ("right",))
    ),
)
"""A white square on a blue floor, pushed by two keys. It has no camera."""


class Square:
    """The toy source: episodes of 48 frames. A touch of the left side is worth 1."""

    spec = SPEC

    def __init__(self) -> None:
        self._x = self._age = 0

    def reset(self, seed: int) -> Observation:
        """Begin the episode that ``seed`` fixes."""
        self._x, self._age = int(np.random.default_rng(seed).integers(4, SIZE[1] - 8)), 0
        return self._observe()

    def step(self, control: Control) -> Observation:
        """Push the square by two pixels where a key is held."""
        push = 2 * (("right" in control.keys) - ("left" in control.keys))
        self._x, self._age = int(np.clip(self._x + push, 0, SIZE[1] - 6)), self._age + 1
        return self._observe()

    def walls(self) -> None:
        """There is no map."""

    def close(self) -> None:
        """Nothing to release."""

    def _observe(self) -> Observation:
        frame = np.full((*SIZE, 3), (20, 40, 120), np.uint8)
        frame[10:16, self._x : self._x + 6] = 255
        return Observation(frame, reward=float(self._x == 0), truncated=self._age == 48)


@register("source", "square")
@dataclass(frozen=True, kw_only=True, slots=True)
class SquareConfig:
    """The toy source as a part: ``worldsim record own_parts:square``."""

    def build(self, size: tuple[int, int] | None, *, depth: bool, labels: bool) -> Square:
        """Open the source, which has one size, no depth and no labels."""
        if size not in (None, SIZE):
            raise SourceError("the square has frames of one size", size, f"choose {SIZE}")
        return Square()


@register("recipe", "patches")
@dataclass(frozen=True, kw_only=True, slots=True)
class PatchesRecipe:
    """Both parts and a small transformer: ``worldsim train --recipe own_parts:patches --set width=128``."""

    width: int = 64
    """Width of the transformer."""
    layers: int = 2
    context: int = 4
    """Units that it remembers."""
    batch: int = 8
    length: int = 10
    """Frames of a clip."""

    def plan(self, spec: SourceSpec, poses: np.ndarray | None) -> NetworksConfig:
        """Plan the networks; poses are not used."""
        return NetworksConfig(
            tokenizer=LinearPatchesConfig(),
            unit=CausalPairUnit(),
            generator=TransformerConfig(width=self.width, layers=self.layers, heads=4, context=self.context),
            heads=HeadsConfig(poses=False),
        )

    def stages(self, networks: Networks, clips: ClipStore, warm: bool) -> list[Stage]:
        """One stage, in which all is trained together."""
        objective = world_model_objective(networks, clips, self.batch, self.length)
        return [Stage("world_model", 1.0, [ParamGroup(list(networks.parameters()), 2e-3)], objective)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Record, train, play and step; returns the exit code."""
    parser = argparse.ArgumentParser(description="Parts of your own.")
    parser.add_argument("--minutes", type=float, default=1.0, help="of training (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/own-parts"), help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    data, run, prefix = (str(options.out / name) for name in ("data", "run", "play"))

    record = ["record", "square", "--out", data, "--frames", "1200", "--codec", "raw", "--workers", "1"]
    train = ["train", "square", "--data", data, "--out", run, "--recipe", "patches", "--device", "cpu"]
    for line in (record, [*train, "--minutes", str(options.minutes)]):
        if code := worldsim_command(line):
            return code
    folder = Path(run) / "square"
    play = ["play", "--world", str(folder), "--headless", "--frames", "16", "--out-prefix", prefix, "--force"]
    if code := worldsim_command(play):
        return code

    world = worldsim.load(folder, "cpu")
    first, second = world.engine(slots=1).open(seed=0).step_chunk(["right", "right"])
    print(f"{world.unit_frames} frames a unit; frames {first.index} and {second.index} in one step")

    env = gymnasium.make("worldsim:WorldsimWorld-v0", world=folder, device="cpu")
    env.reset(seed=0)
    rewards = [float(env.step(env.action_space.sample())[1]) for _ in range(8)]
    env.close()
    print(f"8 steps in Gymnasium, reward {sum(rewards):.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
