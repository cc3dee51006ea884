"""Clients that flood a router, beside one that wants its frames."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.bridge.scripted_client import ScriptedClient
from tests.tiny import lively_world
from tests.waiting import wait_until
from worldsim.bridge.router import Router

MIB = 2**20
ENGINE = ("--slots", "4", "--denoising-steps", "1", "--dtype", "float32", "--threads", "1", "--device", "cpu")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    world = lively_world(tmp_path_factory.mktemp("world"))
    lines = [["serve", str(world), *ENGINE]] * 2
    with Router(f"ipc://{tmp_path_factory.mktemp('s')}/s", lines) as router:
        router.await_replicas(threading.Event())
        yield router
    assert router.fault is None


@pytest.fixture
def flooder(router: Router) -> Iterator[ScriptedClient]:
    client = ScriptedClient(router.address)
    yield client
    client.close()


@pytest.fixture
def good(router: Router) -> Iterator[ScriptedClient]:
    client = ScriptedClient(router.address)
    yield client
    client.close()


def test_malformed_messages_leave_others_their_steps(
    router: Router, flooder: ScriptedClient, good: ScriptedClient
) -> None:
    session = good.open()
    for _ in range(1000):
        flooder.data.send_multipart([b"nonsense"])
    for seq in range(1, 5):
        assert good.ask("step", session=session, seq=seq)["ok"]
    last = flooder.send("snapshot", session=session)
    while flooder.receive().header["id"] != last:
        pass  # answers to some of the nonsense
    assert router.sockets.budget.used == 0


def test_large_requests_leave_others_their_steps(
    router: Router, flooder: ScriptedClient, good: ScriptedClient
) -> None:
    """The engine of the flood stands still, so that all requests that it is sent wait in the router."""
    sessions = flooder.open(), good.open()
    engines = [router.pool.engine_of(one) for one in sessions]
    assert engines[0] is not None
    assert engines[0] is not engines[1]
    assert engines[0].process is not None
    budget, pid = router.sockets.budget, engines[0].process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        for seq in range(1, 21):
            flooder.send("observe", bytes(8 * MIB), session=sessions[0], seq=seq)
        for seq in range(1, 5):
            assert good.ask("step", session=sessions[1], seq=seq)["ok"]
        refused = [flooder.receive().header["error"] for _ in range(16)]
        assert {error["code"] for error in refused} == {"UNAVAILABLE"}
        assert all(error["retry_after_ms"] > 0 for error in refused)
        assert budget.used <= budget.per_client
        assert router.pool.waiting == 4
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {flooder.receive().header["error"]["code"] for _ in range(4)} == {"BAD_REQUEST"}
    wait_until(lambda: budget.used == 0, "all bytes are released")
