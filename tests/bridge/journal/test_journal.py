"""The journal: a replay ends where the crash was, with as much to rewind and as many replies to repeat."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections import deque
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.bridge.journal import journal as module
from worldsim.bridge.journal import wal
from worldsim.bridge.journal.blob_store import BlobStore
from worldsim.bridge.journal.journal import Journal, ReplayPlan
from worldsim.bridge.journal.wal import WriteAheadLog
from worldsim.errors import BridgeError

HISTORY, REPLIES, EVERY = 5, 3, 4
META = {"weights_sha256": "ab", "denoising_steps": 2}


class Fake:
    """A session whose state is a hash of all that was done to it, so that any difference shows."""

    def __init__(self, state: str, past: tuple[str, ...] = ()) -> None:
        self.state = state
        self.past = deque(past, HISTORY)
        self.replies: list[tuple[int, str]] = []

    def step(self, control: str) -> None:
        self.past.append(self.state)
        self.state = hashlib.sha256(f"{self.state} {control}".encode()).hexdigest()[:8]

    def rewind(self, frames: int) -> None:
        for _ in range(frames):
            self.state = self.past.pop()

    def take(self, seq: int, record: dict[str, Any]) -> None:
        if record["op"] == "rewind":
            self.rewind(record["frames"])
        else:
            self.step(f"{record['control']} {record.get('blob')}")
        self.replies = [*self.replies, (seq, self.state)][-REPLIES:]

    def fork(self) -> Fake:
        return Fake(self.state, tuple(self.past))


def again(journal: Journal, session: ReplayPlan) -> Fake:
    """What a server does with a recovered session."""
    base = session.base
    fake = Fake(f"seed {base['seed']}") if base["op"] == "open" else Fake(base["blob"].decode())
    for seq, event in session.events:
        fake.take(seq, journal.load(event))
    fake.replies = [(seq, state) for seq, state in fake.replies if seq > 0]
    return fake


def reopen(folder: Path, **options: Any) -> Journal:
    return Journal(folder, META, rewind_frames=HISTORY, replies=REPLIES, snapshot_interval=EVERY, **options)


def opened(name: str = "s", lease: str = "l", seed: int = 0) -> dict[str, Any]:
    return {"op": "open", "session": name, "lease": lease, "seed": seed}


def stepped(seq: int, name: str = "s") -> dict[str, Any]:
    return {"op": "step", "session": name, "seq": seq, "control": f"c{seq}"}


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["open", "step", "step", "step", "steps", "observe", "rewind", "fork", "close", "snapshot", "end"]
        ),
        st.integers(0, 2**16),
    ),
    max_size=60,
)


class Server:
    """Does to fakes and to a journal what a server does to an engine and a journal."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.fakes: dict[str, tuple[str, Fake, int]] = {}
        self.names = 0

    def do(self, action: str, chance: int) -> None:
        if action == "open" or not self.fakes:
            self.open(chance)
        else:
            names = sorted(self.fakes)
            getattr(self, action)(names[chance % len(names)], chance)

    def name(self) -> str:
        self.names += 1
        return f"s{self.names % 7}.{self.names}"

    def open(self, chance: int) -> None:
        name, lease = self.name(), f"l{chance % 3}"
        self.journal.append(opened(name, lease, chance))
        self.fakes[name] = (lease, Fake(f"seed {chance}"), 0)

    def step(self, name: str, chance: int) -> None:
        seq = self.fakes[name][2]
        self.move(name, {"op": "step", "session": name, "seq": seq + 1, "control": f"c{chance}"})

    def observe(self, name: str, chance: int) -> None:
        row = {"op": "observe", "session": name, "seq": self.fakes[name][2] + 1, "control": "c"}
        self.move(name, {**row, "shape": [1], "blob": f"frame {chance}".encode()})

    def move(self, name: str, record: dict[str, Any]) -> None:
        lease, fake, seq = self.fakes[name]
        fake.take(seq + 1, record)
        self.journal.append(record)
        self.fakes[name] = (lease, fake, seq + 1)
        if self.journal.due(name):
            self.journal.snapshot(name, fake.state.encode())

    def steps(self, name: str, chance: int) -> None:
        for i in range(chance % 9):
            self.step(name, chance + i)

    def rewind(self, name: str, chance: int) -> None:
        lease, fake, seq = self.fakes[name]
        if fake.past:
            record = {"op": "rewind", "session": name, "seq": seq + 1, "frames": chance % len(fake.past) + 1}
            fake.take(seq + 1, record)
            self.journal.append(record)
            self.fakes[name] = (lease, fake, seq + 1)

    def fork(self, name: str, chance: int) -> None:
        lease, fake, seq = self.fakes[name]
        children = [self.name() for _ in range(chance % 3 + 1)]
        self.journal.append(
            {"op": "fork", "session": name, "lease": lease, "children": children, "seq": seq},
        )
        self.fakes.update({child: (lease, fake.fork(), 0) for child in children})

    def snapshot(self, name: str, _: int) -> None:
        self.journal.snapshot(name, self.fakes[name][1].state.encode())

    def close(self, name: str, _: int) -> None:
        self.journal.append({"op": "close", "session": name})
        del self.fakes[name]

    def end(self, name: str, _: int) -> None:
        lease = self.fakes[name][0]
        self.journal.append({"op": "end", "lease": lease})
        self.fakes = {name: row for name, row in self.fakes.items() if row[0] != lease}


def check(journal: Journal, fakes: dict[str, tuple[str, Fake, int]]) -> None:
    found = journal.recover()
    assert {session.session for session in found} == set(fakes)
    for session in found:
        lease, fake, seq = fakes[session.session]
        made = again(journal, session)
        assert (session.lease, session.seq, made.state) == (lease, seq, fake.state)
        assert list(made.past) == list(fake.past)
        assert made.replies == fake.replies


def go_on(journal: Journal, server: Server, actions: list[tuple[str, int]]) -> None:
    """Serve on from a journal that was opened again."""
    server.journal = journal
    for action in actions:
        server.do(*action)
    journal.flush()
    check(journal, server.fakes)


@pytest.mark.slow
@settings(max_examples=150)
@given(actions=ACTIONS, more=ACTIONS, compact=st.booleans())
def test_whatever_happened_a_replay_ends_in_the_same_state(
    tmp_path_factory: pytest.TempPathFactory,
    actions: list[tuple[str, int]],
    more: list[tuple[str, int]],
    compact: bool,
) -> None:
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        if compact:
            patch.setattr(module, "_COMPACT_BYTES", 0)
        with reopen(folder) as journal:
            server = Server(journal)
            for action in actions:
                server.do(*action)
        with reopen(folder) as journal:
            check(journal, server.fakes)
            go_on(journal, server, more)
        with reopen(folder) as journal:
            check(journal, server.fakes)


class Witness(Server):
    """Remembers every state that a session was in."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        self.states: dict[tuple[str, int], tuple[str, list[str]]] = {}

    def do(self, action: str, chance: int) -> None:
        super().do(action, chance)
        self.look()

    def move(self, name: str, record: dict[str, Any]) -> None:
        super().move(name, record)
        self.look()

    def look(self) -> None:
        for name, (_, fake, seq) in self.fakes.items():
            self.states[name, seq] = fake.state, list(fake.past)


@pytest.mark.slow
@settings(max_examples=150)
@given(actions=ACTIONS, more=ACTIONS, chance=st.randoms(use_true_random=False), empty=st.booleans())
def test_where_frames_are_gone_a_replay_ends_in_a_state_that_was(
    tmp_path_factory: pytest.TempPathFactory,
    actions: list[tuple[str, int]],
    more: list[tuple[str, int]],
    chance: Random,
    empty: bool,
) -> None:
    folder = tmp_path_factory.mktemp("state")
    with reopen(folder) as journal:
        server = Witness(journal)
        for action in actions:
            server.do(*action)
    frames = [path for path in (folder / "blobs").iterdir() if path.read_bytes().startswith(b"frame")]
    lost = [path for path in frames if chance.random() < 0.3]
    for path in lost:
        path.write_bytes(b"") if empty else path.unlink()
    with reopen(folder) as journal:
        found = journal.recover()
        assert lost or {session.session for session in found} == set(server.fakes)
        left = {}
        for session in found:
            lease, _, seq = server.fakes[session.session]
            made = again(journal, session)
            state, past = server.states[session.session, session.seq]
            assert (session.lease, made.state) == (lease, state)
            assert list(made.past) == past[len(past) - len(made.past) :]
            assert session.seq <= seq
            left[session.session] = lease, made, session.seq
        server.fakes = left
        go_on(journal, server, more)
    with reopen(folder) as journal:
        check(journal, server.fakes)


def test_what_is_gone_costs_no_more_than_must_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = {"op": "observe", "session": "s", "control": "c", "shape": [1], "blob": b"frame"}
    with reopen(tmp_path) as journal:
        journal.append(opened(), opened("t"), stepped(1), {**given, "seq": 2}, stepped(3), stepped(1, "t"))
        journal.append({"op": "fork", "session": "s", "lease": "l", "children": ["child"]})
        journal.append(stepped(1, "child"))
    (path,) = (tmp_path / "blobs").iterdir()
    path.unlink()
    with reopen(tmp_path) as journal:
        assert {one.session: one.seq for one in journal.recover()} == {"s": 1, "t": 1}
    assert "it goes on from seq 1, of 3. A loss of power took them" in caplog.text
    assert "child: frames given to it are gone; it has ended" in caplog.text


def test_a_snapshot_stands_for_frames_that_are_gone(tmp_path: Path) -> None:
    given = {"op": "observe", "session": "s", "control": "c", "shape": [1], "blob": b"frame"}
    with reopen(tmp_path) as journal:
        journal.append(opened(), {**given, "seq": 1}, stepped(2))
        journal.snapshot("s", b"state")
        journal.flush()
        journal.append(stepped(3))
    (path,) = (one for one in (tmp_path / "blobs").iterdir() if one.read_bytes() == b"frame")
    path.unlink()
    with reopen(tmp_path) as journal:
        (session,) = journal.recover()
        assert (session.seq, session.base["blob"]) == (3, b"state")
        assert [seq for seq, _ in session.events] == [3]


def test_a_copy_taken_at_any_moment_recovers(tmp_path: Path) -> None:
    """A copy of the files while the journal is open is what kill -9 leaves."""
    with reopen(tmp_path / "a") as journal:
        server = Server(journal)
        server.open(7)
        for count in range(40):
            server.step("s1.1", count)
            copy = tmp_path / f"copy{count}"
            journal.flush()
            shutil.copytree(tmp_path / "a", copy)
            with reopen(copy) as other:
                check(other, server.fakes)


def test_a_replay_is_short(tmp_path: Path) -> None:
    with reopen(tmp_path) as journal:
        server = Server(journal)
        server.open(0)
        for count in range(100):
            server.step("s1.1", count)
            journal.flush()
        (session,) = journal.recover()
        assert session.base["op"] == "snapshot"
        assert len(session.events) <= 3 * EVERY + HISTORY
        assert len(list((tmp_path / "blobs").iterdir())) <= 3 + module._SWEEP_FILES
    with reopen(tmp_path):
        assert len(list((tmp_path / "blobs").iterdir())) <= 3


def test_given_contexts_and_snapshots_come_back(tmp_path: Path) -> None:
    with reopen(tmp_path) as journal:
        journal.append(
            {**opened("a"), "blob": b"context"}, {**opened("b"), "op": "restore", "blob": b"snapshot"}
        )
    with reopen(tmp_path) as journal:
        first, second = journal.recover()
        assert (first.base["op"], first.base["blob"]) == ("open", b"context")
        assert (second.base["op"], second.base["blob"]) == ("restore", b"snapshot")
        journal.append({"op": "close", "session": "a"})
    reopen(tmp_path).close()
    assert len(list((tmp_path / "blobs").iterdir())) == 1


def test_frames_given_come_back_for_as_long_as_a_replay_needs_them(tmp_path: Path) -> None:
    with reopen(tmp_path) as journal:
        server = Server(journal)
        server.open(0)
        for count in range(100):
            server.observe("s1.1", count)
            journal.flush()
        (session,) = journal.recover()
        assert session.base["op"] == "snapshot"
        events = len(session.events)
        assert events <= 3 * EVERY + HISTORY
        assert len(list((tmp_path / "blobs").iterdir())) <= 2 * (events + 4) + module._SWEEP_FILES
        server.fork("s1.1", 1)
    with reopen(tmp_path) as journal:
        check(journal, server.fakes)
        assert len(list((tmp_path / "blobs").iterdir())) <= events + 4
        for name in server.fakes:
            journal.append({"op": "close", "session": name})
    reopen(tmp_path).close()
    assert not list((tmp_path / "blobs").iterdir())


def test_sessions_that_never_come_to_a_snapshot_leave_no_frames(tmp_path: Path) -> None:
    with reopen(tmp_path) as journal:
        for count in range(50):
            server = Server(journal)
            server.open(count)
            server.observe("s1.1", count)
            server.close("s1.1", 0)
            journal.flush()
        assert len(list((tmp_path / "blobs").iterdir())) <= module._SWEEP_FILES


@pytest.mark.parametrize("fsync", [False, True])
def test_frames_given_come_to_the_disk_with_the_reply_or_soon_after(tmp_path: Path, fsync: bool) -> None:
    with reopen(tmp_path, fsync=fsync) as journal:
        server = Server(journal)
        server.open(0)
        for count in range(3 * module._MAX_UNSYNCED):
            server.observe("s1.1", count)
            assert journal._blobs.unsynced <= (0 if fsync else module._MAX_UNSYNCED)
        journal.flush()
        assert journal._blobs.unsynced == 0
        check(journal, server.fakes)


def test_leases_come_back_until_they_end(tmp_path: Path) -> None:
    lease = {"op": "lease", "lease": "l", "key": "k", "client": "me"}
    with reopen(tmp_path) as journal:
        journal.append(lease, opened("a"), opened("b", "m"))
    with reopen(tmp_path) as journal:
        assert journal.leases == {"l": lease}
        journal.append({"op": "end", "lease": "l"})
    with reopen(tmp_path) as journal:
        assert journal.leases == {}
        assert [session.session for session in journal.recover()] == ["b"]


def test_a_session_of_the_same_name_does_not_get_the_old_ones_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    save = BlobStore.save
    monkeypatch.setattr(BlobStore, "save", lambda self, blob, **how: go.wait(5) and save(self, blob, **how))
    with reopen(tmp_path) as journal:
        journal.append(opened("s", seed=1), *[stepped(seq) for seq in range(1, 9)])
        journal.snapshot("s", b"old")
        journal.append({"op": "close", "session": "s"}, opened("s", seed=2))
        go.set()
        journal.flush()
        (session,) = journal.recover()
        assert (session.base["op"], session.base["seed"], session.events) == ("open", 2, [])


def test_a_long_log_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMPACT_BYTES", 2000)
    with reopen(tmp_path) as journal:
        for _ in range(200):
            journal.append(opened(), stepped(1), {"op": "close", "session": "s"})
            journal.flush()
        assert journal.length < 3000
        journal.append(opened("last"))
    assert len(list(tmp_path.glob("log-*"))) == 1
    with reopen(tmp_path) as journal:
        assert [session.session for session in journal.recover()] == ["last"]


def test_another_journals_sessions_are_taken_over_once(tmp_path: Path) -> None:
    lease = {"op": "lease", "lease": "l", "key": "", "client": "me"}
    with reopen(tmp_path / "b") as old:
        old.append(lease, {**opened("s"), "blob": b"context"}, stepped(1))
    shutil.copytree(tmp_path / "b", tmp_path / "c")  # as a crash before its end leaves it
    with reopen(tmp_path / "a") as journal:
        for folder in ("b", "c"):
            with journal.open_sibling(tmp_path / folder) as other:
                journal.take_over(other)
                assert other.recover() == []
                assert other.leases == {}
            journal.append(stepped(2)) if folder == "b" else None
    with reopen(tmp_path / "a") as journal:
        (session,) = journal.recover()
        assert (session.seq, session.base["blob"], journal.leases) == (2, b"context", {"l": lease})


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with reopen(tmp_path), pytest.raises(BridgeError, match="one server at a time"):
        reopen(tmp_path)
    reopen(tmp_path).close()


def test_another_world_is_refused(tmp_path: Path) -> None:
    reopen(tmp_path).close()
    with pytest.raises(BridgeError, match="weights_sha256: ab -> cd"):
        Journal(tmp_path, {**META, "weights_sha256": "cd"}, rewind_frames=HISTORY)
    with pytest.raises(BridgeError, match="rewind_frames: 5 -> 6"):
        Journal(tmp_path, META, rewind_frames=6)
    reopen(tmp_path).close()


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_a_spoilt_blob_is_noticed(tmp_path: Path, harm: str) -> None:
    with reopen(tmp_path) as journal:
        journal.append({**opened(), "blob": b"context"})
    (path,) = (tmp_path / "blobs").iterdir()
    path.write_bytes(b"contexT") if harm == "damaged" else path.unlink()
    with reopen(tmp_path) as journal, pytest.raises(BridgeError, match=harm):
        journal.recover()


def test_after_a_failed_write_nothing_more_is_taken(tmp_path: Path) -> None:
    with reopen(tmp_path) as journal:
        journal.append(opened())
        with pytest.raises(BridgeError, match="open sessions"):
            journal.append(stepped(1, "unknown"))
        with pytest.raises(BridgeError, match="broken by an earlier failure"):
            journal.append(stepped(1))
    with pytest.raises(BridgeError, match="closed"):
        journal.append(stepped(1))
    with reopen(tmp_path, fsync=True) as journal:
        journal.append(stepped(1))
        assert [session.seq for session in journal.recover()] == [1]


@pytest.mark.parametrize("step", ["replace", "open"])
def test_a_log_that_cannot_be_written_anew_is_kept_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    with reopen(tmp_path) as journal:
        monkeypatch.setattr(journal, "_limit", 0)
        owner, name = (module, "WriteAheadLog") if step == "open" else (wal, "fsync_path")
        monkeypatch.setattr(owner, name, fail)
        journal.append(opened(), stepped(1))
        journal.flush()
        assert "No space left" in caplog.text
        monkeypatch.undo()
        journal.append(stepped(2))
    assert len(list(tmp_path.glob("log-*"))) == 1
    with reopen(tmp_path) as journal:
        assert [session.seq for session in journal.recover()] == [2]


def test_a_log_that_cannot_be_mended_takes_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with reopen(tmp_path) as journal:
        journal.append(opened(), *[stepped(seq) for seq in range(1, 9)])
        monkeypatch.setattr(WriteAheadLog, "append", fail)
        journal.snapshot("s", b"state")
        journal.flush()
        monkeypatch.undo()
        with pytest.raises(BridgeError, match="broken"):
            journal.append(stepped(9))


def test_a_journal_that_writes_a_snapshot_is_not_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, goes_on = threading.Event(), threading.Event()
    append = WriteAheadLog.append

    def slowly(log: WriteAheadLog, records: list[dict[str, Any]]) -> None:
        writes.set()
        assert goes_on.wait(20)
        append(log, records)

    with reopen(tmp_path) as journal:
        journal.append(opened(), *[stepped(seq) for seq in range(1, 9)])
        monkeypatch.setattr(WriteAheadLog, "append", slowly)
        journal.snapshot("s", b"state")
        assert writes.wait(20)
        try:
            journal.check_free_space()
        finally:
            goes_on.set()
        journal.flush()
        journal.append(journal.store({**stepped(9), "op": "observe", "blob": b"frame"}))
    with reopen(tmp_path) as journal:
        assert [session.seq for session in journal.recover()] == [9]


def fail(*_: object, **__: object) -> None:
    raise OSError("No space left on device")


def test_a_snapshot_that_cannot_be_written_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with reopen(tmp_path) as journal:
        journal.append(opened(), *[stepped(seq) for seq in range(1, 9)])
        monkeypatch.setattr(BlobStore, "save", fail)
        assert journal.due("s")
        journal.snapshot("s", b"state")
        journal.flush()
        assert "No space left" in caplog.text
        assert journal.due("s")
        assert len(journal.recover()[0].events) == 8
