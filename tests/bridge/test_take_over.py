"""One server's journal takes over another's sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldsim.bridge.journal import Journal
from worldsim.errors import BridgeError


def filled(folder: Path, session: str, lease: str) -> None:
    with Journal(folder, {"digest": "d"}, history=2) as journal:
        journal.append({"op": "lease", "lease": lease})
        journal.append({"op": "restore", "session": session, "lease": lease, "blob": session.encode()})
        journal.append({"op": "step", "session": session, "seq": 1, "control": {}})


def test_sessions_move_with_all_that_a_replay_needs(tmp_path: Path) -> None:
    filled(tmp_path / "old", "a", "shared")
    filled(tmp_path / "new", "b", "shared")
    new = Journal(tmp_path / "new", {"digest": "d"}, history=2)
    with new, new.sibling(tmp_path / "old") as other:
        new.take_over(other)
        assert (other.recover(), other.leases) == ([], {})
    with Journal(tmp_path / "new", {"digest": "d"}, history=2) as journal:
        assert list(journal.leases) == ["shared"]
        told = {tale.session: (tale.lease, tale.base["blob"], len(tale.events)) for tale in journal.recover()}
        assert told == {"a": ("shared", b"a", 1), "b": ("shared", b"b", 1)}
        journal.append({"op": "step", "session": "a", "seq": 2, "control": {}})
    with Journal(tmp_path / "old", {"digest": "d"}, history=2) as journal:
        assert journal.recover() == []


def test_only_a_journal_of_the_same_world_that_has_ended(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "a", {"digest": "d"}) as journal,
        Journal(tmp_path / "b", {"digest": "d"}),
        Journal(tmp_path / "c", {"digest": "e"}),
        pytest.raises(BridgeError, match="one server at a time"),
    ):
        journal.sibling(tmp_path / "b")
    with Journal(tmp_path / "a", {"digest": "d"}) as journal, pytest.raises(BridgeError, match="one world"):
        journal.sibling(tmp_path / "c")
