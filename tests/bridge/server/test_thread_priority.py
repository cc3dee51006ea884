"""Threads that go first."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from worldsim.bridge.server.thread_priority import raise_priority

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all stays as it is")


def nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def in_a_thread(work: object) -> int:
    """How nice a thread is after some work."""
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
