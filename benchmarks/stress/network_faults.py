"""Network faults and stopped clients: no step twice, none lost, other clients unaffected."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.stress.oracle import RefusedError, SessionTrace, StressCounts, count_mismatches
from benchmarks.stress.proxy import Proxy
from benchmarks.stress.raw_client import NoReplyError, RawClient
from benchmarks.stress.server_process import ServerUnderTest
from benchmarks.stress.victim import Victim, quantile

__all__ = ["free_ports", "run"]


class _ProxiedClient(threading.Thread):
    """Client thread behind a proxy that steps on, whatever the proxy does."""

    def __init__(self, data: int, control: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.data, self.control = data, control
        self.trace, self.rng, self.counts = SessionTrace(seed=seed), random.Random(seed), StressCounts()
        self.ready, self.ended = threading.Event(), threading.Event()

    def run(self) -> None:
        client = RawClient(f"tcp://127.0.0.1:{self.data}", f"tcp://127.0.0.1:{self.control}")
        try:
            client.hello()
            self.trace.open(client)
            self.ready.set()
            while not self.ended.is_set():
                self.trace.send_next(client, self.rng)
            self.trace.check_seq(client.hello()["sessions"], self.counts, in_flight=0)
        except (RefusedError, NoReplyError) as error:
            self.counts.refused.append(f"{type(error).__name__}: {error}")
        finally:
            self.ready.set()
            client.close()


def free_ports() -> int:
    """Return a free port whose successor is free, too."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def run(
    folder: Path, world: Path, seconds: float, denoising_steps: int = 1, rewind_frames: int = 16
) -> dict[str, Any]:
    """Run each fault for ``seconds``, with one client behind a proxy and a victim beside it.

    Returns:
        counts: ``fault_steps``, ``lost_steps``, ``duplicate_steps``, ``hash_mismatches``, ``refused``, and by
        fault the other client's p99 over that in peace, ``p99_ratio_<fault>``.
    """
    port = free_ports()
    options = [
        "--slots",
        "16",
        "--denoising-steps",
        str(denoising_steps),
        "--rewind-frames",
        str(rewind_frames),
    ]
    with ServerUnderTest(world, f"tcp://127.0.0.1:{port}", options, folder / "faults.log") as server:
        data, control = Proxy(port), Proxy(port + 1)
        proxied, victim = _ProxiedClient(data.port, control.port, 5), Victim(server.address)
        stopped_victim = Victim(server.address)
        proxied.start()
        proxied.ready.wait(60)
        ratios = _run_faults(seconds, (data, control), victim, stopped_victim, server)
        proxied.ended.set()
        proxied.join(90)
        traces = [
            trace for trace in (proxied.trace, victim.end(), stopped_victim.end()) if trace and trace.hashes
        ]
        data.close()
        control.close()
        crashed = not server.alive
    counts = proxied.counts
    return {
        "crashes": int(crashed),
        "fault_steps": sum(trace.seq for trace in traces),
        "lost_steps": counts.lost_steps,
        "duplicate_steps": counts.duplicate_steps,
        "hash_mismatches": count_mismatches(world, traces, denoising_steps, rewind_frames),
        "refused": counts.refused,
        "stuck": int(proxied.is_alive()) + 3 - len(traces),
        **ratios,
    }


def _run_faults(
    seconds: float,
    proxies: tuple[Proxy, Proxy],
    victim: Victim,
    stopped_victim: Victim,
    server: ServerUnderTest,
) -> dict[str, Any]:
    """Run the faults in turn; return their effect on the victim."""
    victim.measure(1)
    baseline = victim.measure(2 * seconds)
    found: dict[str, Any] = {"fault_peace_p99_ms": quantile([baseline], 99)}
    for name, fault in (
        ("drop", lambda: _drop(proxies, seconds)),
        ("delay", lambda: _delay(proxies, seconds)),
        ("half_open", lambda: _half_open(proxies, seconds)),
        ("slow_reader", lambda: _slow_reader(server.address, seconds)),
        ("stopped", lambda: _stopped(stopped_victim, seconds)),
    ):
        victim.mark()
        fault()
        felt = victim.mark()
        found[f"p99_ratio_{name}"] = round(quantile([felt], 99) / quantile([baseline], 99), 2)
        found["others_refused"] = found.get("others_refused", 0) + len(felt["refused"])
    return found


def _drop(proxies: tuple[Proxy, Proxy], seconds: float) -> None:
    rng, end = random.Random(9), time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(rng.uniform(0.01, 0.6))
        rng.choice(proxies).drop()


def _delay(proxies: tuple[Proxy, Proxy], seconds: float) -> None:
    for proxy in proxies:
        proxy.delay = 0.2
    time.sleep(seconds)
    for proxy in proxies:
        proxy.delay = 0.0


def _half_open(proxies: tuple[Proxy, Proxy], seconds: float) -> None:
    """Drop the server's replies, then the requests, on open connections."""
    for side in ("mute", "deaf"):
        for proxy in proxies:
            setattr(proxy, side, True)
        time.sleep(seconds / 2)
        for proxy in proxies:
            setattr(proxy, side, False)
            proxy.drop()


def _slow_reader(address: str, seconds: float) -> None:
    """Request many frames and read none of them."""
    client = RawClient(address)
    client.sockets["data"].rcvhwm = 1
    client.hello()
    trace = SessionTrace(seed=8)
    trace.open(client)
    end, seq = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        seq += 1
        client.send_once(client.request("step", session=trace.name, seq=seq, control={})[0])
        time.sleep(0.002)
        client.heartbeat()
    client.close()


def _stopped(stopped_victim: Victim, seconds: float) -> None:
    """Stop a client's process for less than its lease lasts."""
    stopped_victim.mark()
    os.kill(stopped_victim.pid, signal.SIGSTOP)
    time.sleep(min(seconds, 2.0))
    os.kill(stopped_victim.pid, signal.SIGCONT)
