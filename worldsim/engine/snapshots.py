"""Sessions as bytes: safetensors with a JSON header, refused where they belong to other weights."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from worldsim.engine.step import Step
from worldsim.errors import EngineError
from worldsim.model.cache import Cache
from worldsim.sampling.rollout import Memory
from worldsim.tokenizer.protocol import Past

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One session at one moment."""

    memory: Memory
    step: Step
    seed: int
    start: int | None


def pack(snapshot: Snapshot, digest: str) -> bytes:
    """To bytes; ``digest`` names the weights that it belongs to."""
    memory, step = snapshot.memory, snapshot.step
    cache = memory.cache
    tensors = {
        "keys": cache.keys, "values": cache.values, "written": cache.written, "index": cache.index, "frame": memory.past.frame,
        "reach": memory.past.reach, "agent": memory.agent, "twists": memory.twists,
        "poses": torch.from_numpy(memory.poses), "seen": torch.from_numpy(step.frame.copy()),
    }
    header = {
        "format": FORMAT, "digest": digest, "sinks": cache.sinks, "seed": snapshot.seed, "start": snapshot.start,
        "session_seed": int(memory.seeds[0]), "frames": int(memory.indices[0]), "index": step.index, "has_pose": step.pose is not None,
        "pose_given": step.pose_given, "reward": step.reward, "terminated": step.terminated, "drift": step.drift,
    }
    return save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, {"session": json.dumps(header)})


def unpack(blob: bytes, digest: str, device: torch.device) -> Snapshot:
    """From bytes.

    Raises:
        EngineError: damaged, of another format, or of other weights.
    """
    try:
        size = int.from_bytes(blob[:8], "little")
        header = json.loads(json.loads(blob[8 : 8 + size])["__metadata__"]["session"])
        tensors = {name: value.to(device) for name, value in load(blob).items()}
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise EngineError("a snapshot must be whole", str(error)[:120], "take it again with Session.snapshot()") from error
    if header["format"] != FORMAT:
        raise EngineError(f"a snapshot's format must be {FORMAT}", header["format"], "restore it with the version that took it")
    if header["digest"] != digest:
        raise EngineError("a snapshot must belong to the world's weights", header["digest"][:12], f"load the world with digest {digest[:12]}...")
    return Snapshot(_memory(tensors, header), _step(tensors, header), header["seed"], header["start"])


def _memory(tensors: dict[str, Tensor], header: dict[str, int]) -> Memory:
    cache = Cache(tensors["keys"], tensors["values"], tensors["written"], tensors["index"], header["sinks"])
    return Memory(
        cache, Past(tensors["frame"], tensors["reach"]), tensors["agent"], tensors["twists"], tensors["poses"].cpu().numpy(),
        np.array([header["session_seed"]], np.uint64), np.array([header["frames"]], np.int64),
    )


def _step(tensors: dict[str, Tensor], header: dict[str, float]) -> Step:
    pose = tensors["poses"].cpu().numpy()[0] if header["has_pose"] else None
    return Step(
        tensors["seen"].cpu().numpy(), pose, bool(header["pose_given"]), header["reward"], bool(header["terminated"]),
        header["drift"], int(header["index"]),
    )
