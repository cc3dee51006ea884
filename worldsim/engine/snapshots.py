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
from worldsim.engine.loaded_world import LoadedWorld
from worldsim.engine.snapshot_rules import ANY, Rule, check_header, check_tensors, rules_like
from worldsim.engine.step import Step
from worldsim.errors import CameraError, EngineError
from worldsim.sampling.world_state import WorldState, empty_state

FORMAT = 6
_SUM = hashlib.sha256().digest_size
_SLACK, _HEADER_BYTES = 4, 2**20
"""Snapshots of a larger context are read, to be told what does not fit."""
_GENERATOR = "generator."
"""Begins the names of the tensors of a generator's state."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One session at one moment."""

    state: WorldState
    """One row."""
    step: Step
    seed: int
    start: int | None


@dataclass(frozen=True, slots=True)
class SnapshotSchema:
    """Schema of the snapshots of one engine."""

    weights_sha256: str
    """Hash of the weights that they belong to."""
    context: int
    has_poses: bool
    rules: dict[str, Rule]
    """For every tensor."""

    @property
    def most_bytes(self) -> int:
        """Bytes above which no snapshot is read: several times what a session of this engine takes."""
        return _SLACK * sum(rule.most_bytes for rule in self.rules.values()) + _HEADER_BYTES

    @staticmethod
    def of(world: LoadedWorld, context: int) -> SnapshotSchema:
        """The schema of an engine with a context of ``context`` units."""
        networks, latent = world.networks, world.networks.tokenizer.latent_spec
        rules = rules_like(_tensors(empty_state(networks, 1, context)))
        rules["seen"] = Rule(torch.uint8, ((*world.spec.size, 3), (0, 0, 3)))
        within = (-1.0, 1.0) if latent.bounded else ANY
        rules["latent"] = Rule(torch.float32, (latent.shape,), within, optional=True)
        return SnapshotSchema(world.weights_sha256, context, networks.has_poses, rules)


def pack(snapshot: Snapshot, weights_sha256: str) -> bytes:
    """Serialise; ``weights_sha256`` names the weights that the snapshot belongs to."""
    state, step = snapshot.state, snapshot.step
    tensors = {**_tensors(state), "seen": torch.from_numpy(step.frame.copy())}
    header = {
        "format": FORMAT,
        "weights_sha256": weights_sha256,
        "context": state.generator.context,
        "seed": snapshot.seed,
        "start": snapshot.start,
        "index": step.index,
        "denoising_steps": step.denoising_steps,
        "has_pose": step.pose is not None,
        "pose_given": step.pose_given,
        "reward": step.reward,
        "terminated": step.terminated,
        "uncertainty": step.uncertainty,
        "known": step.known,
    }
    if step.latent is not None:
        tensors["latent"] = torch.from_numpy(step.latent.copy())
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    body = save(plain, {"session": json.dumps(header)})
    return hashlib.sha256(body).digest() + body


def unpack(blob: object, schema: SnapshotSchema, world: LoadedWorld) -> Snapshot:
    """Deserialise. The checksum only finds accidents, so all parts are validated.

    Raises:
        EngineError: damaged, of another format, of other weights or another engine, or with parts that no
            session of this engine has.
    """
    if not isinstance(blob, bytes | bytearray | memoryview):
        rule, remedy = "a snapshot must be bytes", "give what Session.snapshot() returned"
        raise EngineError(rule, type(blob).__name__, remedy)
    if len(blob) > schema.most_bytes:  # a checksum over megabytes would keep everybody waiting
        rule = f"a snapshot for this engine must have at most {schema.most_bytes} bytes"
        raise EngineError(rule, len(blob), "restore it in an engine of its own world and context")
    header, tensors = _read(bytes(blob))
    if header.get("format") != FORMAT:
        rule = f"a snapshot's format must be {FORMAT}"
        raise EngineError(rule, repr(header.get("format"))[:80], "restore it with the version that took it")
    header = check_header(header)
    if header["weights_sha256"] != schema.weights_sha256:
        rule, remedy = "a snapshot must belong to the world's weights", "load the world that it was taken in"
        raise EngineError(rule, header["weights_sha256"][:12], remedy)
    if header["context"] != schema.context:
        rule, held = (
            f"a snapshot must have this engine's context of {schema.context} frames",
            header["context"],
        )
        raise EngineError(rule, held, f"use engine(context={held})")
    tensors = check_tensors(tensors, schema.rules)
    _check_consistency(tensors, header, schema)
    state = _state(tensors, world, schema.context)
    return Snapshot(state, _step(tensors, header), header["seed"], header["start"])


def is_restorable(blob: bytes, schema: SnapshotSchema, world: LoadedWorld) -> bool:
    """True unless ``unpack`` refuses a snapshot, as it does where a number of the session became NaN."""
    try:
        unpack(blob, schema, world)
    except EngineError:
        return False
    return True


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


def _check_consistency(tensors: dict[str, Tensor], header: dict[str, Any], schema: SnapshotSchema) -> None:
    """Check that the parts agree with each other."""
    frames = int(tensors["indices"][0])
    if frames != header["index"] + 1:
        rule = "a snapshot's index must be that of the last of its frames"
        raise EngineError(rule, (header["index"], frames))
    if header["has_pose"] != schema.has_poses:
        rule = f"a snapshot of this world must have {'a' if schema.has_poses else 'no'} pose"
        raise EngineError(rule, header["has_pose"])
    try:
        camera.check_pose(tensors["poses"].numpy(), 2 * camera.FARTHEST)  # keys lead on from there
    except CameraError as error:
        raise EngineError("a snapshot's poses must be rigid", str(error)[:120]) from error


def _tensors(state: WorldState) -> dict[str, Tensor]:
    """All of a state by name."""
    return state.parts() | {_GENERATOR + name: part for name, part in state.generator.tensors().items()}


def _state(tensors: dict[str, Tensor], world: LoadedWorld, context: int) -> WorldState:
    """One row of state on the world's device, from tensors that keep the rules."""
    with torch.inference_mode():
        state = empty_state(world.networks, 1, context)
        here = {name: value.to(world.device) for name, value in tensors.items()}
        state.generator.load({name: here[_GENERATOR + name] for name in state.generator.tensors()})
        units = here["pending.units"] if state.pending else here["indices"]
        if int(state.generator.units) != int(units):
            rule = "a snapshot's generator must have seen as many units as the session"
            raise EngineError(rule, (int(state.generator.units), int(units)))
        return state.with_parts({name: here[name] for name in state.parts()})


def _step(tensors: dict[str, Tensor], header: dict[str, Any]) -> Step:
    return Step(
        frame=tensors["seen"].cpu().numpy(),
        pose=tensors["poses"].cpu().numpy()[0].copy() if header["has_pose"] else None,
        pose_given=header["pose_given"],
        reward=header["reward"],
        terminated=header["terminated"],
        uncertainty=header["uncertainty"],
        index=header["index"],
        denoising_steps=header["denoising_steps"],
        latent=tensors["latent"].cpu().numpy() if "latent" in tensors else None,
        known=header["known"],
    )
