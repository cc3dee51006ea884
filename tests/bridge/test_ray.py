"""Engines on a Ray cluster: with a Ray that runs here and now, and with Ray itself where it is installed."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.tiny import lively_world
from worldsim.bridge.client import Client
from worldsim.bridge.ray import ReplicaConfig, launch, main
from worldsim.controls import Control
from worldsim.errors import BridgeError, ConfigError, DependencyError


class FakeRay(ModuleType):
    """Actors are objects of this process; a call is done when it is asked for."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.util = SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")
        self.asked: list[dict[str, Any]] = []
        self.killed = 0

    def init(self, **options: Any) -> None:
        self.asked.append(options)

    def remote(self, actor: type) -> Any:
        def options(**wanted: Any) -> Any:
            self.asked.append(wanted)
            return SimpleNamespace(remote=lambda *args: Handle(actor(*args)))

        return SimpleNamespace(options=options)

    def get(self, answers: list[Any]) -> list[Any]:
        return answers

    def kill(self, handle: Any) -> None:
        self.killed += 1


class Handle:
    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._actor, name))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_world(tmp_path_factory.mktemp("worlds"))


def host(world: Path, **kwargs: Any) -> ReplicaConfig:
    return ReplicaConfig(
        world=str(world), host="127.0.0.1", slots=2, denoising_steps=1, device="cpu", **kwargs
    )


def check_clients(addresses: list[str]) -> None:
    """Each replica imagines the same frames."""
    assert len(set(addresses)) == len(addresses)
    shown = []
    for address in addresses:
        with Client(address) as client:
            shown.append(client.open(seed=3, start=0).step(Control({"forward"})).frame)
    assert all((frame == shown[0]).all() for frame in shown)


def test_engines_are_launched_and_ended(world: Path, fake: FakeRay) -> None:
    with launch(host(world), 2, gpus=0.5, cpus=2) as cluster:
        assert fake.asked == [{"num_gpus": 0.5, "num_cpus": 2}]
        check_clients(cluster.addresses)
        assert [told["slots"] for told in cluster.info()] == [2, 2]
    cluster.close()
    assert fake.killed == 2


def test_the_command_ends_when_asked_to(
    world: Path, fake: FakeRay, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked() -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "127.0.0.1"

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    fake.util.get_node_ip_address = asked
    try:
        assert main([str(world), "--gpus", "0", "--slots", "1"]) == 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert capsys.readouterr().out.startswith("tcp://127.0.0.1:")
    assert fake.killed == 1


def test_refusals(world: Path, fake: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="replica"):
        launch(host(world), 0)
    open_to_all = ReplicaConfig(world=str(world), slots=1, device="cpu")
    with pytest.raises(BridgeError, match="keys"):
        open_to_all.open("0.0.0.0")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyError, match="Ray"):
        launch(host(world), 1)


@pytest.fixture
def real() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_with_ray_itself(world: Path, real: Any) -> None:
    with launch(host(world), 1, gpus=0, cpus=1) as cluster:
        check_clients(cluster.addresses)
