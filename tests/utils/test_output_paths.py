"""Outputs are tried before the work, stay where they are, and errors of the system are one typed line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from worldsim.errors import StorageError
from worldsim.utils.output_paths import check_writable, claim_file, claim_folder, unused_paths
from worldsim.utils.run_command import run_command


def test_what_is_there_stays_unless_one_says_so(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    claim_file(file, replace=False)
    assert not file.exists(), "a claim leaves nothing behind"
    file.write_text("{}")
    with pytest.raises(StorageError, match=r"overwritten unasked.*figures\.json.*--force"):
        claim_file(file, replace=False)
    claim_file(file, replace=True)
    with pytest.raises(StorageError, match="--resume"):
        claim_folder(tmp_path, ["state", "figures.json"], replace=False, remedy="add --resume")
    claim_folder(tmp_path, ["state"], replace=False)
    claim_folder(tmp_path, ["figures.json"], replace=True)
    assert file.read_text() == "{}"
    with pytest.raises(StorageError, match="name of a folder"):
        claim_file(tmp_path, replace=True)


def test_folders_are_made_and_left_empty(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    with pytest.raises(StorageError, match="c"):
        check_writable(tmp_path / "c", parents=False)


def test_what_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "run", Path("/proc/run"), tmp_path / ("x" * 300)):
        with pytest.raises(StorageError, match="the system must allow"):
            check_writable(place)
        with pytest.raises(StorageError, match="the system must allow"):
            claim_folder(place, [], replace=False)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_full_and_read_only_disks_are_refused_with_a_remedy(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    with pytest.raises(StorageError) as refused:
        claim_file(tmp_path / "x.json", replace=False)
    assert str(tmp_path) in str(refused.value)
    assert os.strerror(number) in str(refused.value)
    assert refused.value.remedy


def test_devices_are_written_to_as_they_are() -> None:
    claim_file(Path("/dev/null"), replace=False)


def test_free_paths_are_numbered_together(tmp_path: Path) -> None:
    stem = tmp_path / "play"
    assert unused_paths(stem, ".mp4", ".png") == [tmp_path / "play.mp4", tmp_path / "play.png"]
    (tmp_path / "play.png").write_text("")
    (tmp_path / "play-1.mp4").write_text("")
    assert unused_paths(stem, ".mp4", ".png") == [tmp_path / "play-2.mp4", tmp_path / "play-2.png"]


def test_a_command_tells_errors_of_the_system_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")

    assert run_command(fail) == 2
    told = capsys.readouterr().err
    assert told == (
        "worldsim: the system must allow what a command does; got '/data/x: No space left on device'; "
        "make room on the disk, or choose another place\n"
    )
    assert run_command(lambda: 3) == 3
