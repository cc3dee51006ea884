"""One server's journal takes over another's sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldsim.bridge.journal.journal import Journal
from worldsim.errors import BridgeError


def filled(folder: Path, session: str, lease: str) -> None:
    with Journal(folder, {"weights_sha256": "d"}, rewind_frames=2) as journal:
        journal.append({"op": "lease", "lease": lease})
        journal.append({"op": "restore", "session": session, "lease": lease, "blob": session.encode()})
        journal.append({"op": "step", "session": session, "seq": 1, "control": {}})
        frame = {"shape": [1], "blob": f"frame {session}".encode()}
        journal.append({"op": "observe", "session": session, "seq": 2, "control": {}, **frame})


def test_sessions_move_with_all_that_a_replay_needs(tmp_path: Path) -> None:
    filled(tmp_path / "old", "a", "shared")
    filled(tmp_path / "new", "b", "shared")
    new = Journal(tmp_path / "new", {"weights_sha256": "d"}, rewind_frames=2)
    with new, new.open_sibling(tmp_path / "old") as other:
        new.take_over(other)
        assert (other.recover(), other.leases) == ([], {})
    with Journal(tmp_path / "new", {"weights_sha256": "d"}, rewind_frames=2) as journal:
        assert list(journal.leases) == ["shared"]
        plans = journal.recover()
        told = {plan.session: (plan.lease, plan.base["blob"], len(plan.events)) for plan in plans}
        assert told == {"a": ("shared", b"a", 2), "b": ("shared", b"b", 2)}
        frames = [journal.load(plan.events[1][1])["blob"] for plan in plans]
        assert sorted(frames) == [b"frame a", b"frame b"]
        journal.append({"op": "step", "session": "a", "seq": 3, "control": {}})
    with Journal(tmp_path / "old", {"weights_sha256": "d"}, rewind_frames=2) as journal:
        assert journal.recover() == []


def test_only_a_journal_of_the_same_world_that_has_ended(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "a", {"weights_sha256": "d"}) as journal,
        Journal(tmp_path / "b", {"weights_sha256": "d"}),
        Journal(tmp_path / "c", {"weights_sha256": "e"}),
        pytest.raises(BridgeError, match="one server at a time"),
    ):
        journal.open_sibling(tmp_path / "b")
    with (
        Journal(tmp_path / "a", {"weights_sha256": "d"}) as journal,
        pytest.raises(BridgeError, match="one world"),
    ):
        journal.open_sibling(tmp_path / "c")
