"""The log: whole records come back, torn ends are cut off and kept, every damage is noticed."""

from __future__ import annotations

import errno
import logging
import os
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsim.bridge.journal.wal import (
    LogPosition,
    WriteAheadLog,
    normalized,
    read_wal,
    save_torn_tail,
    write_wal,
)
from worldsim.errors import BridgeError

RECORDS = [{"op": "step", "seq": seq, "control": {"keys": ["forward"] * seq}} for seq in range(5)]


def written(folder: Path, count: int = len(RECORDS)) -> tuple[Path, list[LogPosition]]:
    """A log of some records, and where it ends after each number of them."""
    path = folder / "log"
    end = write_wal(path, [])
    ends = [end]
    for record in RECORDS[:count]:
        end = end.add(record)[1]
        ends.append(end)
    log = WriteAheadLog(path, ends[0])
    log.append(RECORDS[:count])
    assert log.end == ends[-1]
    log.close()
    return path, ends


def test_records_come_back(tmp_path: Path) -> None:
    path, ends = written(tmp_path)
    log = WriteAheadLog(path, ends[-1])
    log.append([{"op": "close", "blob": b"\x00\xff"}])
    log.sync()
    log.close()
    log.close()
    found = read_wal(path)
    assert found.records == [*RECORDS, {"op": "close", "blob": b"\x00\xff"}]
    assert (found.end.size, found.torn) == (path.stat().st_size, b"")


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600


@given(cut=st.integers(0, 400))
def test_whatever_is_torn_off_the_whole_records_before_it_stay(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path, ends = written(tmp_path_factory.mktemp("log"))
    cut = min(ends[0].size + cut, ends[-1].size)
    os.truncate(path, cut)
    found = read_wal(path)
    count = max(number for number, end in enumerate(ends) if end.size <= cut)
    assert (found.records, found.end) == (RECORDS[:count], ends[count])
    assert len(found.torn) == cut - ends[count].size
    log = WriteAheadLog(path, found.end)
    log.append([{"op": "next"}])
    log.close()
    assert read_wal(path).records == [*RECORDS[:count], {"op": "next"}]


@pytest.mark.parametrize("size", [0, 3, 19])
def test_a_log_without_a_whole_beginning_is_none(tmp_path: Path, size: int) -> None:
    path, _ = written(tmp_path)
    os.truncate(path, size)
    with pytest.raises(BridgeError, match="must begin"):
        read_wal(path)


def test_what_is_torn_off_is_kept_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, ends = written(tmp_path)
    os.truncate(path, ends[-1].size - 3)
    found = read_wal(path)
    save_torn_tail(path, found)
    (tail,) = tmp_path.glob("torn-*")
    assert tail.read_bytes() == found.torn == path.read_bytes()[ends[-2].size :]
    assert tail.stat().st_mode & 0o777 == 0o600
    assert tail.name in caplog.text


def test_zeros_at_the_end_are_what_a_loss_of_power_leaves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, ends = written(tmp_path)
    os.truncate(path, ends[-1].size + 4096)
    found = read_wal(path)
    assert (found.records, found.end) == (RECORDS, ends[-1])
    save_torn_tail(path, found)
    assert not list(tmp_path.glob("torn-*"))
    assert "zeros" in caplog.text


def noticed(path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> str:
    """How the damage of a log shows: "refused", "kept" (its last record is in a file), or not at all."""
    path.write_bytes(data)
    caplog.clear()
    try:
        found = read_wal(path)
    except BridgeError:
        return "refused"
    save_torn_tail(path, found)
    tails = list(path.parent.glob("torn-*"))
    kept = [tail.read_bytes() for tail in tails]
    for tail in tails:
        tail.unlink()
    return "kept" if kept == [found.torn] and caplog.text and found.end.size < len(data) else ""


@pytest.mark.slow
def test_every_flipped_bit_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """100 % of them; those of the last record alone look like one that was torn."""
    caplog.set_level(logging.WARNING, "worldsim")
    path, ends = written(tmp_path)
    data = path.read_bytes()
    for bit in range(8 * len(data)):
        bent = bytearray(data)
        bent[bit // 8] ^= 1 << bit % 8
        assert noticed(path, bytes(bent), caplog) == ("kept" if bit // 8 >= ends[-2].size else "refused")


@pytest.mark.parametrize("kind", ["missing", "doubled", "exchanged", "of another log", "zeroed"])
def test_every_misplaced_record_is_noticed(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, ends = written(tmp_path)
    data, chance = path.read_bytes(), random.Random(3)
    parts = [data[a.size : b.size] for a, b in pairwise(ends)]
    (tmp_path / "other").mkdir()
    other = written(tmp_path / "other")[0].read_bytes()
    for at in range(len(parts) - 1):
        changed = list(parts)
        if kind == "missing":
            del changed[at]
        elif kind == "doubled":
            changed.insert(chance.randint(at, len(parts)), parts[at])
        elif kind == "exchanged":
            changed[at], changed[at + 1] = changed[at + 1], changed[at]
        elif kind == "zeroed":
            changed[at] = bytes(len(parts[at]))
        else:
            changed[at] = other[ends[at].size : ends[at + 1].size]
        bent = data[: ends[0].size] + b"".join(changed)
        assert noticed(path, bent, caplog) == "refused"
        assert path.read_bytes() == bent


def test_what_a_client_sends_does_not_look_like_a_record(tmp_path: Path) -> None:
    """A torn record that holds the bytes of a whole one is still torn: they are of another salt."""
    path, ends = written(tmp_path)
    (tmp_path / "other").mkdir()
    whole = written(tmp_path / "other")[0].read_bytes()
    log = WriteAheadLog(path, ends[-1])
    log.append([{"op": "step", "note": whole + bytes(100)}])
    log.close()
    os.truncate(path, path.stat().st_size - 20)
    assert read_wal(path).records == RECORDS


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ends = written(tmp_path)
    log = WriteAheadLog(path, ends[-1])
    write = os.write

    def half(file: int, data: memoryview) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) - 10])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(BridgeError, match="No space left") as caught:
        log.append(RECORDS)
    assert caught.value.code == "UNAVAILABLE"
    monkeypatch.undo()
    assert read_wal(path).end == log.end == ends[-1]
    log.append([{"op": "next"}])
    log.close()
    assert read_wal(path).records == [*RECORDS, {"op": "next"}]


def test_a_record_reads_as_it_will_be_read() -> None:
    assert normalized({"size": (60, 80)}) == {"size": [60, 80]}
