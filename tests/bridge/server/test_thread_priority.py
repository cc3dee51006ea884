"""Threads that go first."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from tests.waiting import wait_until
from worldsim.bridge.server.server import Server, ServerOptions
from worldsim.bridge.server.thread_priority import raise_priority
from worldsim.engine.world import load
from worldsim.testing import tiny_world

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all stays as it is")


def nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def in_a_thread(work: object) -> int:
    """Return the nice value of a thread after some work."""
    found = []

    def run() -> None:
        if callable(work):
            work()
        found.append(nice())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return found[0]


def test_only_the_thread_that_asks_for_it_goes_first() -> None:
    before = nice()
    assert in_a_thread(raise_priority) <= before
    assert nice() == before


def test_without_the_right_to_all_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    before = nice()
    assert in_a_thread(raise_priority) == before


@pytest.mark.slow
def test_the_engine_holds_the_interpreter_at_the_priority_of_the_thread_that_waits_for_it(
    tmp_path: Path,
) -> None:
    world = load(tiny_world(tmp_path), "cpu")
    with Server(world.engine(slots=1), ServerOptions(address=f"ipc://{tmp_path}/s")) as server:

        def priorities() -> set[int]:
            threads = [thread.native_id or 0 for thread in server._threads]
            return {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}

        wait_until(lambda: len(priorities()) == 1, "equal priorities")
        assert priorities() == {in_a_thread(raise_priority)}
