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

from worldsim.bridge.client.local import default_address
from worldsim.bridge.front import Front
from worldsim.bridge.protocol import Limits, control_address
from worldsim.bridge.server import Options, Server
from worldsim.bridge.status import StatusPage
from worldsim.engine.engine import Engine
from worldsim.engine.world import load
from worldsim.options import COUNT, DENOISING, NATURAL, PORT, PROCESSES, SECONDS, THREADS, Number, Parser
from worldsim.sampling.flow import STEPS

__all__ = ["main"]

_SLOTS = Number(low=1, high=65_536, about="a whole number of slots >= 1 and <= 65536")
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_SWITCH = 0.0002
"""Seconds after which a thread lets another go on: the engine's may wait at every one of its operations."""
_MIB = 2**20
_BEHIND = Limits(waiting=10**6, rate=10**9, malformed=10**9)
"""A front bounds what its clients may ask."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns when the server has ended: 0 after SIGTERM or Ctrl-C, 1 after a fault."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    sys.setswitchinterval(_SWITCH)
    _allow_descriptors()
    return _serve_front(args) if args.engines > 1 else _serve_engine(args)


def _serve_engine(args: argparse.Namespace) -> int:
    with _asked_to_end() as asked:
        if args.behind_front:
            threading.Thread(target=_await_front, args=(asked,), daemon=True).start()
        engine = _engine(args)
        with Progress(console=Console(file=sys.stderr), transient=True) as bar:
            task = bar.add_task("making earlier sessions again", total=1.0, visible=args.state is not None)
            server = Server(engine, _options(args), progress=lambda share: bar.update(task, completed=share))
        _settle()
        _tell(server)
        while not asked.wait(0.2) and not server.ended.is_set():
            pass
        server.stop()
    return 0 if server.fault is None else 1


def _serve_front(args: argparse.Namespace) -> int:
    with (
        _asked_to_end() as asked,
        Front(_address(args), engine_words(args), keys=args.keys, state=args.state, ttl=args.ttl) as front,
    ):
        front.await_engines(asked)
        page = None
        if args.metrics_port is not None:
            front.watch()
            page = StatusPage(args.metrics_port, front.meter.page, lambda: front.alive, lambda: front.ready)
        where = f"{front.address} and {control_address(front.address)}"
        _settle()
        print(f"serving {Path(args.world).name} at {where}, {args.engines} engines", flush=True)
        while not asked.wait(0.2) and front.alive:
            pass
        if page is not None:
            page.close()
    return 0 if front.fault is None else 1


def _allow_descriptors() -> None:
    """As many as the system lets this process have: each connection takes one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _settle() -> None:
    """What there is now stays: a search through all of it for garbage would hold up every client."""
    gc.collect()
    gc.freeze()


def _await_front(asked: threading.Event) -> None:
    """An engine behind a front ends when its standard input does, however the front ended."""
    while os.read(0, 1):
        pass
    asked.set()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="worldsim serve", description=__doc__.partition(":")[2].strip().capitalize()
    )
    parser.add_argument("world", help="a shipped world's name, or a folder")
    parser.add_argument(
        "--bind",
        metavar="ADDRESS",
        help="ipc://PATH or tcp://HOST:PORT (default: worldsim-WORLD.sock in $XDG_RUNTIME_DIR)",
    )
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="keep a journal: nothing acknowledged is lost, ever"
    )
    parser.add_argument(
        "--durable", action="store_true", help="with --state: not even when the power fails (slower)"
    )
    parser.add_argument(
        "--keys", type=Path, metavar="DIR", help="let in those whose keys are here; see `worldsim keys`"
    )
    parser.add_argument("--slots", type=_SLOTS, default=64, help="sessions of one batch (%(default)s)")
    parser.add_argument(
        "--parking",
        type=NATURAL,
        default=0,
        metavar="MIB",
        help="memory for sessions beyond the slots (%(default)s)",
    )
    parser.add_argument(
        "--steps", type=DENOISING, choices=STEPS, default=2, help="denoising passes a frame, K (%(default)s)"
    )
    parser.add_argument("--history", type=NATURAL, default=16, help="frames to rewind (%(default)s)")
    parser.add_argument("--context", type=COUNT, help="frames of past (default: as trained)")
    parser.add_argument(
        "--metrics-port", type=PORT, metavar="PORT", help="serve /metrics, /livez and /readyz on 127.0.0.1"
    )
    parser.add_argument(
        "--ttl",
        type=SECONDS,
        default=30.0,
        help="seconds that a silent client keeps its sessions (%(default)s)",
    )
    parser.add_argument(
        "--engines",
        type=PROCESSES,
        default=1,
        help="processes, one per device, behind the one address (%(default)s)",
    )
    parser.add_argument("--behind-front", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=_DTYPES, help="by default what is faster on the device")
    parser.add_argument("--threads", type=THREADS, help="CPU threads (default: all)")
    return parser


def _engine(args: argparse.Namespace) -> Engine:
    if args.threads:
        torch.set_num_threads(args.threads)
    world = load(args.world, args.device, _DTYPES.get(args.dtype))
    return world.engine(
        slots=args.slots,
        context=args.context,
        steps=args.steps,
        history=args.history,
        parking=args.parking * _MIB,
    )


def _options(args: argparse.Namespace) -> Options:
    return Options(
        address=_address(args),
        keys=args.keys,
        state=args.state,
        metrics_port=args.metrics_port,
        ttl=args.ttl,
        durable=args.durable,
        front=args.behind_front,
        limits=_BEHIND if args.behind_front else Limits(),
    )


def _address(args: argparse.Namespace) -> str:
    return args.bind or default_address(Path(args.world).name)


def engine_words(args: argparse.Namespace) -> list[list[str]]:
    """The command lines of the engines behind a front: as its own, each with its share of the machine."""
    shared = ["serve", args.world]
    for name in ("slots", "parking", "steps", "history", "context", "ttl", "dtype"):
        value = getattr(args, name)
        shared += [] if value is None else [f"--{name}", str(value)]
    shared += ["--durable"] if args.durable else []
    cards = torch.cuda.device_count() if args.device in ("auto", "cuda") else 0
    threads = args.threads or max(1, torch.get_num_threads() // args.engines)
    devices = [f"cuda:{number % cards}" if cards else args.device for number in range(args.engines)]
    return [[*shared, "--threads", str(threads), "--device", device] for device in devices]


def _tell(server: Server) -> None:
    """One line for people and for programs that start this one."""
    page = "" if server.metrics_port is None else f", metrics http://127.0.0.1:{server.metrics_port}/metrics"
    sessions = f"{len(server.sessions)} sessions of {server.engine.slots} slots"
    where = f"{server.address} and {control_address(server.address)}"
    print(f"serving {server.engine.world.name} at {where}, {sessions}{page}", flush=True)


@contextmanager
def _asked_to_end() -> Iterator[threading.Event]:
    """Set by the first SIGTERM or Ctrl-C; the second one ends the process at once."""
    asked = threading.Event()

    def ask(*_: object) -> None:
        asked.set()
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
