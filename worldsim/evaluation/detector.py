"""Object detector: a small network that segments the kinds of objects in one frame.

It learns from the source's own frames and labels, in well under a minute of one core, and is kept in the
user's cache. What it finds in true frames is the upper reference of what it can find in imagined ones.

Shapes: ... batch axes, K kinds, H x W frame, h x w what the detector reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from worldsim.data.cache import user_cache
from worldsim.data.collector import Collector
from worldsim.data.episodes import EpisodeArrays
from worldsim.errors import StorageError
from worldsim.evaluation.idm.collect import IDM_SEEDS
from worldsim.pixels import resize_area, to_model
from worldsim.utils.output_paths import check_writable

__all__ = ["Detector", "find_detector", "shrink_masks", "train_detector"]

_HEIGHT = 60
"""Rows that are read, about; larger frames are reduced by a whole number."""
_WIDTH = 16
_AT_ONCE = 64
_VERSION = 1


class _Network(nn.Sequential):
    """Frames [B, 3, h, w] to log-odds [B, K, h, w]; each pixel sees a square of nine."""

    def __init__(self, kinds: int) -> None:
        super().__init__(
            nn.Conv2d(3, _WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_WIDTH, kinds, 1),
        )


@dataclass(frozen=True, slots=True)
class Detector:
    """A trained detector."""

    network: nn.Module
    kinds: tuple[str, ...]

    def find(self, frames: np.ndarray) -> np.ndarray:
        """The pixels that show each kind, ``bool [..., K, h, w]``, in frames ``uint8 [..., H, W, 3]``."""
        size = _read_size(frames.shape[-3], frames.shape[-2])
        small = resize_area(frames.reshape(-1, *frames.shape[-3:]), size)
        with torch.inference_mode():
            parts = [
                self.network(to_model(small[i : i + _AT_ONCE]))[:, : len(self.kinds)] > 0
                for i in range(0, len(small), _AT_ONCE)
            ]
        return torch.cat(parts).numpy().reshape(*frames.shape[:-3], len(self.kinds), *size)

    def truth(self, labels: Mapping[str, np.ndarray]) -> np.ndarray:
        """Labels ``bool [..., H, W]`` of each kind at the size that is read, ``bool [..., K, h, w]``."""
        return np.stack([shrink_masks(labels[kind]) for kind in self.kinds], -3)


def shrink_masks(masks: np.ndarray) -> np.ndarray:
    """Masks ``bool [..., H, W]`` at the size that is read: the pixels at least half of which are covered."""
    height, width = _read_size(*masks.shape[-2:])
    rows, columns = masks.shape[-2] // height, masks.shape[-1] // width
    return masks.reshape(*masks.shape[:-2], height, rows, width, columns).mean((-3, -1)) >= 0.5


def find_detector(collector: Collector, *, frames: int = 3000, updates: int = 400) -> Detector | None:
    """Return the detector of a source, from the cache or trained now; None where episodes have no labels.

    A cache that cannot be written is no error: the detector is then trained at each call.
    """
    seeds = iter(IDM_SEEDS)
    first = collector.play(next(seeds))
    if not first.labels:
        return None
    spec, kinds = collector.spec, tuple(sorted(first.labels))
    facts = [_VERSION, spec.name, list(spec.size), spec.tics, kinds, frames, updates]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
    path = user_cache() / "detectors" / f"{name}.safetensors"
    kept = _read(path, kinds)
    if kept is not None:
        return kept
    more = (collector.play(seed) for seed in seeds)
    detector = train_detector(chain([first], more), kinds, frames=frames, updates=updates)
    _keep(path, detector)
    return detector


def train_detector(
    episodes: Iterator[EpisodeArrays],
    kinds: tuple[str, ...],
    *,
    frames: int,
    updates: int,
    batch: int = 16,
    seed: int = 0,
) -> Detector:
    """Learn to see ``kinds`` from the first ``frames`` frames of labelled episodes.

    Half of the frames are blurred a little and all get a little noise, so that sharpness alone decides
    nothing.
    """
    pictures, masks = _lessons(episodes, kinds, frames)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = _Network(len(kinds))
        optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, updates)
        for _ in range(updates):
            rows = rng.integers(len(pictures), size=batch)
            seen, truth = _disturbed(to_model(pictures[rows])), torch.from_numpy(masks[rows]).float()
            loss = functional.binary_cross_entropy_with_logits(network(seen), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return Detector(network.eval(), kinds)


def _lessons(
    episodes: Iterator[EpisodeArrays], kinds: tuple[str, ...], frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frames ``uint8 [F, h, w, 3]`` and masks ``bool [F, K, h, w]``."""
    pictures, masks, count = [], [], 0
    while count < frames:
        episode = next(episodes)
        assert episode.labels is not None, "every episode of such a source has labels"
        pictures.append(resize_area(episode.frames, _read_size(*episode.frames.shape[1:3])))
        masks.append(np.stack([shrink_masks(episode.labels[kind]) for kind in kinds], 1))
        count += len(episode)
    return np.concatenate(pictures)[:frames], np.concatenate(masks)[:frames]


def _disturbed(frames: Tensor) -> Tensor:
    """Frames with noise, every second one blurred."""
    blurred = functional.avg_pool2d(frames[::2], 3, 1, 1, count_include_pad=False)
    mixed = frames.clone()
    mixed[::2] = torch.lerp(frames[::2], blurred, torch.rand(len(blurred), 1, 1, 1))
    return mixed + 0.03 * torch.randn_like(mixed)


def _read_size(height: int, width: int) -> tuple[int, int]:
    """Return the size at which the detector reads frames of a size."""
    by = max(round(height / _HEIGHT), 1)
    return (height // by, width // by) if height % by == 0 and width % by == 0 else (height, width)


def _read(path: Path, kinds: tuple[str, ...]) -> Detector | None:
    """A kept detector; None where there is none, or a damaged one."""
    network = _Network(len(kinds))
    try:
        network.load_state_dict(load(path.read_bytes()))
    except (OSError, RuntimeError, SafetensorError):
        return None
    return Detector(network.eval(), kinds)


def _keep(path: Path, detector: Detector) -> None:
    weights = {name: value.contiguous() for name, value in detector.network.state_dict().items()}
    try:
        check_writable(path.parent)
        building = path.with_suffix(".tmp")
        building.write_bytes(save(weights))
        building.replace(path)
    except (OSError, StorageError):
        return
