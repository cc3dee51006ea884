"""Worlds that somebody else made: one kind of error, found before memory or kernels see what is wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save

from benchmarks.stress.corrupt_checkpoints import _bomb, corrupt, rewrite_checksums
from tests.tiny import lively_world
from worldsim.controls import Control
from worldsim.engine.world import load
from worldsim.errors import CheckpointError
from worldsim.untrusted import check_numbers, read_bounded

Change = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return lively_world(tmp_path)


def entry(path: str, value: Any) -> Change:
    """A config with one entry changed; ``path`` is dotted."""

    def change(folder: Path) -> None:
        row = json.loads((folder / "config.json").read_text())
        holder = row
        *lead, last = path.split(".")
        for key in lead:
            holder = holder[key]
        holder[last] = value
        (folder / "config.json").write_text(json.dumps(row))

    return change


def small_frames(folder: Path) -> None:
    entry("source.size", [1, 1])(folder)
    for path in (folder / "starts").glob("*.png"):
        Image.fromarray(np.zeros((3, 1, 3), np.uint8)).save(path)


def number(value: float) -> Change:
    def change(folder: Path) -> None:
        path = folder / "weights.safetensors"
        tensors = load_tensors(path.read_bytes())
        name = next(name for name in sorted(tensors) if tensors[name].is_floating_point())
        tensors[name].view(-1)[0] = value
        path.write_bytes(save(tensors))

    return change


def start(key: str, value: Any) -> Change:
    def change(folder: Path) -> None:
        rows = json.loads((folder / "starts.json").read_text())
        rows[0][key] = value
        (folder / "starts.json").write_text(json.dumps(rows))

    return change


CASES: dict[str, Change] = {
    "no samples": entry("networks.tokenizer.scene.samples", 0),
    "one sample": entry("networks.tokenizer.scene.samples", 1),
    "frames of one pixel": small_frames,
    "many layers": entry("networks.generator.layers", 10**7),
    "many twists": entry("networks.heads.twists", 10**6),
    "wide": entry("networks.generator.width", 16384),
    "far bounds": entry("networks.tokenizer.scene.bounds", [-1e5, -1e5, 1e5, 1e5]),
    "small cells": entry("networks.tokenizer.scene.wall_cell", 1e-9),
    "long context": entry("networks.generator.context", 10**9),
    "no heads": entry("networks.generator.heads", 0),
    "nan": number(float("nan")),
    "infinite": number(float("inf")),
    "a bomb": lambda folder: (folder / "starts" / "000.png").write_bytes(_bomb(20_000)) and None,
    "a negative length": start("length", -1),
    "a wild pose": start("poses", [[[9.0] * 4] * 4] * 3),
    "controls that are nan": start("controls", [[float("nan")] * 7] * 3),
    "a deep nest": lambda folder: (folder / "starts.json").write_text("[" * 100_000) and None,
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_hold_is_one_error(folder: Path, case: str) -> None:
    CASES[case](folder)
    rewrite_checksums(folder)
    with pytest.raises(CheckpointError):
        load(folder, "cpu", torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["history", "frame"])
def test_bent_worlds_are_refused_or_run(tmp_path: Path, kind: str) -> None:
    """Only CheckpointErrors, and what loads dreams."""
    true = lively_world(tmp_path, "true", tokenizer=kind, poses=kind == "history")
    chance, refused = random.Random(11), 0
    for _ in range(100):
        corrupt(chance, true, tmp_path / "bent")
        try:
            world = load(tmp_path / "bent", "cpu", torch.float32)
        except CheckpointError:
            refused += 1
            continue
        if world.starts:
            session = world.engine(1, denoising_steps=1).open(1, start=0)
            uncertainty = session.step(Control()).uncertainty
            assert uncertainty is None or np.isfinite(uncertainty)  # without poses there is none
    assert refused > 50


def test_long_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(bytes(100))
    assert len(read_bounded(path, 100)) == 100
    with pytest.raises(CheckpointError, match="at most 99 bytes"):
        read_bounded(path, 99)


@pytest.mark.parametrize(
    "row", [{"layers": 0}, {"a": 1e9}, {"a": [float("nan")]}, {"a": 2**40}, ["x" * 20_000]]
)
def test_numbers_have_limits(row: object) -> None:
    with pytest.raises(CheckpointError):
        check_numbers(row)
