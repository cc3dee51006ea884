"""Temporary folders are gone with their process, and what was killed is swept up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worldsim.utils.scratch_folder import ScratchFolder

HOLD = """
import sys
from worldsim.utils.scratch_folder import ScratchFolder
folder = ScratchFolder("test")
(folder.path / "file").write_text("x")
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_it_goes_with_its_owner(temporary: Path) -> None:
    closed, dropped = ScratchFolder("a"), ScratchFolder("b")
    assert len(list(temporary.iterdir())) == 2
    closed.close()
    closed.close()
    del dropped
    assert list(temporary.iterdir()) == []


def test_what_was_killed_is_removed_and_what_is_used_stays(temporary: Path) -> None:
    (temporary / "worldsim-tmp-file").write_text("no folder")
    (temporary / "worldsim-tmp-link").symlink_to(temporary)
    (temporary / "others").mkdir()
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        paths = [Path(holder.stdout.readline().strip()) for holder in holders if holder.stdout is not None]
        holders[0].kill()
        holders[0].wait(30)
        assert paths[0].exists(), "nobody could clean up"
        ScratchFolder("young").close()
        assert paths[0].exists(), "it may be one that is being made"
        for path in paths:
            os.utime(path, (0, 0))
        ScratchFolder("next").close()
        assert [path.exists() for path in paths] == [False, True]
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate(timeout=30)
    names = sorted(path.name for path in temporary.iterdir() if path != paths[1])
    assert names == ["others", "worldsim-tmp-file", "worldsim-tmp-link"]
