"""Videos of a policy in its dream and in the real game, side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from worldsim.agents.dreamer.batch_agents import PolicyBatchAgent
from worldsim.agents.dreamer.dream_batch import DreamBatch
from worldsim.agents.dreamer.games import Games
from worldsim.agents.dreamer.policy import LatentPolicy
from worldsim.agents.human.captions import sheet, side_by_side
from worldsim.agents.human.colours import DREAM, REAL
from worldsim.context import Context
from worldsim.engine.world import World
from worldsim.errors import DependencyError
from worldsim.evaluation.mp4 import encode

__all__ = ["SHEET", "VIDEO", "dream_and_reality", "write_round_videos"]

VIDEO, SHEET = "policy.mp4", "policy.png"
_SEED = 4_250_000_000
"""First seed of the episodes that are shown; no policy learns or is scored on them."""
_COLUMNS = 16
_WIDTH = 140
"""Width of a picture of the contact sheet in pixels, about."""
_SCALE = 2


def dream_and_reality(world: World, policy: LatentPolicy, most: int, seed: int) -> tuple[np.ndarray, ...]:
    """The dream and the real game of one seed, two uint8 [T, H, W, 3] of their own lengths.

    Both begin with the same real frame. In each the policy acts on what it sees there.
    """
    with Games(world.spec.name, world.spec.size, 1, most) as games:
        (real,) = games.episodes(PolicyBatchAgent(world, policy, 1), [_SEED + seed])
    start = Context(real.frames[:1], np.zeros((1, world.spec.control_space.size), np.float32))
    temperature = policy.metadata.temperature
    batch = DreamBatch(world, 1, temperature=temperature, most=most, decode=True)
    return batch.frames(batch.agent(policy), seed, start), real.frames


def write_round_videos(
    folder: Path, world: World, policy: LatentPolicy, most: int, seed: int, tell: Callable[[str], None]
) -> None:
    """Write ``policy.mp4`` and the contact sheet ``policy.png``: the dream at the left or above.

    An episode that ends first stays dark on its last frame. Without PyAV, ``tell`` says that there is no
    video.
    """
    pairs = _paired(*dream_and_reality(world, policy, most, seed))
    picked = np.linspace(0, len(pairs) - 1, min(_COLUMNS, len(pairs))).round().astype(int)
    fps = world.spec.fps
    columns = [(f"{number / fps:.1f} s", list(pairs[number])) for number in picked.tolist()]
    titles = [("dream", DREAM), ("real", REAL)]
    scale = max(round(_WIDTH / pairs.shape[3]), 1)
    Image.fromarray(sheet(columns, titles, scale=scale)).save(folder / SHEET)
    rows = np.stack([side_by_side(list(pair), titles, _SCALE) for pair in pairs])
    try:
        (folder / VIDEO).write_bytes(encode(rows, fps))
    except DependencyError as error:
        tell(f"no video: {error}")


def _paired(dream: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Both in one array uint8 [T, 2, H, W, 3] of the longer one's length."""
    length = max(len(dream), len(real))
    return np.stack([_padded(dream, length), _padded(real, length)], 1)


def _padded(frames: np.ndarray, length: int) -> np.ndarray:
    last = (frames[-1:] // 3).repeat(length - len(frames), 0)
    return np.concatenate([frames, last])
