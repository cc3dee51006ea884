"""Replicas of ``worldsim serve`` on a Ray cluster, one per device.

Each replica is a separate server with its own address; a session lives and ends with its replica. Ray starts
and ends replicas and reserves their devices; clients' messages do not pass through it.

    python -m worldsim.bridge.ray doom-maze --replicas 8 --keys DIR
"""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldsim.bridge.server.server import Server, ServerOptions
from worldsim.engine.world import load
from worldsim.errors import ConfigError, DependencyError, install
from worldsim.options import COUNT, DENOISING, PROCESSES, Number, Parser
from worldsim.utils.run_command import run_command

__all__ = ["Cluster", "ReplicaConfig", "launch", "main"]

_SHARE = Number(whole=False, high=1024)


@dataclass(frozen=True, kw_only=True)
class ReplicaConfig:
    """Configuration of a replica; made on one machine, opened on another."""

    world: str
    """Shipped world's name, or a folder that every machine has."""
    keys: str | None = None
    """A folder of keys that every machine has; needed unless ``host`` is a loopback address."""
    host: str | None = None
    """The address to bind on each machine; None: the one by which Ray knows the machine."""
    slots: int = 64
    denoising_steps: int | None = None
    rewind_frames: int = 16
    device: str = "auto"

    def open(self, own: str) -> Server:
        """Start a server at a free port of ``host``, or of this machine's ``own`` address.

        Raises:
            BridgeError: an address that needs keys. CheckpointError: no such world here.
        """
        engine = load(self.world, self.device).engine(
            slots=self.slots, denoising_steps=self.denoising_steps, rewind_frames=self.rewind_frames
        )
        keys = None if self.keys is None else Path(self.keys)
        return Server(engine, ServerOptions(address=f"tcp://{self.host or own}:*", keys=keys))


class _Replica:
    """Server in a Ray actor."""

    def __init__(self, config: ReplicaConfig) -> None:
        own: str = _ray().util.get_node_ip_address()
        self._server, self._at = config.open(own), config.host or own

    def address(self) -> str:
        return f"tcp://{self._at}:{self._server.address.rpartition(':')[2]}"

    def info(self) -> dict[str, Any]:
        return self._server.info()

    def stop(self) -> None:
        self._server.stop()


class Cluster:
    """Running replicas; ended by ``close``, or as a context manager."""

    def __init__(self, replicas: Sequence[Any]) -> None:
        self._ray, self._replicas = _ray(), list(replicas)
        self.addresses: list[str] = self._ray.get([replica.address.remote() for replica in self._replicas])
        """Addresses of the data sockets; a client connects to one of them."""

    def info(self) -> list[dict[str, Any]]:
        """Return each replica's ``info``, with its free slots."""
        told: list[dict[str, Any]] = self._ray.get([replica.info.remote() for replica in self._replicas])
        return told

    def close(self) -> None:
        """Let every engine finish what it was stop_requested for, and end it. Closing twice is fine."""
        replicas, self._replicas = self._replicas, []
        self._ray.get([replica.stop.remote() for replica in replicas])
        for replica in replicas:
            self._ray.kill(replica)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def launch(config: ReplicaConfig, replicas: int, *, gpus: float = 1.0, cpus: float = 1.0) -> Cluster:
    """Start ``replicas`` engines on the Ray cluster that this process is connected to.

    Args:
        config: what each of them serves, and how.
        gpus, cpus: that Ray reserves for each; ``gpus=0`` on machines without.

    Raises:
        ConfigError: no engine. DependencyError: Ray is not installed. Ray's own errors where an engine fails.
    """
    if replicas < 1:
        raise ConfigError("a cluster must have at least one replica", replicas)
    actor = _ray().remote(_Replica).options(num_gpus=gpus, num_cpus=cpus)
    return Cluster([actor.remote(config) for _ in range(replicas)])


def main(argv: Sequence[str] | None = None) -> int:
    """Launch engines, print their addresses, one a line, and end them at SIGTERM or Ctrl-C."""
    parser = Parser(prog="python -m worldsim.bridge.ray", description="Serve with Ray.")
    parser.add_argument("world", help="a shipped world's name, or a folder that every machine has")
    parser.add_argument("--replicas", type=PROCESSES, default=1, help="one per device")
    parser.add_argument("--gpus", type=_SHARE, default=1.0, help="of each engine")
    parser.add_argument("--cpus", type=_SHARE, default=1.0, help="of each engine")
    parser.add_argument("--slots", type=COUNT, default=64, help="sessions of an engine")
    parser.add_argument(
        "--denoising-steps",
        type=DENOISING,
        help="denoising passes a frame, K, of those that the world takes (default: the sampler's)",
    )
    parser.add_argument("--keys", metavar="DIR", help="a folder of keys that every machine has")
    parser.add_argument("--host", help="address to bind on each machine (default: as Ray knows it)")
    parser.add_argument("--cluster", help="Ray's address (default: RAY_ADDRESS, or this machine alone)")
    args = parser.parse_args(argv)
    _ray().init(address=args.cluster, log_to_driver=False)
    config = ReplicaConfig(
        world=args.world,
        keys=args.keys,
        host=args.host,
        slots=args.slots,
        denoising_steps=args.denoising_steps,
    )
    stop_requested = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop_requested.set())
    with launch(config, args.replicas, gpus=args.gpus, cpus=args.cpus) as cluster:
        print(*cluster.addresses, sep="\n", flush=True)
        while not stop_requested.wait(0.2):
            pass
    return 0


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise DependencyError("worldsim.bridge.ray needs Ray", None, install("ray", "bridge")) from error


if __name__ == "__main__":
    raise SystemExit(run_command(main))
