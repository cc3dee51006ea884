"""Decoded frames are kept beside their dataset, or elsewhere where it cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from tests.training.rooms import write_walks
from worldsim.data import cache
from worldsim.data.cache import find_cache, make_array, user_cache
from worldsim.data.clips import ClipStore
from worldsim.data.layout import Layout
from worldsim.errors import StorageError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return write_walks(tmp_path / "rooms", {1: 6, 20: 5}, codec="lossless")


def refuse(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``folder`` lie on storage that can only be read."""
    true = cache.check_writable

    def check_writable(path: Path) -> None:
        if path.is_relative_to(folder):
            raise StorageError.of(OSError(errno.EROFS, os.strerror(errno.EROFS)), path)
        true(path)

    monkeypatch.setattr(cache, "check_writable", check_writable)


def test_beside_the_dataset_if_it_can_be_written(root: Path) -> None:
    ClipStore(root)
    assert [path.suffix for path in (root / "cache").glob("train-*")] == [".npy"]
    assert not user_cache().exists()


def test_in_the_user_s_cache_if_it_can_only_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = ClipStore(root).frames
    (root / "cache").rename(root.parent / "away")
    refuse(root, monkeypatch)
    elsewhere = ClipStore(root)
    np.testing.assert_array_equal(elsewhere.frames, beside)
    assert not (root / "cache").exists()
    kept = list(user_cache().glob("rooms-*/train-*.npy"))
    assert len(kept) == 1
    (root.parent / "away").rename(root / "cache")
    monkeypatch.setattr(ClipStore, "_decode_all", None)  # what is there is read, and nothing is written
    np.testing.assert_array_equal(ClipStore(root).frames, beside)


def test_where_one_says(root: Path, tmp_path: Path) -> None:
    other = write_walks(tmp_path / "others", {1: 7, 20: 5}, codec="lossless")
    folder = tmp_path / "fast"
    first, second = (ClipStore(it, cache=folder).frames for it in (root, other))
    assert (len(first), len(second)) == (6, 7)
    assert len(list(folder.glob("*/train-*.npy"))) == 2, "datasets do not push each other out"
    assert not (root / "cache").exists()


def test_nowhere_is_one_typed_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(root.parent, monkeypatch)
    with pytest.raises(StorageError, match="Read-only file system"):
        find_cache(Layout(root), "x.npy")


def test_a_full_disk_is_noticed_before_it_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = make_array(tmp_path / "x.npy", (3, 4, 5, 3))
    array[:] = 7
    array.flush()
    assert (np.load(tmp_path / "x.npy") == 7).all()

    def fail(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(StorageError, match="No space left"):
        make_array(tmp_path / "y.npy", (3, 4, 5, 3))
    assert not (tmp_path / "y.npy").exists()
