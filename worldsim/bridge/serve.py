"""``worldsim serve``: a world for other programs, over ZeroMQ."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from worldsim.bridge.client.local_address import default_address
from worldsim.bridge.router import Router
from worldsim.bridge.server.server import Server, ServerOptions
from worldsim.bridge.server.status_page import StatusPage
from worldsim.bridge.wire.protocol import ClientLimits, control_address
from worldsim.checkpoint import find_world
from worldsim.engine.engine import Engine
from worldsim.engine.precision import DTYPES
from worldsim.engine.world import load
from worldsim.options import COUNT, DENOISING, NATURAL, PORT, PROCESSES, SECONDS, THREADS, Number, Parser
from worldsim.utils.output_paths import check_writable

__all__ = ["main"]

_SLOTS = Number(low=1, high=65_536, about="a whole number of slots >= 1 and <= 65536")
_SWITCH_INTERVAL = 0.0002
"""Thread switch interval in seconds; the engine's thread may wait for it at every operation."""
_MIB = 2**20
_UNLIMITED = ClientLimits(waiting=10**6, rate=10**9, malformed=10**9)
"""A router bounds what its clients may ask."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns when the server has ended: 0 after SIGTERM or Ctrl-C, 1 after a fault."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    sys.setswitchinterval(_SWITCH_INTERVAL)
    _raise_descriptor_limit()
    return _serve_replicas(args) if args.replicas > 1 else _serve_one(args)


def _serve_one(args: argparse.Namespace) -> int:
    with _stop_requested() as stop_requested:
        if args.behind_router:
            threading.Thread(target=_await_stdin_end, args=(stop_requested,), daemon=True).start()
        engine = _engine(args)
        with Progress(console=Console(file=sys.stderr), transient=True) as bar:
            task = bar.add_task("replaying the journal", total=1.0, visible=args.journal is not None)
            server = Server(engine, _options(args), progress=lambda share: bar.update(task, completed=share))
        _freeze_garbage()
        _print_address(server)
        while not stop_requested.wait(0.2) and not server.ended.is_set():
            pass
        server.stop()
    return 0 if server.fault is None else 1


def _serve_replicas(args: argparse.Namespace) -> int:
    find_world(args.world)  # now, before each replica finds out for itself
    if args.journal is not None:
        check_writable(args.journal)
    with (
        _stop_requested() as stop_requested,
        Router(
            _address(args),
            replica_command_lines(args),
            keys=args.keys,
            journal=args.journal,
            lease_ttl=args.lease_ttl,
        ) as router,
    ):
        router.await_replicas(stop_requested)
        page = None
        if args.metrics_port is not None:
            router.add_gauges()
            page = StatusPage(
                args.metrics_port, router.metrics.render, lambda: router.alive, lambda: router.ready
            )
        where = f"{router.address} and {control_address(router.address)}"
        _freeze_garbage()
        print(f"serving {Path(args.world).name} at {where}, {args.replicas} replicas", flush=True)
        while not stop_requested.wait(0.2) and router.alive and not router.pool.hopeless:
            pass
        if page is not None:
            page.close()
    return 0 if router.fault is None and not router.pool.hopeless else 1


def _raise_descriptor_limit() -> None:
    """Raise the limit of file descriptors: each connection takes one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _freeze_garbage() -> None:
    """Exclude existing objects from garbage collection, whose pauses delay every client."""
    gc.collect()
    gc.freeze()


def _await_stdin_end(stop_requested: threading.Event) -> None:
    """End this engine when its standard input closes, however the router ended."""
    while os.read(0, 1):
        pass
    stop_requested.set()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="worldsim serve", description="Serve a world to other programs, over ZeroMQ.")
    add = parser.add_argument
    add("world", help="a shipped world's name, or a folder")
    add(
        "--bind",
        metavar="ADDRESS",
        help="ipc://PATH or tcp://HOST:PORT (default: worldsim-WORLD.sock in $XDG_RUNTIME_DIR)",
    )
    add(
        "--journal",
        type=Path,
        metavar="DIR",
        help="folder of a journal: acknowledged requests survive a crash",
    )
    add(
        "--fsync",
        action="store_true",
        help="with --journal: wait for the disk, to survive a loss of power (slower)",
    )
    add("--keys", type=Path, metavar="DIR", help="folder of authorized keys; see `worldsim keys`")
    add("--slots", type=_SLOTS, default=64, help="sessions in one batch")
    add(
        "--offload",
        type=NATURAL,
        default=0,
        metavar="MIB",
        help="memory for sessions beyond the slots",
    )
    add(
        "--denoising-steps",
        type=DENOISING,
        help="denoising passes a frame, K, of those that the world takes (default: the sampler's)",
    )
    add("--rewind-frames", type=NATURAL, default=16, help="frames kept for rewinding")
    add("--context", type=COUNT, help="units of past that the generator sees (default: as trained)")
    add("--unit", help="predicted in one step: a unit that the world was trained for (default: the first)")
    add("--metrics-port", type=PORT, metavar="PORT", help="serve /metrics, /livez and /readyz on 127.0.0.1")
    add(
        "--lease-ttl",
        type=SECONDS,
        default=30.0,
        help="seconds that a silent client keeps its sessions",
    )
    add(
        "--replicas",
        type=PROCESSES,
        default=1,
        help="processes, one per device, behind the one address",
    )
    add("--behind-router", action="store_true", help=argparse.SUPPRESS)
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add("--dtype", choices=DTYPES, help="(default: what is faster on the device)")
    add("--threads", type=THREADS, help="CPU threads (default: all)")
    return parser


def _engine(args: argparse.Namespace) -> Engine:
    if args.threads:
        torch.set_num_threads(args.threads)
    world = load(args.world, args.device, DTYPES.get(args.dtype))
    return world.engine(
        slots=args.slots,
        context=args.context,
        denoising_steps=args.denoising_steps,
        rewind_frames=args.rewind_frames,
        offload_bytes=args.offload * _MIB,
        unit=args.unit,
    )


def _options(args: argparse.Namespace) -> ServerOptions:
    return ServerOptions(
        address=_address(args),
        keys=args.keys,
        journal=args.journal,
        metrics_port=args.metrics_port,
        lease_ttl=args.lease_ttl,
        fsync=args.fsync,
        behind_router=args.behind_router,
        limits=_UNLIMITED if args.behind_router else ClientLimits(),
    )


def _address(args: argparse.Namespace) -> str:
    return args.bind or default_address(Path(args.world).name)


def replica_command_lines(args: argparse.Namespace) -> list[list[str]]:
    """Return the command lines of the engines behind a router, each with its share of the machine."""
    shared = ["serve", args.world]
    sizes = ("slots", "offload", "denoising_steps", "rewind_frames", "context")
    for name in (*sizes, "unit", "lease_ttl", "dtype"):
        value = getattr(args, name)
        shared += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    shared += ["--fsync"] if args.fsync else []
    cards = torch.cuda.device_count() if args.device in ("auto", "cuda") else 0
    threads = args.threads or max(1, torch.get_num_threads() // args.replicas)
    devices = [f"cuda:{number % cards}" if cards else args.device for number in range(args.replicas)]
    return [[*shared, "--threads", str(threads), "--device", device] for device in devices]


def _print_address(server: Server) -> None:
    """Print one line for users and for programs that start this one."""
    page = "" if server.metrics_port is None else f", metrics http://127.0.0.1:{server.metrics_port}/metrics"
    sessions = f"{len(server.sessions)} sessions of {server.engine.slots} slots"
    where = f"{server.address} and {control_address(server.address)}"
    print(f"serving {server.engine.world.name} at {where}, {sessions}{page}", flush=True)


@contextmanager
def _stop_requested() -> Iterator[threading.Event]:
    """Event set by the first SIGTERM or Ctrl-C; the second one ends the process at once."""
    stop_requested = threading.Event()

    def ask(*_: object) -> None:
        stop_requested.set()
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, ask)
    try:
        yield stop_requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
