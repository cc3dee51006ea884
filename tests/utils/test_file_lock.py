"""Locks between processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE
from worldsim.utils.file_lock import file_lock

HOLD = """
import sys
from pathlib import Path
from worldsim.utils.file_lock import file_lock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_ends_with_its_process_and_leaves_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError), file_lock(folder, wait=False):
            pass
    finally:
        holder.kill()
        holder.communicate(timeout=PATIENCE)
    with file_lock(folder, wait=False):
        assert list(folder.iterdir()) == []
    assert list(folder.iterdir()) == []


def test_a_lock_is_released_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), file_lock(tmp_path):
        1 / 0  # noqa: B018
    with file_lock(tmp_path, wait=False):
        pass
