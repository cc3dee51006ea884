"""Compression by a world: round trips, in this process and in another, and files that do not fit."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.contracts.worlds import SIZE, Parts, source, write_world
from worldsim.compression.coder import BitCounter
from worldsim.compression.compress import compress
from worldsim.compression.decompress import decompress, main
from worldsim.compression.frames import code_frames, surprise
from worldsim.engine import World, load
from worldsim.errors import CheckpointError, ConfigError, DataError
from worldsim.testing import tiny_world
from worldsim.tokenizer.protocol import quantises_scales

FRAMES = 6
PARTS = Parts("next-scale", "bits", "next-scale", "next-scale", prior="none")


@pytest.fixture(scope="module", params=["none", "clip"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = replace(PARTS, prior=request.param)
    return write_world(tmp_path_factory.mktemp("compression") / "tiny", parts)


@pytest.fixture(scope="module")
def world(folder: Path) -> World:
    return load(folder, "cpu", torch.float32)


def play(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frames and controls."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (FRAMES, *SIZE, 3), dtype=np.uint8)
    return frames, rng.integers(0, 2, (FRAMES, source().control_space.size)).astype(np.float32)


@pytest.fixture(scope="module")
def file(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("constriction")
    path = tmp_path_factory.mktemp("files") / "play.bits"
    path.write_bytes(compress(world, *play()))
    return path


def test_what_was_written_is_read(world: World, file: Path) -> None:
    frames, controls = play()
    found = decompress(world, file)
    np.testing.assert_array_equal(found.controls, controls)
    coded = list(code_frames(world, BitCounter(), controls, frames))
    np.testing.assert_array_equal(found.bits, np.stack([one.bits for one in coded]))
    np.testing.assert_array_equal(found.frames, np.stack([one.frame for one in coded]))
    tokenizer = quantises_scales(world.networks.tokenizer)
    with torch.no_grad():
        true, each = torch.from_numpy(frames).movedim(-1, -3) / 127.5 - 1, world.unit_frames
        clips = true.unflatten(0, (-1, each)) if each > 1 else true
        bits = tokenizer.quantise(tokenizer.planes(clips)).bits.repeat_interleave(each, 0)
    assert (found.bits == bits.numpy()).mean() > 0.99  # but for rounding


@pytest.mark.slow
def test_another_process_reads_the_same(world: World, folder: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "play.npz"
    line = [sys.executable, "-m", "worldsim.cli", "decompress", str(folder), str(file), str(out)]
    subprocess.run(line, check=True, capture_output=True)
    here = decompress(world, file)
    with np.load(out) as there:
        np.testing.assert_array_equal(there["frames"], here.frames)
        np.testing.assert_array_equal(there["bits"], here.bits)
        np.testing.assert_array_equal(there["controls"], here.controls)


def test_the_file_is_as_long_as_the_frames_surprise(world: World, file: Path) -> None:
    frames, controls = play()
    bits = surprise(world, frames, controls)
    spec = world.networks.tokenizer.latent_spec
    assert bits.shape == (FRAMES,)
    first = bits[: world.unit_frames].sum()
    assert first == pytest.approx(spec.tokens * spec.channels)  # the first latent follows nothing
    assert (bits > 0).all()
    payload = file.stat().st_size - 700
    assert payload < bits.sum() / 8 + 100


@pytest.mark.parametrize("cut", [0, 3, 20, 200, -1, -40])
def test_a_file_that_was_cut_short_is_refused(world: World, file: Path, tmp_path: Path, cut: int) -> None:
    part = tmp_path / "part.bits"
    part.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(DataError, match="compress"):
        decompress(world, part)


def test_a_file_that_was_changed_or_is_missing_is_refused(world: World, file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-60] ^= 1
    changed = tmp_path / "changed.bits"
    changed.write_bytes(data)
    with pytest.raises(DataError, match="whole and unchanged"):
        decompress(world, changed)
    with pytest.raises(DataError, match="readable"):
        decompress(world, tmp_path / "none.bits")


def test_other_weights_are_refused(file: Path, tmp_path: Path) -> None:
    parts = Parts("next-scale", "bits", "next-scale", "next-scale", prior="none")
    folder = write_world(tmp_path / "other", parts, prompts=("rain",))
    with pytest.raises(CheckpointError, match="weights that it was written with"):
        decompress(load(folder, "cpu", torch.float32), file)


def test_a_world_without_bits_is_refused(tmp_path: Path) -> None:
    other = load(tiny_world(tmp_path), "cpu", torch.float32)
    frames = np.zeros((1, *other.spec.size, 3), np.uint8)
    with pytest.raises(ConfigError, match="bits on several scales"):
        compress(other, frames, np.zeros((1, other.networks.control_size), np.float32))


def resealed(data: bytes, old: bytes, new: bytes) -> bytes:
    """A file with a part of its header replaced by one as long, and its checksum made anew."""
    assert len(old) == len(new)
    body = data[:-32].replace(old, new, 1)
    return body + hashlib.sha256(body).digest()


def test_a_header_that_tells_of_other_frames_is_refused(world: World, file: Path, tmp_path: Path) -> None:
    forged = tmp_path / "forged.bits"
    forged.write_bytes(resealed(file.read_bytes(), b'"frames": 6', b'"frames": 9'))
    with pytest.raises(DataError, match="bytes of controls"):
        decompress(world, forged)
    forged.write_bytes(resealed(file.read_bytes(), b'"frames": 6', b'"frames":"6'))
    with pytest.raises(DataError, match="must have its header"):
        decompress(world, forged)


@pytest.mark.parametrize("damage", ["cut", "changed", "weights"])
def test_a_file_that_is_refused_leaves_nothing_behind(
    folder: Path, file: Path, tmp_path: Path, damage: str
) -> None:
    data, bad, out = file.read_bytes(), tmp_path / "bad.bits", tmp_path / "out" / "play.npz"
    out.parent.mkdir()
    hashed = load(folder, "cpu", torch.float32).weights_sha256.encode()
    damaged = {
        "cut": data[:-100],
        "changed": data[:-60] + bytes([data[-60] ^ 1]) + data[-59:],
        "weights": resealed(data, hashed, b"0" * len(hashed)),
    }
    bad.write_bytes(damaged[damage])
    with pytest.raises((DataError, CheckpointError), match=r"whole and unchanged|weights that it was"):
        main([str(folder), str(bad), str(out)])
    assert list(out.parent.iterdir()) == []
