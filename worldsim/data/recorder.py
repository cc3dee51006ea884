"""Recorder with parallel workers; at most one open episode of each worker can be lost.

The dataset is a function of the seed and of the number of frames: episode n has the seed
``seed * 1_000_003 + n``, and the dataset holds the first episodes that together have enough frames, whoever
recorded them and in whichever order.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from worldsim import config
from worldsim.data.collector import Collector
from worldsim.data.gather import gather
from worldsim.data.layout import Layout
from worldsim.data.meta import read_episodes
from worldsim.data.parquet import require_pyarrow
from worldsim.data.shards import Shard, find_shards, sweep, write_shard
from worldsim.data.spec import SourceSpec
from worldsim.data.video import CodecName, require_av
from worldsim.errors import DataError, SourceError
from worldsim.utils.file_lock import file_lock
from worldsim.utils.output_paths import check_writable

__all__ = ["RecordConfig", "Recording", "episode_seed", "record"]

_SEED_STRIDE = 1_000_003


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """Settings of a recording, kept beside the data; a resumed recording must have the same."""

    source: str
    seed: int
    size: tuple[int, int] | None = None
    """Height and width of the frames; the source's own by default."""
    codec: CodecName = "lossless"
    agents: str = "behaviours"
    """Agents that play, and how often random actions disturb them, as text."""


@dataclass(frozen=True)
class Recording:
    """Result of :func:`record`."""

    spec: SourceSpec
    episodes: int
    """In the dataset, earlier ones included."""
    frames: int
    new_frames: int
    seconds: float
    complete: bool
    """False where it was interrupted: ``resume`` goes on."""


def episode_seed(seed: int, number: int) -> int:
    """The seed of episode ``number`` of a recording."""
    return seed * _SEED_STRIDE + number


def record(
    make_collector: Callable[[], Collector],
    root: str | Path,
    cfg: RecordConfig,
    *,
    frames: int,
    workers: int = 1,
    resume: bool = False,
    on_progress: Callable[[int], None] = lambda frames: None,
    on_open: Callable[[SourceSpec], None] = lambda spec: None,
) -> Recording:
    """Record into the dataset ``root`` until its episodes have ``frames`` frames, or until Ctrl-C.

    Args:
        make_collector: makes a worker's collector, in the worker's process: it must be importable from there.
        root: the dataset's folder.
        cfg: what to record.
        frames: how many frames the dataset shall have at least; whole episodes are kept.
        workers: processes that play.
        resume: go on with the recording in ``root``, if there is one.
        on_progress: called with the number of frames that there are.
        on_open: called with what will be recorded, before anything is.

    Raises:
        StorageError: ``root`` cannot be written.
        DataError: ``root`` holds data and ``resume`` is not set, or holds another recording.
        SourceError: a worker failed.
        DependencyError: a package is missing that the source or the files need.
    """
    if cfg.codec != "raw":
        require_av()
    require_pyarrow()  # now, not after a worker's first episode
    spec, root = _spec(make_collector), Path(root)
    layout = Layout(root)
    with _exclusive(root):
        _check_root(root, cfg, resume)
        on_open(spec)
        sweep(layout.shards)
        index = _EpisodeIndex(layout)
        before, started = index.frames, time.monotonic()
        complete = _fill(_WorkerPool(make_collector, spec, layout, cfg, workers), index, frames, on_progress)
        seconds = time.monotonic() - started
        gather(root, spec, index.ready(frames))
        if complete:
            index.discard_rest()
        rows = read_episodes(layout)
    total = sum(row.length for row in rows)
    return Recording(spec, len(rows), total, index.frames - before, seconds, complete)


class _EpisodeIndex:
    """Index of recorded episodes: those of the dataset, then whole shards, possibly with gaps."""

    def __init__(self, layout: Layout) -> None:
        self._shards = layout.shards
        gathered = read_episodes(layout)
        self._gathered = len(gathered)
        self._gathered_frames = sum(row.length for row in gathered)
        found = find_shards(layout.shards)
        for number, shard in found.items():
            if number < self._gathered:  # a crash came between the gathering and the removal
                shard.remove()
        self._lengths = {n: shard.length for n, shard in found.items() if n >= self._gathered}
        self._assigned = set(self._lengths)

    @property
    def frames(self) -> int:
        """Number of frames so far."""
        return self._gathered_frames + sum(self._lengths.values())

    def take_number(self) -> int:
        """Return the first episode that is neither recorded nor assigned."""
        number = self._gathered
        while number in self._assigned:
            number += 1
        self._assigned.add(number)
        return number

    def add(self, number: int, length: int) -> None:
        self._lengths[number] = length

    def ready(self, frames: int) -> list[Shard]:
        """Return the shards that follow the dataset without a gap, as many as bring it to ``frames``."""
        total, number, shards = self._gathered_frames, self._gathered, []
        while total < frames and number in self._lengths:
            shards.append(Shard(self._shards, number))
            total += self._lengths[number]
            number += 1
        return shards

    def is_enough(self, frames: int) -> bool:
        return self._gathered_frames + sum(self._lengths[s.number] for s in self.ready(frames)) >= frames

    def discard_rest(self) -> None:
        """Remove what was recorded beyond the frames that were asked for."""
        for shard in find_shards(self._shards).values():
            shard.remove()
        with contextlib.suppress(OSError):
            self._shards.rmdir()


class _WorkerPool:
    """Worker processes; each receives episode numbers by a pipe and sends (number, length) or an error."""

    def __init__(
        self,
        make_collector: Callable[[], Collector],
        spec: SourceSpec,
        layout: Layout,
        cfg: RecordConfig,
        workers: int,
    ) -> None:
        if workers < 1:
            raise DataError("a recording needs at least one worker", workers)
        self._job = _Job(make_collector, spec, layout.shards, cfg)
        self._workers = workers
        self._context = multiprocessing.get_context("spawn")

    def __enter__(self) -> list[Connection]:
        self._processes, pipes = [], []
        for _ in range(self._workers):
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_work, args=(self._job, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            pipes.append(ours)
        return pipes

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        sweep(self._job.shards)


@dataclass(frozen=True)
class _Job:
    """Settings of a worker."""

    make_collector: Callable[[], Collector]
    spec: SourceSpec
    shards: Path
    cfg: RecordConfig


def _fill(pool: _WorkerPool, index: _EpisodeIndex, frames: int, on_progress: Callable[[int], None]) -> bool:
    """Record until ``frames`` are there; False where Ctrl-C came first."""
    on_progress(index.frames)
    if index.is_enough(frames):
        return True
    try:
        with pool as pipes:
            for pipe in pipes:
                pipe.send(index.take_number())
            while not index.is_enough(frames):
                ready = wait(pipes)
                for pipe in (pipe for pipe in pipes if pipe in ready):
                    index.add(*_receive(pipe))
                    pipe.send(index.take_number())
                on_progress(index.frames)
    except KeyboardInterrupt:
        return False
    return True


def _receive(pipe: Connection) -> tuple[int, int]:
    try:
        message = pipe.recv()
    except EOFError as error:
        rule = "a recording worker must live until it is stopped"
        raise SourceError(
            rule, None, "it was killed, perhaps for want of memory; go on with --resume"
        ) from error
    if isinstance(message, str):
        raise SourceError("a source must play its episodes", message, "fix it and continue with --resume")
    number, length = message
    return number, length


def _work(job: _Job, pipe: Connection) -> None:
    """Run a worker: it ends with SIGTERM, or when the pipe breaks because the recorder is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the recorder decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with contextlib.suppress(BrokenPipeError, ConnectionResetError), contextlib.ExitStack() as stack:
        try:
            collector = job.make_collector()
            stack.callback(collector.close)
            while True:
                number = pipe.recv()
                episode = collector.play(episode_seed(job.cfg.seed, number))
                write_shard(Shard(job.shards, number), episode, job.spec, job.cfg.codec)
                pipe.send((number, len(episode)))
        except Exception as error:  # sent where there is still someone to read it
            pipe.send(f"{type(error).__name__}: {error}")


def _spec(make_collector: Callable[[], Collector]) -> SourceSpec:
    """The source's spec. A source that cannot be opened fails here, before there are workers."""
    collector = make_collector()
    try:
        return collector.spec
    finally:
        collector.close()


def _check_root(root: Path, cfg: RecordConfig, resume: bool) -> None:
    path = root / "recording.json"
    if not path.exists():
        if (root / "meta").exists():
            raise DataError("the folder must not hold another dataset", str(root), "choose another one")
        config.save(cfg, path)
        return
    if not resume:
        raise DataError(
            "the folder must not hold a recording", str(root), "add --resume, or choose another one"
        )
    found = config.load(RecordConfig, path)
    if found != cfg:
        raise DataError("a resumed recording must have the same settings", cfg, f"it was begun with {found}")


@contextlib.contextmanager
def _exclusive(root: Path) -> Iterator[None]:
    check_writable(root)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(root, wait=False))
        except BlockingIOError as error:
            rule = "only one recorder may write to a folder"
            raise DataError(rule, str(root), "wait for the other") from error
        yield
