"""Oracle: traces of sessions over the wire, compared with the same in an undisturbed engine."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stress.raw_client import NoReplyError, RawClient, Reply, new_name
from worldsim.bridge.wire.protocol import describe

__all__ = ["RefusedError", "SessionTrace", "StressCounts", "count_mismatches"]

KEYS = ("forward", "backward", "turn_left", "turn_right")


class RefusedError(Exception):
    """The server refused a valid request."""


@dataclass(slots=True)
class StressCounts:
    """Counts of lost, doubled and refused steps."""

    acknowledged: int = 0
    lost_steps: int = 0
    """Acknowledged steps that the server has lost."""
    duplicate_steps: int = 0
    """Steps that the server took without a request."""
    refused: list[str] = field(default_factory=list)
    """Wrongly refused requests."""


@dataclass(slots=True)
class SessionTrace:
    """Trace of one session: its requests, and the hash of each acknowledged frame."""

    seed: int
    keys: tuple[str, ...] = KEYS
    name: str = field(default_factory=new_name)
    seq: int = 0
    depth: int = 0
    observed_share: float = 0.0
    """Share of its requests that are observed frames, to frames of noise."""
    shape: tuple[int, ...] = ()
    """Shape of a frame."""
    pose: list[float] | None = None
    """Pose of the newest frame."""
    done: list[dict[str, Any]] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)

    def open(self, client: RawClient) -> None:
        """Open the session."""
        reply = _checked(client.ask("open", session=self.name, seed=self.seed))
        self.hashes.append(_hash(reply.payloads[0]))
        self.shape, self.pose = tuple(reply.header["step"]["frame"]["shape"]), reply.header["step"]["pose"]

    def next_request(self, rng: random.Random) -> dict[str, Any]:
        """Return the next request: mostly a step, sometimes a rewind or an observed frame."""
        if self.depth and rng.random() < 0.05:
            return {"op": "rewind", "frames": rng.randint(1, min(4, self.depth))}
        keys = [key for key in self.keys if rng.random() < 0.3]
        if self.observed_share and rng.random() < self.observed_share:
            control = {"keys": keys, "pose": self.pose}
            return {"op": "observe", "control": control, "noise": rng.getrandbits(32)}
        return {"op": "step", "control": {"keys": keys, "yaw": round(rng.uniform(-0.2, 0.2), 3)}}

    def record(self, request: Mapping[str, Any], frame: bytes) -> None:
        """Record an acknowledged request."""
        self.seq += 1
        self.depth += -request["frames"] if request["op"] == "rewind" else 1
        self.done.append(dict(request))
        self.hashes.append(_hash(frame))

    def send_next(self, client: RawClient, rng: random.Random, timeout: float | None = None) -> None:
        """Send one request, and record its reply."""
        request = self.next_request(rng)
        fields, payloads = {**request, "session": self.name, "seq": self.seq + 1}, []
        if request["op"] == "observe":
            frame = _noise(fields.pop("noise"), self.shape)
            fields["frame"], payloads = describe(frame), [frame.tobytes()]
        reply = _checked(client.ask(fields.pop("op"), payloads, timeout=timeout, **fields))
        self.pose = reply.header["step"]["pose"]
        self.record(request, reply.payloads[0])

    def check_seq(self, sessions: Mapping[str, int], counts: StressCounts, in_flight: int = 1) -> None:
        """Compare the server's last seq with the acknowledged one."""
        seq = sessions.get(self.name, -1)
        counts.lost_steps += max(0, self.seq - seq)
        counts.duplicate_steps += max(0, seq - self.seq - in_flight)


def step_together(
    traces: list[SessionTrace], client: RawClient, rng: random.Random, timeout: float | None = None
) -> None:
    """Step several sessions in one request; retry items that are unavailable."""
    left = {}
    for trace in traces:
        control = trace.next_request(rng).get("control", {})
        control.pop("pose", None)  # of an observed frame
        left[trace.name] = (trace, {"op": "step", "control": control})
    while left:
        items = [
            {"session": name, "seq": trace.seq + 1, "control": request["control"]}
            for name, (trace, request) in left.items()
        ]
        reply = _checked(client.ask("step_many", timeout=timeout, items=items))
        answers = reply.header["items"]
        good = [answer for answer in answers if "step" in answer]
        frames = np.split(np.frombuffer(reply.payloads[0], np.uint8), len(good)) if good else []
        for answer, frame in zip(good, frames, strict=True):
            trace, request = left.pop(answer["session"])
            trace.pose = answer["step"]["pose"]
            trace.record(request, frame.tobytes())
        errors = [answer["error"] for answer in answers if "error" in answer]
        for error in errors:
            if error["code"] not in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "DRAINING"):
                raise RefusedError(str(error))
        time.sleep(max((error["retry_after_ms"] or 0.0 for error in errors), default=0.0) / 1000)


def count_mismatches(
    world: Path, traces: list[SessionTrace], denoising_steps: int, rewind_frames: int
) -> int:
    """Replay the traces in an engine of this process; return the number of differing frames."""
    import torch

    import worldsim
    from worldsim.controls import Control

    torch.set_num_threads(1)
    engine = worldsim.load(world).engine(
        slots=max(1, len(traces)), denoising_steps=denoising_steps, rewind_frames=rewind_frames
    )
    sessions = [(trace, engine.open(trace.seed)) for trace in traces]
    differ = 0
    for done in range(max((len(trace.hashes) for trace in traces), default=0)):
        left = [(trace, session) for trace, session in sessions if done < len(trace.hashes)]
        asked = [(session, trace.done[done - 1]) for trace, session in left if done]
        for session, request in asked:
            if request["op"] == "rewind":
                session.rewind(request["frames"])
            elif request["op"] == "observe":
                control, frame = request["control"], _noise(request["noise"], session.frame.shape)
                pose = None if control["pose"] is None else np.reshape(control["pose"], (4, 4))
                session.observe(frame, pose, Control(control["keys"]))
        engine.step({one: Control(**row["control"]) for one, row in asked if row["op"] == "step"})
        differ += sum(_hash(session.frame.tobytes()) != trace.hashes[done] for trace, session in left)
    return differ


def _noise(seed: int, shape: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _hash(frame: bytes) -> str:
    return hashlib.blake2b(frame, digest_size=8).hexdigest()


def _checked(reply: Reply) -> Reply:
    if not reply.ok:
        raise RefusedError(str(reply.header["error"]))
    return reply


__all__ += ["NoReplyError", "step_together"]
