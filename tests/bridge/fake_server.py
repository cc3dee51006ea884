"""A server whose every frame is known beforehand, and which does to chosen requests what a bad day does.

A session's frame is noise of its seed and of all its controls so far; its reward counts "forward". ``faults``
names what befalls the next requests on the data socket: "DROP" (carried out, but the reply is lost), "DEAF"
(not carried out, no reply), "EMPTY" (a reply that is ok and holds nothing), or the code of a refusal; "OK" is
none.
"""

from __future__ import annotations

import io
import threading
import zlib
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import zmq
from PIL import Image

from worldsim.bridge.wire.protocol import (
    CODECS,
    REQUEST,
    ClientLimits,
    control_address,
    decode,
    describe,
    encode,
)
from worldsim.envs.sources.doom import DOOM_KEYS

SIZE = (12, 16)
ACTIONS = ((), ("forward",), ("turn_left",), ("turn_right",), ("forward", "turn_left"))
LEASE = "ab" * 16
HELLO = {
    "lease": LEASE,
    "ttl_s": 10.0,
    "world": "fake",
    "weights_sha256": "0" * 64,
    "size": SIZE,
    "fps": 17.5,
    "keys": DOOM_KEYS,
    "discrete_actions": ACTIONS,
    "yaw": True,
    "pose": True,
    "intrinsics": [8.0, 8.0, 8.0, 6.0],
    "starts": 2,
    "denoising_steps": 2,
    "context": 6,
    "codecs": CODECS,
    "ops": ("open", "step", "step_many", "fork", "rewind", "observe", "snapshot", "restore", "close"),
    "latent": [4, 3],
    "limits": ClientLimits().to_dict(),
    "server": "0",
}


class FakeSession:
    """A session's past, as one number."""

    def __init__(self, hash: int, index: int = 0, ends_at: int = 1000) -> None:
        self.hash, self.index, self.ends_at = hash, index, ends_at
        self.seq, self.reward = 0, 0.0
        self.pose = np.eye(4).ravel().tolist()
        self.given = False
        self.replies: dict[int, tuple[dict[str, Any], list[bytes]]] = {}
        self.past: list[tuple[int, int]] = []

    def move(self, control: Mapping[str, Any]) -> None:
        self.past.append((self.hash, self.index))
        self.hash = zlib.crc32(repr(sorted(control.get("keys", ()))).encode(), self.hash)
        self.given = control.get("pose") is not None
        self.pose = control.get("pose") or self.pose
        self.index, self.reward = self.index + 1, float("forward" in control.get("keys", ()))

    def observe(self, frame: bytes, control: Mapping[str, Any]) -> None:
        self.move(control)
        self.hash = zlib.crc32(frame, self.hash)

    def rewind(self, frames: int) -> None:
        self.hash, self.index = self.past[-frames]
        del self.past[-frames:]

    def frame(self, codec: str) -> np.ndarray | None:
        rng = np.random.default_rng(self.hash)
        if codec == "latent":
            return rng.standard_normal(HELLO["latent"]).astype(np.float32)
        return None if codec == "none" else rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)

    def step(self) -> dict[str, Any]:
        return {
            "seq": self.seq,
            "index": self.index,
            "pose": self.pose,
            "pose_given": self.given,
            "reward": self.reward,
            "terminated": self.index >= self.ends_at,
            "uncertainty": 0.1 * self.index,
            "known": True,
            "denoising_steps": 2,
        }


class FakeServer:
    """Serves ``address`` from a thread until it is closed."""

    def __init__(self, address: str, ends_at: int = 1000) -> None:
        self.address, self.ends_at = address, ends_at
        self.sessions: dict[str, FakeSession] = {}
        self.faults: deque[str] = deque()
        self.seen: list[dict[str, Any]] = []
        self.pause = 5.0
        """Milliseconds after which a refused request may be welcome."""
        self.heard = threading.Event()
        """Set by every heartbeat."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets = [self._bind(one) for one in (address, control_address(address))]
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(5)

    def ops(self) -> list[str]:
        """Of the requests on the data socket."""
        return [header["op"] for header in self.seen]

    def _bind(self, address: str) -> zmq.Socket[bytes]:
        one = self._context.socket(zmq.ROUTER)
        one.linger = 0
        one.bind(address)
        return one

    def _serve(self) -> None:
        poller = zmq.Poller()
        for one in self._sockets:
            poller.register(one, zmq.POLLIN)
        while not self._closing.is_set():
            for one, _ in poller.poll(20):
                who, *parts = one.recv_multipart()
                for answer in self._answer(parts, one is self._sockets[0]):
                    one.send_multipart([who, *answer])
        self._context.destroy(linger=0)

    def _answer(self, parts: list[bytes], data: bool) -> list[list[bytes]]:
        request = decode(parts, REQUEST)
        header, fault = request.header, "OK"
        if data:
            self.seen.append(header)
            fault = self.faults.popleft() if self.faults else "OK"
        reply = {"op": header["op"], "id": header["id"]}
        if fault == "EMPTY":
            return [encode({**reply, "ok": True})]
        if fault not in ("OK", "DROP", "DEAF"):
            return [encode({**reply, "ok": False, "error": refusal(fault, self.pause)})]
        if fault == "DEAF":
            return []
        body, payloads = self._operation(header["op"])(header, request.payloads)
        ok = "error" not in body
        return [] if fault == "DROP" else [encode({**reply, "ok": ok, **body}, payloads)]

    def _operation(self, op: str) -> Any:
        return self.close_session if op == "close" else getattr(self, op)

    def hello(self, header: dict[str, Any], _: Any) -> Any:
        return HELLO | {"sessions": {name: session.seq for name, session in self.sessions.items()}}, []

    def heartbeat(self, header: dict[str, Any], _: Any) -> Any:
        self.heard.set()
        return {}, []

    def info(self, header: dict[str, Any], _: Any) -> Any:
        return {"world": "fake", "sessions": len(self.sessions)}, []

    def open(self, header: dict[str, Any], payloads: list[bytes]) -> Any:
        start = zlib.crc32(b"".join(payloads), header.get("start") or 0)
        made = FakeSession(zlib.crc32(repr(header["seed"]).encode(), start), ends_at=self.ends_at)
        return self._one(self.sessions.setdefault(header["session"], made))

    def step(self, header: dict[str, Any], _: Any) -> Any:
        session = self.sessions.get(header["session"])
        if session is None:
            return {"error": refusal("UNKNOWN_SESSION")}, []
        return self._once(session, header, lambda: session.move(header["control"]))

    def observe(self, header: dict[str, Any], payloads: list[bytes]) -> Any:
        session = self.sessions[header["session"]]
        return self._once(session, header, lambda: session.observe(payloads[0], header["control"]))

    def rewind(self, header: dict[str, Any], _: Any) -> Any:
        session = self.sessions[header["session"]]
        return self._once(session, header, lambda: session.rewind(header["frames"]))

    def step_many(self, header: dict[str, Any], _: Any) -> Any:
        items, frames = [], []
        for item in header["items"]:
            fault = self.faults.popleft() if self.faults else "OK"
            if fault != "OK":
                items.append({"session": item["session"], "error": refusal(fault)})
                continue
            body, payloads = self.step({**item, "codec": header["codec"]}, None)
            if "error" in body:
                items.append({"session": item["session"], **body})
                continue
            step = {name: value for name, value in body["step"].items() if name != "frame"}
            if header["codec"] == "jpeg":
                step["bytes"] = len(payloads[0])
            items.append({"session": item["session"], "step": step})
            frames += payloads
        return {"items": items}, [b"".join(frames)] if frames else []

    def fork(self, header: dict[str, Any], _: Any) -> Any:
        parent = self.sessions[header["session"]]
        for name in header["children"]:
            self.sessions.setdefault(name, FakeSession(parent.hash, parent.index, parent.ends_at))
        return self._one(parent)

    def snapshot(self, header: dict[str, Any], _: Any) -> Any:
        session = self.sessions[header["session"]]
        return {}, [f"{session.hash} {session.index}".encode()]

    def restore(self, header: dict[str, Any], payloads: list[bytes]) -> Any:
        made = FakeSession(*map(int, payloads[0].split()))
        return self._one(self.sessions.setdefault(header["session"], made))

    def close_session(self, header: dict[str, Any], _: Any) -> Any:
        gone = self.sessions.pop(header["session"], None)
        return ({} if gone else {"error": refusal("UNKNOWN_SESSION")}), []

    def _once(self, session: FakeSession, header: dict[str, Any], move: Any) -> Any:
        seq = header["seq"]
        if seq in session.replies:
            return session.replies[seq]
        if seq != session.seq + 1:
            return {"error": refusal("OUT_OF_ORDER")}, []
        move()
        session.seq = seq
        session.replies[seq] = self._one(session, header.get("codec", "raw"))
        return session.replies[seq]

    def _one(self, session: FakeSession, codec: str = "raw") -> Any:
        array = session.frame(codec)
        if array is None:
            return {"step": session.step() | {"frame": None}}, []
        if codec == "jpeg":
            file = io.BytesIO()
            Image.fromarray(array).save(file, "JPEG")
            frame: dict[str, Any] = {"codec": "jpeg", "shape": [*SIZE, 3], "part": 0}
            return {"step": session.step() | {"frame": frame}}, [file.getvalue()]
        return {"step": session.step() | {"frame": describe(array)}}, [array.tobytes()]


def refusal(code: str, pause: float = 5) -> dict[str, Any]:
    return {"code": code, "rule": f"rule of {code}", "value": "", "remedy": "", "retry_after_ms": pause}
