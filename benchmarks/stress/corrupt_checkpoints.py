"""Corrupted checkpoints: files of a valid one changed, with matching checksums."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save

__all__ = ["corrupt", "rewrite_checksums"]

_ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 7, 1000, 10**5, 10**6, 10**7, 2**31, 2**63, 10**30, 0.0, -0.5, 0.001,
    1e-9, 1e9, 1e308, float("nan"), float("inf"), -float("inf"), "", "x", "forward", [], [1], [1, 1],
    [0.0] * 4, [1e9] * 4, {}, {"x": 1}, [[]] * 5, "x" * 20_000,
)  # fmt: skip
_NUMBERS = (float("nan"), float("inf"), -float("inf"), 6e4, -6e4, 0.0)


def corrupt(rng: random.Random, true: Path, folder: Path) -> str:
    """Write a corrupted copy of a world to ``folder``; return what was changed."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(true, folder)
    kind = rng.choice(_GENERATORS)
    what = f"{kind.__name__.strip('_')}: {kind(rng, folder)}"
    rewrite_checksums(folder)
    return what


def rewrite_checksums(folder: Path) -> None:
    """Rewrite the checksums to match the files."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    names = [path.relative_to(folder).as_posix() for path in paths]
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    rows = (f"{digest}  {name}\n" for digest, name in zip(sums, names, strict=True))
    (folder / "SHA256SUMS").write_text("".join(rows))


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all entries of a nested value."""
    keys = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in keys for path in ((*at, key), *_paths(inner, (*at, key)))]


def _change(rng: random.Random, value: Any) -> str:
    """Change one entry of a nested value."""
    path = rng.choice(_paths(value))
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    old = holder[path[-1]]
    if rng.random() < 0.1:
        del holder[path[-1]]
        return f"{path} gone"
    if isinstance(old, int | float) and not isinstance(old, bool) and rng.random() < 0.5:
        times, more = rng.choice((-1, 0, 2, 1000, 1e6)), rng.choice((0, 0, 1, -1))
        holder[path[-1]] = type(old)(old * times) + more
    else:
        holder[path[-1]] = rng.choice(_ODD)
    return f"{path} {str(old)[:30]} -> {str(holder[path[-1]])[:30]}"


def _config(rng: random.Random, folder: Path) -> str:
    path = folder / "config.json"
    row = json.loads(path.read_text())
    outcomes = [_change(rng, row) for _ in range(rng.choice((1, 1, 1, 2, 4)))]
    path.write_text(json.dumps(row))
    return "; ".join(outcomes)


def _sizes(rng: random.Random, folder: Path) -> str:
    """Frames of another size, in the config and in the starts."""
    size = rng.choice(((1, 1), (60, 1), (2, 80), (59, 80), (120, 160), (0, 80)))
    path = folder / "config.json"
    row = json.loads(path.read_text())
    row["source"]["size"] = list(size)
    if rng.random() < 0.5:
        for part in row["networks"].values():
            if isinstance(part, dict) and "size" in part:
                part["size"] = list(size)
    path.write_text(json.dumps(row))
    for start in (folder / "starts").glob("*.png"):
        Image.fromarray(np.zeros((3 * max(size[0], 1), size[1], 3), np.uint8)).save(start)
    return str(size)


def _weights(rng: random.Random, folder: Path) -> str:
    path = folder / "weights.safetensors"
    tensors = load(path.read_bytes())
    name = rng.choice(sorted(tensors))
    old = tensors[name]
    what = rng.choice(("number", "all", "shape", "gone", "more", "dtype"))
    if what in ("number", "all") and old.is_floating_point():
        old = old.clone()
        number = rng.choice(_NUMBERS)
        old.fill_(number) if what == "all" else old.view(-1)[:1].fill_(number)
        tensors[name], what = old, f"{what} {number}"
    elif what == "gone":
        del tensors[name]
    elif what == "more":
        tensors[f"{name}.more"] = old.clone()
    elif what == "dtype":
        tensors[name] = old.to(rng.choice((torch.float64, torch.int8, torch.bool, torch.bfloat16)))
    else:
        shape = [size + rng.choice((0, 1, -size)) for size in old.shape]
        tensors[name] = torch.zeros(shape, dtype=old.dtype)
    path.write_bytes(save(tensors))
    return f"{name} {what}"


def _starts(rng: random.Random, folder: Path) -> str:
    path = folder / "starts.json"
    rows = json.loads(path.read_text())
    outcomes = _change(rng, rows)
    path.write_text(json.dumps(rows))
    return outcomes


def _text(rng: random.Random, folder: Path) -> str:
    path = folder / rng.choice(("config.json", "starts.json", "card.md"))
    texts = (b"", b"{}", b"[]", b"null", b"[" * 100_000, b'{"format": 6}', b"\xff\xfe", b"1e999")
    text = rng.choice(texts)
    path.write_bytes(text)
    return f"{path.name} {text[:20]!r}"


def _picture(rng: random.Random, folder: Path) -> str:
    path = folder / "starts" / "000.png"
    what = rng.choice(("bomb", "cut", "noise", "one pixel", "grey", "jpeg", "gone"))
    if what == "bomb":
        path.write_bytes(_bomb(20_000))
    elif what == "cut":
        path.write_bytes(path.read_bytes()[: rng.randrange(500)])
    elif what == "noise":
        data = bytearray(path.read_bytes())
        for _ in range(20):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
    elif what == "gone":
        path.unlink()
    else:
        shape = {"one pixel": (1, 1, 3), "grey": (180, 80), "jpeg": (180, 80, 3)}[what]
        Image.fromarray(np.zeros(shape, np.uint8)).save(path, "JPEG" if what == "jpeg" else "PNG")
    return what


def _bomb(side: int) -> bytes:
    """A small PNG that unpacks to ``side`` x ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pack, row = zlib.compressobj(9), bytes(1 + 3 * side)
    data = b"".join(pack.compress(row) for _ in range(side // 20)) + pack.flush()
    size = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


_GENERATORS: tuple[Callable[[random.Random, Path], str], ...] = (
    _config, _config, _config, _config, _config, _weights, _weights, _starts, _sizes, _text, _picture,
)  # fmt: skip
