"""BlobStore: whole or not there, found again, told from damaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldsim.bridge.journal.blob_store import BlobStore
from worldsim.errors import BridgeError


def test_bytes_come_back(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    stored = blobs.store({"op": "open", "blob": b"\x00bytes"})
    assert stored["blob"] != b"\x00bytes"
    assert BlobStore(tmp_path / "blobs").load(stored)["blob"] == b"\x00bytes"
    plain = {"op": "open"}
    assert blobs.store(plain) is plain
    assert blobs.load(plain) is plain


def test_names_are_never_used_again(tmp_path: Path) -> None:
    names = {BlobStore(tmp_path).save(b"x") for _ in range(3)} | {BlobStore(tmp_path).save(b"x")}
    assert len(names) == 4
    assert {path.name for path in BlobStore(tmp_path).unreferenced({min(names)})} == names - {min(names)}


def test_what_an_interrupted_write_left_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "000000000001.tmp").write_bytes(b"half")
    BlobStore(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_a_spoilt_one_is_noticed(tmp_path: Path, harm: str) -> None:
    stored = BlobStore(tmp_path).store({"blob": b"bytes"})
    path = tmp_path / stored["blob"]
    path.write_bytes(b"bytez") if harm == "damaged" else path.unlink()
    with pytest.raises(BridgeError, match=harm):
        BlobStore(tmp_path).load(stored)


def test_files_that_are_needed_no_more_need_not_come_to_the_disk(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    first, second = (blobs.save(blob, synced=False) for blob in (b"a", b"b"))
    (tmp_path / "blobs" / first).unlink()
    assert (blobs.unsynced, blobs.written_count) == (2, 2)
    blobs.sync()
    assert blobs.unsynced == 0
    assert (tmp_path / "blobs" / second).read_bytes() == b"b"
