"""The log: whole records come back, torn ends are cut, damage is noticed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsim.bridge.log import Log, as_read, frame, read_log, write_log
from worldsim.errors import BridgeError

RECORDS = [{"op": "step", "seq": seq, "control": {"keys": ["forward"] * seq}} for seq in range(5)]


def written(folder: Path) -> Path:
    path = folder / "log"
    write_log(path, RECORDS)
    return path


def test_records_come_back(tmp_path: Path) -> None:
    path = written(tmp_path)
    log = Log(path, path.stat().st_size)
    log.append([{"op": "close", "blob": b"\x00\xff"}])
    log.sync()
    log.close()
    log.close()
    assert read_log(path) == ([*RECORDS, {"op": "close", "blob": b"\x00\xff"}], path.stat().st_size)


@given(cut=st.integers(0, len(b"".join(map(frame, RECORDS)))))
def test_whatever_is_torn_off_the_whole_records_before_it_stay(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = written(tmp_path_factory.mktemp("log"))
    os.truncate(path, cut)
    records, size = read_log(path)
    assert records == RECORDS[: len(records)]
    assert size == len(b"".join(map(frame, records))) <= cut
    assert len(records) == len(RECORDS) or cut < size + len(frame(RECORDS[len(records)]))
    log = Log(path, size)
    log.append([{"op": "next"}])
    log.close()
    assert read_log(path)[0] == [*records, {"op": "next"}]


def test_zeros_at_the_end_are_what_a_loss_of_power_leaves(tmp_path: Path) -> None:
    path = written(tmp_path)
    size = path.stat().st_size
    os.truncate(path, size + 4096)
    assert read_log(path) == (RECORDS, size)


@pytest.mark.parametrize("record", range(len(RECORDS) - 1))
def test_damage_before_the_end_is_refused(tmp_path: Path, record: int) -> None:
    path = written(tmp_path)
    at = len(b"".join(map(frame, RECORDS[:record]))) + 12
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(BridgeError, match=r"checksums.*damaged at byte"):
        read_log(path)


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    log = Log(path, path.stat().st_size)
    write = os.write

    def half(file: int, data: memoryview) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) - 10])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(BridgeError, match="No space left"):
        log.append(RECORDS)
    monkeypatch.undo()
    assert read_log(path) == (RECORDS, path.stat().st_size)
    log.append([{"op": "next"}])
    log.close()
    assert read_log(path)[0] == [*RECORDS, {"op": "next"}]


def test_a_record_reads_as_it_will_be_read() -> None:
    assert as_read({"size": (60, 80)}) == {"size": [60, 80]}
