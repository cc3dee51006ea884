"""Untrusted snapshots, checkpoints and journals."""

from __future__ import annotations

import multiprocessing
import random
import resource
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.stress.corrupt_checkpoints import corrupt
from benchmarks.stress.forged_snapshots import forge
from benchmarks.stress.raw_client import NoReplyError, RawClient, new_name
from benchmarks.stress.server_process import ServerUnderTest
from benchmarks.stress.victim import Victim

__all__ = ["flips", "restores", "worlds"]

SLOTS = 8
_MEMORY = 8 * 2**30
"""Limit of a loader's address space in bytes."""
_TIMEOUT = 120.0
"""Seconds that loading one checkpoint may take."""


def restores(folder: Path, world: Path, count: int) -> dict[str, Any]:
    """Restore forged snapshots on a running server, beside a victim.

    Returns:
        counts: ``restores``, ``restores_taken`` (such as a session could have: stepped and closed),
        ``restores_unanswered``, ``restores_internal``, ``slots_lost``, ``crashes``, ``others_refused``.
    """
    options = ["--slots", str(SLOTS), "--lease-ttl", "600", "--journal", f"{folder}/restores.state"]
    with ServerUnderTest(world, f"ipc://{folder}/restores.sock", options, folder / "restores.log") as server:
        victim, client, rng = Victim(server.address), RawClient(server.address), random.Random(7)
        client.hello()
        own, outcomes = new_name(), Counter[str]()
        client.ask("open", session=own, seed=1)
        for number in range(count):
            if number % 500 == 0:
                client.ask("step", session=own, seq=1 + number // 500, control=None)
                blob = client.ask("snapshot", session=own).payloads[0]
            try:
                outcomes[_try_restore(client, forge(rng, blob))] += 1
            except NoReplyError:
                outcomes["unanswered"] += 1
                if not server.alive:
                    break
        mark = victim.mark()
        free = client.ask("info", kind="control").header["free"] if server.alive else 0
        client.close()
        found = {
            "restores": outcomes.total(),
            "restores_taken": outcomes["ok"],
            "restores_unanswered": outcomes["unanswered"],
            "restores_internal": outcomes["INTERNAL"],
            "slots_lost": SLOTS - 2 - free,
            "crashes": int(not server.alive),
            "restores_beside_steps": mark["steps"],
            "others_refused": len(mark["refused"]),
        }
        victim.end()
    return found


def _try_restore(client: RawClient, blob: bytes) -> str:
    """Return the error code, or "ok" if restored; then step and close it."""
    session = new_name()
    reply = client.ask("restore", [blob], session=session, timeout=20)
    if not reply.ok:
        return reply.code
    step = {"session": session, "seq": 1, "patience": 20}
    codes = [client.ask("step", codec=codec, **step).code for codec in ("jpeg", "raw")]
    client.ask("close", session=session, timeout=20)
    return "INTERNAL" if "INTERNAL" in codes else "ok"


def worlds(folder: Path, count: int) -> dict[str, Any]:
    """Load and step corrupted checkpoints in a process of their own.

    Returns:
        counts: ``worlds``, ``worlds_refused``, ``world_exits`` and ``world_errors``: other than one
        ``CheckpointError``; ``world_faults`` names them.
    """
    outcomes, faults, done = Counter[str](), list[str](), 0
    while done < count:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        load = multiprocessing.get_context("spawn").Process(
            target=_load_many, args=(theirs, folder / "worlds", done, count), daemon=True
        )
        load.start()
        theirs.close()
        what = ""
        try:
            while done < count:
                if not ours.poll(_TIMEOUT):
                    raise EOFError
                kind, what = ours.recv()
                if kind != "begun":
                    outcomes[kind] += 1
                    done += 1
                    faults += [what] if kind == "error" else []
        except EOFError:
            outcomes["exit"] += 1
            done += 1
            faults.append(f"exit or stuck: {what}")
        load.kill()
        load.join()
    return {
        "worlds": count,
        "worlds_refused": outcomes["refused"],
        "world_exits": outcomes["exit"],
        "world_errors": outcomes["error"],
        "world_faults": faults[:20],
    }


def _load_many(pipe: Connection, folder: Path, first: int, count: int) -> None:
    """Load checkpoints by number, and report each, before and after."""
    import torch

    from worldsim.testing import tiny_world

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    torch.set_num_threads(1)
    true = [
        tiny_world(folder, "still"),
        tiny_world(folder, "framed", tokenizer="frame", poses=False),
    ]
    for number in range(first, count):
        what = f"{number}: {corrupt(random.Random(number), true[number % 2], folder / 'corrupted')}"
        pipe.send(("begun", what))
        kind, fault = _load(folder / "bent")
        pipe.send((kind, f"{what}: {fault}"))


def _load(folder: Path) -> tuple[str, str]:
    import torch

    from worldsim.controls import Control
    from worldsim.engine.world import load
    from worldsim.errors import CheckpointError

    try:
        world = load(folder, "cpu", torch.float32)
        if world.starts:
            session = world.engine(1, denoising_steps=1, rewind_frames=1).open(1, start=0)
            session.step(Control())
            session.snapshot()
    except CheckpointError:
        return "refused", ""
    except Exception as error:
        return "error", f"{type(error).__name__}: {error}"[:200]
    return "ran", ""


def flips(folder: Path, world: Path) -> dict[str, Any]:
    """Flip every single bit of a server's journal, one at a time.

    Returns:
        counts: ``flips``, ``flips_refused``, ``flips_torn`` (of the last record, which is kept and told of as
        one that was torn), ``flips_unnoticed``.
    """
    state = folder / "flips.state"
    options = ["--slots", "4", "--lease-ttl", "600", "--journal", str(state)]
    with ServerUnderTest(world, f"ipc://{folder}/flips.sock", options, folder / "flips.log") as server:
        client, session = RawClient(server.address), new_name()
        client.hello()
        client.ask("open", session=session, seed=1)
        for seq in range(1, 13):
            client.ask("step", session=session, seq=seq, control={"keys": ["forward"]}, codec="none")
        client.ask("fork", session=session, seq=12, children=[new_name()])
        client.ask("rewind", session=session, seq=13, frames=2)
        client.close()
    (log,) = state.glob("log-*")
    outcomes = _flip_all(log, folder / "flipped")
    return {
        "flips": outcomes.total(),
        "flips_refused": outcomes["refused"],
        "flips_torn": outcomes["torn"],
        "flips_unnoticed": outcomes["unnoticed"],
    }


def _flip_all(log: Path, copy: Path) -> Counter[str]:
    from worldsim.bridge.journal.wal import read_wal
    from worldsim.errors import BridgeError

    true, outcomes = read_wal(log), Counter[str]()
    data = bytearray(log.read_bytes())
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(data)
        data[bit // 8] ^= 1 << bit % 8
        try:
            found = read_wal(copy)
        except BridgeError:
            outcomes["refused"] += 1
            continue
        last = found.records == true.records[:-1] and found.torn
        outcomes["torn" if last else "unnoticed"] += 1
    return outcomes
