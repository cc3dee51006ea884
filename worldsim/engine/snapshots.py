"""Sessions as bytes: a sha256, then safetensors with a JSON header; refused by other weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from worldsim import camera
from worldsim.engine.snapshot_rules import RANGES, Rule, check_header, check_tensors, rules_like
from worldsim.engine.step import Step
from worldsim.errors import CameraError, EngineError
from worldsim.model.cache import Cache
from worldsim.networks import Networks
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


@dataclass(frozen=True, slots=True)
class Form:
    """What the snapshots of one engine look like."""

    digest: str
    """Of the weights that they belong to."""
    context: int
    sinks: int
    has_poses: bool
    rules: dict[str, Rule]
    """For every tensor."""

    @staticmethod
    def of(fresh: Memory, networks: Networks, size: tuple[int, int], digest: str) -> Form:
        """The form of snapshots.

        Args:
            fresh: memory of one row in which nothing has been seen.
            networks: of the world.
            size: height and width of a frame.
            digest: of the weights.
        """
        rules = rules_like(_tensors(fresh))
        rules["seen"] = Rule(torch.uint8, ((*size, 3), (0, 0, 3)))
        latent = (networks.tokenizer.tokens, networks.tokenizer.channels)
        rules["latent"] = Rule(torch.float32, (latent,), RANGES["latent"], optional=True)
        return Form(digest, fresh.cache.frames, fresh.cache.sinks, networks.has_poses, rules)


def pack(snapshot: Snapshot, digest: str) -> bytes:
    """To bytes; ``digest`` names the weights that it belongs to."""
    memory, step = snapshot.memory, snapshot.step
    tensors = {**_tensors(memory), "seen": torch.from_numpy(step.frame.copy())}
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


def unpack(blob: bytes, form: Form, device: torch.device) -> Snapshot:
    """From bytes. The checksum only tells of accidents: all parts are checked before they are believed.

    Raises:
        EngineError: damaged, of another format, of other weights or another engine, or with parts that no
            session of this engine has.
    """
    header, tensors = _read(bytes(blob))
    if header.get("format") != FORMAT:
        rule = f"a snapshot's format must be {FORMAT}"
        raise EngineError(rule, repr(header.get("format"))[:80], "restore it with the version that took it")
    header = check_header(header)
    if header["digest"] != form.digest:
        rule, remedy = "a snapshot must belong to the world's weights", "load the world that it was taken in"
        raise EngineError(rule, header["digest"][:12], remedy)
    _check_context(tensors, form)
    tensors = check_tensors(tensors, form.rules)
    _check_order(tensors, header, form)
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
        if not isinstance(header, dict):
            raise TypeError(f"a header that is a {type(header).__name__}")
        return header, load(body)
    except Exception as error:  # parsers have many kinds, and whatever they do not take is no snapshot
        value = f"{type(error).__name__}: {error}"[:120]
        raise EngineError("a snapshot must be one of a session", value) from error


def _check_context(tensors: dict[str, Tensor], form: Form) -> None:
    held = tensors["written"].shape[-1] if "written" in tensors and tensors["written"].ndim else 0
    if held != form.context:
        rule = f"a snapshot must have this engine's context of {form.context} frames"
        raise EngineError(rule, held, f"use engine(context={held})")


def _check_order(tensors: dict[str, Tensor], header: dict[str, Any], form: Form) -> None:
    """What the parts say of each other."""
    index, written = int(tensors["index"][0]), tensors["written"]
    if index != header["frames"] or int(written.max()) >= index or header["sinks"] != form.sinks:
        rule = "a snapshot's frames, index, written and sinks must be of one session"
        raise EngineError(rule, (header["frames"], index, int(written.max()), header["sinks"]))
    if header["has_pose"] != form.has_poses:
        rule = f"a snapshot of this world must have {'a' if form.has_poses else 'no'} pose"
        raise EngineError(rule, header["has_pose"])
    try:
        camera.check_pose(tensors["poses"].numpy())
    except CameraError as error:
        raise EngineError("a snapshot's poses must be rigid", str(error)[:120]) from error


def _tensors(memory: Memory) -> dict[str, Tensor]:
    """All of a memory that a snapshot holds as tensors."""
    return {
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
    }


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
