"""Forged snapshots: parts of a valid one changed, with a valid checksum."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

__all__ = ["KINDS", "forge", "open_sealed", "seal"]

Header = dict[str, Any]
Tensors = dict[str, Tensor]

_ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 10**30, -(10**30), 2**63, 2**64, 1e308, -1e308, float("nan"),
    float("inf"), -float("inf"), "", "x", "1", [], {}, [[]], [1.5] * 16, {"a": {"b": 1}}, 0.5, -0.0, 10**400,
)  # fmt: skip
_DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int8,
    torch.uint8, torch.bool,
)  # fmt: skip
_NUMBERS = (float("nan"), float("inf"), -float("inf"), -1000.0, -2.0, -1.0, 2.0, 1e9, 1e30, 3e38)


def seal(body: bytes) -> bytes:
    """Prefix bytes with the checksum of a snapshot."""
    return hashlib.sha256(body).digest() + body


def open_sealed(blob: bytes) -> tuple[Header, Tensors]:
    """Return header and tensors of a valid snapshot."""
    body = blob[hashlib.sha256().digest_size :]
    size = int.from_bytes(body[:8], "little")
    return json.loads(json.loads(body[8 : 8 + size])["__metadata__"]["session"]), load(body)


def forge(rng: random.Random, blob: bytes) -> bytes:
    """Forge a snapshot from a valid one; by chance it may still be valid."""
    return rng.choice(KINDS)(rng, blob)


def _sealed(header: Any, tensors: Tensors) -> bytes:
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return seal(save(plain, {"session": json.dumps(header)}))


def _fields(rng: random.Random, blob: bytes) -> bytes:
    header, tensors = open_sealed(blob)
    for name in rng.sample(sorted(header), rng.choice((1, 1, 1, 2, 3))):
        if name != "weights_sha256" or rng.random() < 0.1:
            header[name] = rng.choice(_ODD)
    return _sealed(header, tensors)


def _names(rng: random.Random, blob: bytes) -> bytes:
    """A part is missing, or one too many."""
    header, tensors = open_sealed(blob)
    parts: dict[str, Any] = rng.choice((header, tensors))
    name = rng.choice(sorted(parts))
    value = parts[name] if rng.random() < 0.5 else parts.pop(name)
    if rng.random() < 0.5:
        parts["x" * rng.choice((1, 3000))] = value.clone() if isinstance(value, Tensor) else value
    return _sealed(header, tensors)


def _shapes(rng: random.Random, blob: bytes) -> bytes:
    header, tensors = open_sealed(blob)
    name = rng.choice(sorted(tensors))
    old = tensors[name]
    if rng.random() < 0.5 and old.ndim:
        axis = rng.randrange(old.ndim)
        shapes = [list(old.shape) for _ in range(3)]
        shapes[0][axis], shapes[1][axis] = 0, old.shape[axis] + 1
        shape = [*rng.choice(shapes), *([1] * rng.choice((0, 0, 1)))]
    else:
        shape = rng.choice(([], [0], [1], [3, 3], [2, 2, 2, 2], [1, 0, 7], [100_000]))
    tensors[name] = torch.zeros(shape, dtype=old.dtype)
    return _sealed(header, tensors)


def _dtypes(rng: random.Random, blob: bytes) -> bytes:
    header, tensors = open_sealed(blob)
    name = rng.choice(sorted(tensors))
    tensors[name] = tensors[name].to(rng.choice(_DTYPES))
    return _sealed(header, tensors)


def _numbers(rng: random.Random, blob: bytes) -> bytes:
    """One number of a tensor, or all."""
    header, tensors = open_sealed(blob)
    name = rng.choice(sorted(tensors))
    old, number = tensors[name].clone(), rng.choice(_NUMBERS)
    if not old.is_floating_point():
        number = rng.choice((-1000, -2, -1, 0, 1, 2**31, 2**62, -(2**63)))
        number = number % 256 if old.dtype == torch.uint8 else number
    if rng.random() < 0.5 or not old.numel():
        old.fill_(number)
    else:
        old.flatten()[rng.randrange(old.numel())] = number
    tensors[name] = old
    if name == "indices" and rng.random() < 0.5:
        header["index"] = int(old.flatten()[0]) - 1
    return _sealed(header, tensors)


def _bytes(rng: random.Random, blob: bytes) -> bytes:
    """The body itself is bent: flipped bytes, cut, a header that is none, or one nested deep."""
    body = bytearray(blob[hashlib.sha256().digest_size :])
    for _ in range(rng.choice((0, 1, 8))):
        body[rng.randrange(min(len(body), 3000))] = rng.randrange(256)
    text = rng.choice((b"{}", b"[]", b"[" * 50_000, b'{"__metadata__": {"session": "[1]"}}', b"\xff\xfe"))
    whole = len(text).to_bytes(8, "little") + text
    return seal(rng.choice((bytes(body), bytes(body[: rng.randrange(len(body))]), whole, b"")))


KINDS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _fields, _fields, _names, _shapes, _shapes, _dtypes, _numbers, _numbers, _bytes,
)  # fmt: skip
