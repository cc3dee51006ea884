"""Clips for training: decoded frames in one array, sampled in windows, with the time shift done.

A recorded row has the control that was taken *after* its observation; a model is conditioned on the control
that led *into* a frame. :func:`shift` goes from the one to the other, and nothing else does.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldsim.data.cache import find_cache, make_array
from worldsim.data.dataset import Dataset, Episode, Split
from worldsim.errors import DataError
from worldsim.pixels import resize_area
from worldsim.utils.file_lock import file_lock

__all__ = ["ArrivalTable", "Arrivals", "Clip", "ClipStore", "shift"]


@dataclass(frozen=True)
class Arrivals:
    """An episode of T rows as L arrivals at frames: L = T, or T + 1 where the task ended."""

    frame: np.ndarray
    """``int64 [L]``: row whose frame is seen. An end has no frame of its own: the last one is seen again."""
    controls: np.ndarray
    """``float32 [L, n_keys + 1]``: the control that led here; zeros at the episode's start."""
    rewards: np.ndarray
    """``float32 [L]``: the reward received on arriving; 0 at the episode's start."""
    ends: np.ndarray
    """``bool [L]``: whether the task ended on arriving."""


@dataclass(frozen=True)
class Clip:
    """B windows of T consecutive frames."""

    frames: np.ndarray
    """``uint8 [B, T, H, W, 3]``."""
    controls: np.ndarray
    """``float32 [B, T, n_keys + 1]``: what led into frame t; zeros at t = 0, as its past is cut off."""
    poses: np.ndarray | None
    """``float64 [B, T, 4, 4]``, camera-to-world in metres, or None."""
    rewards: np.ndarray
    """``float32 [B, T]``: received on arriving at frame t."""
    ends: np.ndarray
    """``bool [B, T]``: whether the task ended on arriving at frame t, a repeat of the frame before."""


@dataclass(frozen=True)
class ArrivalTable:
    """All A arrivals of a split, episode after episode; the arrays are shared and must not be written to."""

    frame: np.ndarray
    """``int64 [A]``: number of the frame seen, among :attr:`ClipStore.frames`."""
    controls: np.ndarray
    """``float32 [A, n_keys + 1]``: the control that led here; zeros at an episode's start."""
    rewards: np.ndarray
    """``float32 [A]``: received on arriving."""
    ends: np.ndarray
    """``bool [A]``: the task ended on arriving."""
    poses: np.ndarray | None
    """``float64 [A, 4, 4]``, camera-to-world in metres, or None."""
    first: np.ndarray
    """``int64 [A]``: first arrival of the same episode."""
    last: np.ndarray
    """``int64 [A]``: last arrival of the same episode."""


def shift(controls: np.ndarray, rewards: np.ndarray, terminated: np.ndarray) -> Arrivals:
    """From recorded rows (what followed observation t) to arrivals (what led to frame t).

    The control of a last row that ended nothing led to a frame that was not recorded: it is dropped.

    Args:
        controls: ``float32 [T, n_keys + 1]``.
        rewards: ``float32 [T]``.
        terminated: ``bool [T]``.
    """
    rows = len(controls)
    length = rows + int(terminated[-1])

    def arriving(values: np.ndarray) -> np.ndarray:
        return np.concatenate([np.zeros_like(values[:1]), values])[:length]

    frame = np.minimum(np.arange(length), rows - 1)
    return Arrivals(frame, arriving(controls), arriving(rewards), arriving(terminated))


class ClipStore:
    """All frames of one split of a dataset at one size, ready for sampling.

    The first store of a split and size decodes the videos into an array beside the dataset, in its folder
    ``cache``; later ones map that file. It may be deleted at any time. Raw frames that fit in memory are read
    as they are, and nothing is kept.

    Args:
        dataset: the dataset, or its folder.
        size: height and width of the frames; must divide the dataset's.
        split: "train", or "held_out": the episodes that are never trained on.
        threads: how many decode; by default one for each core.
        on_progress: called while decoding with the number of episodes done and their total.
        cache: folder for decoded frames of any dataset; by default they lie beside the dataset, or where it
            cannot be written in the user's cache folder.

    Raises:
        StorageError: the decoded frames find no room.
        DataError: the split has no episode, or the size does not divide the dataset's.
    """

    def __init__(
        self,
        dataset: Dataset | str | Path,
        size: tuple[int, int] | None = None,
        split: Split = "train",
        *,
        threads: int | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        cache: Path | None = None,
    ) -> None:
        self._cache = cache
        self.dataset = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
        self.spec = self.dataset.spec.at_size(size or self.dataset.spec.size)
        self.split = split
        self.episodes = [episode for episode in self.dataset.episodes if episode.split == split]
        if not self.episodes:
            raise DataError("a split must have episodes", split, "record more frames, or with another seed")
        self._load_rows()
        self.frames = self._load_frames(threads or len(os.sched_getaffinity(0)), on_progress)
        """``uint8 [N, H, W, 3]``: the split's frames, episode after episode; in memory where they take less
        than half of it, else mapped from disk."""

    @classmethod
    def joined(cls, stores: Sequence[ClipStore]) -> ClipStore:
        """One store with the episodes of several, in their order, of one split.

        Raises:
            DataError: their frames or controls differ.
        """
        first, *others = stores
        if not others:
            return first
        for name in ("size", "control_space", "has_pose"):
            for other in others:
                if getattr(other.spec, name) != getattr(first.spec, name):
                    rule = f"datasets must have the same {name}, {getattr(first.spec, name)}"
                    raise DataError(rule, getattr(other.spec, name), f"leave {other.dataset.layout.root} out")
        made = cls.__new__(cls)
        made._cache, made.dataset, made.spec, made.split = None, first.dataset, first.spec, first.split
        made.episodes = [episode for store in stores for episode in store.episodes]
        made.frames = np.concatenate([store.frames for store in stores])
        offsets = np.cumsum([0, *(len(store.frames) for store in stores)])
        made._frame = np.concatenate(
            [store._frame + offset for store, offset in zip(stores, offsets, strict=False)]
        )
        made._lengths = np.concatenate([store._lengths for store in stores])
        made._starts = np.cumsum(made._lengths) - made._lengths
        made._is_ended = np.concatenate([store._is_ended for store in stores])
        made._controls = np.concatenate([store._controls for store in stores])
        made._rewards = np.concatenate([store._rewards for store in stores])
        made._ends = np.concatenate([store._ends for store in stores])
        poses = [store._poses for store in stores if store._poses is not None]
        made._poses = np.concatenate(poses) if poses else None
        return made

    def __len__(self) -> int:
        """Number of frames in the split."""
        return len(self.frames)

    @property
    def poses(self) -> np.ndarray | None:
        """``float64 [N, 4, 4]``: the poses of :attr:`frames`, or None."""
        return self._poses

    def sample(
        self, batch: int, length: int, rng: np.random.Generator, *, ends: float = 0.0, frames: bool = True
    ) -> Clip:
        """Draw ``batch`` windows of ``length`` frames; see :meth:`draw`.

        Args:
            batch, length, rng, ends: as of :meth:`draw`.
            frames: False leaves the frames out, for what needs tracks alone: they come as [B, T, 0, 0, 3].
        """
        return self._clip(self.draw(batch, length, rng, ends=ends), length, frames)

    def draw(self, batch: int, length: int, rng: np.random.Generator, *, ends: float = 0.0) -> np.ndarray:
        """``int64 [B]``: the first arrivals of windows, all windows within an episode being equally likely.

        Args:
            batch: number of windows.
            length: frames in each.
            rng: the source of chance.
            ends: share in [0, 1] of the windows that are drawn among those that close with a task's end,
                which are rare otherwise. Without effect where the split has none.

        Raises:
            DataError: no episode is long enough.
        """
        windows = np.maximum(self._lengths - length + 1, 0)
        if not windows.any():
            raise DataError(
                "an episode must be as long as the clip", length, f"at most {self._lengths.max()}"
            )
        last = np.cumsum(windows)
        drawn = rng.integers(last[-1], size=batch)
        episode = np.searchsorted(last, drawn, side="right")
        starts = self._starts[episode] + drawn - (last - windows)[episode]
        closing = (self._starts + self._lengths - length)[self._is_ended & (windows > 0)]
        if closing.size:
            starts = np.where(rng.random(batch) < ends, rng.choice(closing, batch), starts)
        first: np.ndarray = starts
        return first

    @property
    def tracks(self) -> ArrivalTable:
        """Arrivals of the whole split."""
        first = np.repeat(self._starts, self._lengths)
        poses = None if self._poses is None else self._poses[self._frame]
        rows = (self._frame, self._controls, self._rewards, self._ends)
        return ArrivalTable(*rows, poses, first, first + np.repeat(self._lengths, self._lengths) - 1)

    @property
    def arrivals(self) -> tuple[np.ndarray, np.ndarray]:
        """Controls ``float32 [A, n + 1]`` that led to each arrival, and poses ``float64 [A, 4, 4]``.

        Raises:
            DataError: the source has no poses.
        """
        if self._poses is None:
            raise DataError("tracks need a source with poses", self.spec.name)
        return self._controls, self._poses[self._frame]

    def window(self, episode: int, start: int, length: int) -> Clip:
        """One window (B = 1) of the split's episode number ``episode``, from its arrival ``start`` on.

        Raises:
            DataError: the window is not within the episode.
        """
        if not 0 <= episode < len(self.episodes):
            raise DataError(f"an episode of this split must be in 0..{len(self.episodes) - 1}", episode)
        if start < 0 or length < 1 or start + length > self._lengths[episode]:
            raise DataError(f"a window must be within 0..{self._lengths[episode]}", (start, start + length))
        return self._clip(self._starts[episode : episode + 1] + start, length)

    def controls_until(self, episode: int, frame: int) -> np.ndarray:
        """``float32 [frame, n_keys + 1]``: controls from an episode's first frame to ``frame``."""
        first = self._starts[episode] + 1
        controls: np.ndarray = self._controls[first : first + frame]
        return controls

    def _clip(self, starts: np.ndarray, length: int, frames: bool = True) -> Clip:
        at = starts[:, None] + np.arange(length)
        controls = self._controls[at]
        controls[:, 0] = 0
        frame = self._frame[at]
        poses = None if self._poses is None else self._poses[frame]
        pixels = self.frames[frame] if frames else np.empty((*at.shape, 0, 0, 3), np.uint8)
        return Clip(pixels, controls, poses, self._rewards[at], self._ends[at])

    def _load_rows(self) -> None:
        tracks, poses, first = [], [], 0
        for episode in self.episodes:
            rows = self.dataset.rows(episode.index)
            track = shift(rows.controls, rows.rewards, rows.terminated)
            tracks.append(Arrivals(track.frame + first, track.controls, track.rewards, track.ends))
            poses.append(rows.poses)
            first += episode.length
        self._lengths = np.array([len(track.frame) for track in tracks])
        self._starts = np.cumsum(self._lengths) - self._lengths
        self._is_ended = np.array([bool(track.ends[-1]) for track in tracks])
        self._frame = np.concatenate([track.frame for track in tracks])
        self._controls = np.concatenate([track.controls for track in tracks])
        self._rewards = np.concatenate([track.rewards for track in tracks])
        self._ends = np.concatenate([track.ends for track in tracks])
        self._poses = (
            np.concatenate([pose for pose in poses if pose is not None]) if self.spec.has_pose else None
        )

    def _load_frames(self, threads: int, on_progress: Callable[[int, int], None] | None) -> np.ndarray:
        # Random windows of a mapped file wait for the disk whenever its pages are dropped: what fits is read.
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if self.dataset.is_raw and math.prod(self._shape()) < memory / 2:
            made: np.ndarray = np.empty(self._shape(), np.uint8)
            self._fill(made, threads, on_progress)
            return made
        path = self._cache_path()
        if not path.exists():
            with file_lock(path.parent):  # whoever comes second finds the frames decoded
                if not path.exists():
                    for stale in path.parent.glob(f"{self._cache_name()}-*"):
                        stale.unlink()
                    self._decode_all(path, threads, on_progress)
        mapped: np.ndarray = np.load(path, mmap_mode="r")
        frames: np.ndarray = np.load(path) if mapped.nbytes < memory / 2 else mapped
        return frames

    def _cache_name(self) -> str:
        return "{}-{}x{}".format(self.split, *self.spec.size)

    def _cache_path(self) -> Path:
        """The name tells datasets apart: a recording that was continued has another info.json."""
        print_of = hashlib.sha256(self.dataset.layout.info.read_bytes()).hexdigest()[:12]
        return find_cache(self.dataset.layout, f"{self._cache_name()}-{print_of}.npy", self._cache)

    def _decode_all(self, path: Path, threads: int, on_progress: Callable[[int, int], None] | None) -> None:
        temporary = path.with_name(f"{path.name}.tmp")
        frames = make_array(temporary, self._shape())
        self._fill(frames, threads, on_progress)
        frames.flush()
        temporary.replace(path)

    def _shape(self) -> tuple[int, int, int, int]:
        return (sum(episode.length for episode in self.episodes), *self.spec.size, 3)

    def _fill(self, frames: np.ndarray, threads: int, on_progress: Callable[[int, int], None] | None) -> None:
        firsts = np.cumsum([0, *(episode.length for episode in self.episodes)])

        def fill(job: tuple[Episode, int]) -> None:
            episode, first = job
            if self.dataset.is_raw:
                whole = self.dataset.mapped(episode.index)
                frames[first : first + episode.length] = resize_area(whole, self.spec.size)
                return
            for t, frame in enumerate(self.dataset.frames(episode.index)):
                frames[first + t] = resize_area(frame, self.spec.size)

        with ThreadPoolExecutor(threads) as pool:
            jobs = zip(self.episodes, firsts, strict=False)
            for done, _ in enumerate(pool.map(fill, jobs), start=1):
                if on_progress is not None:
                    on_progress(done, len(self.episodes))
