"""Sessions as bytes: a sha256, then safetensors with a JSON header; refused by other weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from worldsim.engine.step import Step
from worldsim.errors import EngineError
from worldsim.model.cache import Cache
from worldsim.sampling.memory import Memory
from worldsim.sampling.philox import signed
from worldsim.tokenizer.protocol import Past

FORMAT = 3
_SUM = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One session at one moment."""

    memory: Memory
    """One row."""
    step: Step
    seed: int
    start: int | None


def pack(snapshot: Snapshot, digest: str) -> bytes:
    """To bytes; ``digest`` names the weights that it belongs to."""
    memory, step = snapshot.memory, snapshot.step
    tensors = {
        "keys": memory.cache.keys,
        "values": memory.cache.values,
        "written": memory.cache.written,
        "index": memory.cache.index,
        "frame": memory.past.frame,
        "reach": memory.past.reach,
        "agent": memory.agent,
        "moves": memory.moves,
        "doubt": memory.doubt,
        "poses": memory.poses,
        "seen": torch.from_numpy(step.frame.copy()),
    }
    header = {
        "format": FORMAT,
        "digest": digest,
        "sinks": memory.cache.sinks,
        "seed": snapshot.seed,
        "start": snapshot.start,
        "session_seed": int(memory.seeds[0]) % 2**64,
        "frames": int(memory.indices[0]),
        "index": step.index,
        "steps": step.steps,
        "has_pose": step.pose is not None,
        "pose_given": step.pose_given,
        "reward": step.reward,
        "terminated": step.terminated,
        "drift": step.drift,
    }
    if step.latent is not None:
        tensors["latent"] = torch.from_numpy(step.latent.copy())
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    body = save(plain, {"session": json.dumps(header)})
    return hashlib.sha256(body).digest() + body


def unpack(blob: bytes, digest: str, device: torch.device) -> Snapshot:
    """From bytes.

    Raises:
        EngineError: damaged, of another format, or of other weights.
    """
    header, tensors = _read(bytes(blob))
    if header["format"] != FORMAT:
        rule = f"a snapshot's format must be {FORMAT}"
        raise EngineError(rule, header["format"], "restore it with the version that took it")
    if header["digest"] != digest:
        rule, remedy = "a snapshot must belong to the world's weights", f"load the world {digest[:12]}..."
        raise EngineError(rule, header["digest"][:12], remedy)
    tensors = {name: value.to(device) for name, value in tensors.items()}
    return Snapshot(_memory(tensors, header), _step(tensors, header), header["seed"], header["start"])


def _read(blob: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a snapshot that is whole."""
    digest, body = blob[:_SUM], blob[_SUM:]
    if hashlib.sha256(body).digest() != digest:
        what = f"{len(blob)} bytes that do not match their checksum"
        raise EngineError("a snapshot must be whole", what, "take it again with Session.snapshot()")
    try:
        size = int.from_bytes(body[:8], "little")
        header = json.loads(json.loads(body[8 : 8 + size])["__metadata__"]["session"])
        return header, load(body)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise EngineError("a snapshot must be one of a session", str(error)[:120]) from error


def _memory(tensors: dict[str, Tensor], header: dict[str, Any]) -> Memory:
    return Memory(
        cache=Cache(
            keys=tensors["keys"],
            values=tensors["values"],
            written=tensors["written"],
            index=tensors["index"],
            sinks=header["sinks"],
        ),
        past=Past(tensors["frame"], tensors["reach"]),
        agent=tensors["agent"],
        moves=tensors["moves"],
        doubt=tensors["doubt"],
        poses=tensors["poses"],
        seeds=torch.tensor([signed(header["session_seed"])], device=tensors["index"].device),
        indices=torch.tensor([header["frames"]], device=tensors["index"].device),
    )


def _step(tensors: dict[str, Tensor], header: dict[str, Any]) -> Step:
    return Step(
        frame=tensors["seen"].cpu().numpy(),
        pose=tensors["poses"].cpu().numpy()[0].copy() if header["has_pose"] else None,
        pose_given=header["pose_given"],
        reward=header["reward"],
        terminated=header["terminated"],
        drift=header["drift"],
        index=header["index"],
        steps=header["steps"],
        latent=tensors["latent"].cpu().numpy() if "latent" in tensors else None,
    )
