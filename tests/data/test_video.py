"""Videos hold exactly the frames that went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldsim.data.video import CODECS, decode, encode, join
from worldsim.errors import DataError

FPS = 17.5


def noise(count: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def scenery(count: int) -> np.ndarray:
    """Smooth colours from black to white that move: what a video codec is made for."""
    t, y, x = np.meshgrid(np.arange(count), np.arange(48), np.arange(64), indexing="ij")
    waves = [np.sin(0.1 * x + 0.2 * t), np.cos(0.13 * y - 0.1 * t), np.sin(0.05 * (x + y))]
    return np.rint(127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / ((a.astype(np.float64) - b) ** 2).mean()))


@pytest.mark.parametrize("size", [(24, 32), (17, 23)])
def test_lossless_gives_back_every_pixel(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = noise(40, size)
    encode(tmp_path / "v.mp4", frames, FPS, "lossless")
    np.testing.assert_array_equal(np.stack(list(decode(tmp_path / "v.mp4", 0, 40, FPS))), frames)


def test_compact_keeps_colours_and_range(tmp_path: Path) -> None:
    frames = scenery(40)
    encode(tmp_path / "v.mp4", frames, FPS, "compact")
    decoded = np.stack(list(decode(tmp_path / "v.mp4", 0, 40, FPS)))
    assert psnr(frames, decoded) >= 38
    assert np.abs(decoded.astype(float).mean((0, 1, 2)) - frames.mean((0, 1, 2))).max() < 1
    assert decoded.min() <= 3
    assert decoded.max() >= 252


@pytest.mark.slow
@pytest.mark.parametrize("codec", list(CODECS))
def test_joined_videos_are_cut_at_exact_frames(tmp_path: Path, codec: str) -> None:
    lengths = [1, 31, 70, 2]
    parts = [tmp_path / f"{i}.mp4" for i in range(len(lengths))]
    for part, length in zip(parts, lengths, strict=True):
        encode(part, noise(length), FPS, codec)  # type: ignore[arg-type]
    join(parts, FPS, tmp_path / "all.mp4")
    start = 0
    for part, length in zip(parts, lengths, strict=True):
        alone = np.stack(list(decode(part, 0, length, FPS)))
        joined = np.stack(list(decode(tmp_path / "all.mp4", start, length, FPS)))
        np.testing.assert_array_equal(joined, alone)
        start += length
    middle = next(decode(tmp_path / "all.mp4", 1 + 31 + 45, 1, FPS))
    np.testing.assert_array_equal(middle, next(decode(parts[2], 45, 1, FPS)))


def test_a_frame_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    encode(tmp_path / "v.mp4", noise(5), FPS, "lossless")
    with pytest.raises(DataError, match="must hold frames"):
        list(decode(tmp_path / "v.mp4", 3, 3, FPS))
    with pytest.raises(DataError, match="readable"):
        list(decode(tmp_path / "none.mp4", 0, 1, FPS))
