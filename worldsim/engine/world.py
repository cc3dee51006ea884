"""A loaded world: makes engines and batches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch

from worldsim.checkpoint import CHECKSUMS, StoredWorld, find_world, load_world
from worldsim.context import Context
from worldsim.engine.batch import WorldBatch
from worldsim.engine.engine import Engine
from worldsim.engine.loaded_world import LoadedWorld
from worldsim.engine.precision import best_dtype
from worldsim.engine.smoke_test import smoke_test
from worldsim.engine.temperature import Temperature
from worldsim.errors import CheckpointError, EngineError
from worldsim.kernels.library import active_variant
from worldsim.networks import find_device
from worldsim.units import read_unit, unit_text


class World(LoadedWorld):
    """A trained world, ready to run. Made by :func:`load`."""

    def __init__(self, stored: StoredWorld, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(stored, device, dtype)
        self.origin: str | None = None
        """Name or folder that it was loaded by. A pickle holds this and ``weights_sha256``."""
        self._by_unit: dict[str, World] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the world as its name or folder and the hash of its weights.

        Raises:
            EngineError: it was not loaded from files.
        """
        if self.origin is None:
            raise EngineError("a world must be loaded from files to be pickled", self.name, "use load()")
        return _load_again, (self.origin, self.weights_sha256, str(self.device), self.dtype, self.unit)

    def for_unit(self, unit: str | None) -> World:
        """The world under another unit that it was trained for; both share the weights' memory.

        Args:
            unit: e.g. "frame" or "cube:4/2x2x2", see ``worldsim.units.read_unit``; None: this one.

        Raises:
            ConfigError: it was not trained for this unit; the message has the units that it knows.
        """
        if unit is None or unit == self.unit:
            return self
        config = read_unit(unit)
        if unit_text(config) == self.unit:
            return self
        if unit not in self._by_unit:
            networks = self.networks.for_unit(config)
            changed = replace(self.config, networks=networks.config)
            stored = replace(self._stored, config=changed, networks=networks)
            self._by_unit[unit] = World(stored, self.device, self.dtype)
        world = self._by_unit[unit]
        world.origin = self.origin
        return world

    def engine(
        self,
        slots: int = 8,
        context: int | None = None,
        denoising_steps: int | None = None,
        rewind_frames: int = 64,
        offload_bytes: int = 0,
        unit: str | None = None,
    ) -> Engine:
        """Make an engine for up to ``slots`` sessions at a time, and more that are offloaded.

        Args:
            slots: sessions that are stepped in one batch.
            context: units of past that the generator sees (default: what it was trained with).
            denoising_steps: denoising passes per frame, K, e.g. 1, 2 or 4 (default: the sampler's).
            rewind_frames: frames kept for rewinding in each session; each takes about 0.4 MB.
            offload_bytes: host memory for sessions beyond the slots; they are loaded when stepped.
            unit: one of ``units``, which is predicted in each autoregressive step (default: the first).

        Raises:
            EngineError: no slot, negative rewind_frames or offload_bytes, or too short or long a context.
            ConfigError: another number of denoising passes, or a unit that it was not trained for.
        """
        world = self.for_unit(unit)
        return Engine(world, slots, context, denoising_steps, rewind_frames, offload_bytes)

    def batch(
        self,
        count: int,
        context: int | None = None,
        denoising_steps: int | None = None,
        temperature: Temperature = 1.0,
        decode: bool = True,
    ) -> WorldBatch:
        """Make ``count`` worlds that are always stepped together, in tensors on the world's device.

        Args:
            count: how many.
            context: frames of past that the generator sees (default: what it was trained with).
            denoising_steps: denoising passes per frame, K, e.g. 1, 2 or 4 (default: the sampler's).
            temperature: factor of the sampled noise, in [0, 10]; see ``Engine.open``. Of (low, high) each
                world has one of its own, which follows from its seed.
            decode: False: frames are left empty. On a CPU each core then steps its share of the worlds at
                once, which is several times as fast; the last bits may depend on ``count``.

        Raises:
            EngineError: no world, no such temperature, or too short a context.
            ConfigError: another number of denoising passes.
        """
        return WorldBatch(self, count, context, denoising_steps, temperature, decode)

    def with_starts(self, starts: Sequence[Context]) -> World:
        """The same networks with other starts; the world cannot be pickled.

        Raises:
            ControlError, DataError: starts whose controls the world does not take.
        """
        fitted = tuple(start.fitted(self.spec.control_space) for start in starts)
        return World(replace(self._stored, starts=fitted), self.device, self.dtype)


def load(
    name: str | os.PathLike[str], device: str | torch.device = "auto", dtype: torch.dtype | None = None
) -> World:
    """Load a world by its shipped name or folder.

    Loaded again in the same process while it is held, it is the same object: its weights do not change.

    Args:
        name: e.g. "doom-maze", or a folder that ``worldsim train`` wrote.
        device: "auto" (CUDA where there is one), "cpu", "cuda", ...
        dtype: bfloat16 or float32. By default float32 where kernels make the frames, else what torch
            multiplies faster here.

    Raises:
        CheckpointError: there is no such world, its files are damaged, or its parts do not fit each other.
        EngineError: the device is not there.
    """
    place, folder = find_device(device), find_world(name)
    files, kernels = _files_of(folder), active_variant()
    world = _loaded.get((files, place, dtype, kernels))
    if world is None:
        stored = load_world(folder, place)
        smoke_test(stored)
        world = World(stored, place, dtype or best_dtype(stored.networks))
        world = _loaded.get((files, place, world.dtype, kernels), world)  # asked for by its type before
        for given in {dtype, world.dtype}:
            _loaded[files, place, given, kernels] = world
    is_shipped = not Path(name).is_dir()
    world.origin = os.fspath(name) if is_shipped else str(folder.resolve())
    return world


_loaded: WeakValueDictionary[tuple[object, ...], World] = WeakValueDictionary()
"""Worlds of this process while anybody holds them."""


def _files_of(folder: Path) -> tuple[object, ...]:
    """The state of a world's files: another one after any was written."""
    is_world = (folder / CHECKSUMS).is_file()  # of any other folder, which may be large, nothing is read
    paths = sorted(path for path in folder.rglob("*") if path.is_file()) if is_world else []
    stats = [(str(path), path.stat()) for path in paths]
    return (str(folder.resolve()), *((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


def _load_again(
    origin: str, weights_sha256: str, device: str, dtype: torch.dtype, unit: str | None = None
) -> World:
    """A pickled world, by name or folder.

    Raises:
        CheckpointError: it is not there, or has other weights.
    """
    world = load(origin, device, dtype)
    if world.weights_sha256 != weights_sha256:
        rule, remedy = "a pickled world must have the weights it had", "pickle it again"
        raise CheckpointError(
            rule, f"{origin}: {world.weights_sha256[:12]}, not {weights_sha256[:12]}", remedy
        )
    return world.for_unit(unit)
