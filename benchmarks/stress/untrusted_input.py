"""Snapshots, checkpoints and journals that are not what they say, at a server and at a loader."""

from __future__ import annotations

import multiprocessing
import random
import resource
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.stress.corrupt_checkpoints import bend
from benchmarks.stress.forged_snapshots import forge
from benchmarks.stress.raw_client import RawClient, UnansweredError, new_name
from benchmarks.stress.server_process import ServerUnderTest
from benchmarks.stress.victim import Victim

__all__ = ["flips", "restores", "worlds"]

SLOTS = 8
_MEMORY = 8 * 2**30
"""Bytes of address space that a loader of hostile checkpoints may take."""
_PATIENCE = 120.0
"""Seconds that one of them may take."""


def restores(folder: Path, world: Path, count: int) -> dict[str, Any]:
    """Sealed hostile snapshots on a live server beside an honest client.

    Returns:
        counts: ``restores``, ``restores_taken`` (such as a session could have: stepped and closed),
        ``restores_unanswered``, ``restores_internal``, ``slots_lost``, ``crashes``, ``others_refused``.
    """
    options = ["--slots", str(SLOTS), "--ttl", "600", "--state", f"{folder}/restores.state"]
    with ServerUnderTest(world, f"ipc://{folder}/restores.sock", options, folder / "restores.log") as house:
        companion, client, chance = Victim(house.address), RawClient(house.address), random.Random(7)
        client.hello()
        own, told = new_name(), Counter[str]()
        client.ask("open", session=own, seed=1)
        for number in range(count):
            if number % 500 == 0:
                client.ask("step", session=own, seq=1 + number // 500, control=None)
                blob = client.ask("snapshot", session=own).payloads[0]
            try:
                told[_try_restore(client, forge(chance, blob))] += 1
            except UnansweredError:
                told["unanswered"] += 1
                if not house.alive:
                    break
        mark = companion.mark()
        free = client.ask("info", kind="control").header["free"] if house.alive else 0
        client.close()
        found = {
            "restores": told.total(),
            "restores_taken": told["ok"],
            "restores_unanswered": told["unanswered"],
            "restores_internal": told["INTERNAL"],
            "slots_lost": SLOTS - 2 - free,
            "crashes": int(not house.alive),
            "restores_beside_steps": mark["steps"],
            "others_refused": len(mark["refused"]),
        }
        companion.end()
    return found


def _try_restore(client: RawClient, blob: bytes) -> str:
    """The code of a refusal, or "ok" where it was taken, in which case it is stepped and closed."""
    session = new_name()
    reply = client.ask("restore", [blob], session=session, patience=20)
    if not reply.ok:
        return reply.code
    step = {"session": session, "seq": 1, "patience": 20}
    codes = [client.ask("step", codec=codec, **step).code for codec in ("jpeg", "raw")]
    client.ask("close", session=session, patience=20)
    return "INTERNAL" if "INTERNAL" in codes else "ok"


def worlds(folder: Path, count: int) -> dict[str, Any]:
    """Hostile checkpoints, loaded and stepped in a process of their own.

    Returns:
        counts: ``worlds``, ``worlds_refused``, ``world_exits`` and ``world_errors``: other than one
        ``CheckpointError``; ``world_faults`` names them.
    """
    told, faults, done = Counter[str](), list[str](), 0
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
                if not ours.poll(_PATIENCE):
                    raise EOFError
                kind, what = ours.recv()
                if kind != "begun":
                    told[kind] += 1
                    done += 1
                    faults += [what] if kind == "error" else []
        except EOFError:
            told["exit"] += 1
            done += 1
            faults.append(f"exit or stuck: {what}")
        load.kill()
        load.join()
    return {
        "worlds": count,
        "worlds_refused": told["refused"],
        "world_exits": told["exit"],
        "world_errors": told["error"],
        "world_faults": faults[:20],
    }


def _load_many(pipe: Connection, folder: Path, first: int, count: int) -> None:
    """Load checkpoints by number and tell of each, before and after."""
    import torch

    from worldsim.testing import tiny_world

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    torch.set_num_threads(1)
    true = [
        tiny_world(folder, "still"),
        tiny_world(folder, "framed", tokenizer="frame", poses=False),
    ]
    for number in range(first, count):
        what = f"{number}: {bend(random.Random(number), true[number % 2], folder / 'bent')}"
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
    """Every single bit of a server's journal flipped, one at a time.

    Returns:
        counts: ``flips``, ``flips_refused``, ``flips_torn`` (of the last record, which is kept and told of as
        one that was torn), ``flips_unnoticed``.
    """
    state = folder / "flips.state"
    options = ["--slots", "4", "--ttl", "600", "--state", str(state)]
    with ServerUnderTest(world, f"ipc://{folder}/flips.sock", options, folder / "flips.log") as house:
        client, session = RawClient(house.address), new_name()
        client.hello()
        client.ask("open", session=session, seed=1)
        for seq in range(1, 13):
            client.ask("step", session=session, seq=seq, control={"keys": ["forward"]}, codec="none")
        client.ask("fork", session=session, seq=12, children=[new_name()])
        client.ask("rewind", session=session, seq=13, frames=2)
        client.close()
    (log,) = state.glob("log-*")
    told = _flip_all(log, folder / "flipped")
    return {
        "flips": told.total(),
        "flips_refused": told["refused"],
        "flips_torn": told["torn"],
        "flips_unnoticed": told["unnoticed"],
    }


def _flip_all(log: Path, copy: Path) -> Counter[str]:
    from worldsim.bridge.journal.wal import read_wal
    from worldsim.errors import BridgeError

    true, told = read_wal(log), Counter[str]()
    data = bytearray(log.read_bytes())
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        copy.write_bytes(data)
        data[bit // 8] ^= 1 << bit % 8
        try:
            found = read_wal(copy)
        except BridgeError:
            told["refused"] += 1
            continue
        last = found.records == true.records[:-1] and found.torn
        told["torn" if last else "unnoticed"] += 1
    return told
