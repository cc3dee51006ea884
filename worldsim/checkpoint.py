"""Worlds on disk: safetensors, JSON and PNG, with checksums; no pickle, atomic writes.

checkpoints/<world>/
  config.json          WorldConfig
  weights.safetensors  float16 on disk
  starts.json + starts/000.png ...   given frames of the starts, one strip of frames each
  card.md              what it is, how it was trained, how well it does
  policy.safetensors   where there is one: a policy that learnt in this world
  SHA256SUMS
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from worldsim import config as configs
from worldsim.camera import check_pose
from worldsim.context import Context
from worldsim.data.spec import SourceSpec
from worldsim.errors import CheckpointError, nearest
from worldsim.networks import Networks, NetworksConfig
from worldsim.untrusted import build_checked, check_numbers, read_bounded, read_strip, sha256_of

FORMAT = 8
CHECKSUMS = "SHA256SUMS"
_MIB = 2**20
_LARGEST = {
    "config.json": _MIB,
    "starts.json": 256 * _MIB,
    "card.md": 16 * _MIB,
    CHECKSUMS: 16 * _MIB,
    "weights.safetensors": 64 * 2**30,
}
"""Bytes of each file at most."""
_MOST_STARTS, _MOST_FRAMES = 1000, 4096
_NEEDED = ("config.json", "weights.safetensors", "starts.json", "card.md")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """Configuration of a world: everything but its weights."""

    name: str
    source: SourceSpec
    """The source at the world's frame size."""
    networks: NetworksConfig
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class StoredWorld:
    """A world as read from disk."""

    config: WorldConfig
    networks: Networks
    starts: tuple[Context, ...]
    card: str
    weights_sha256: str
    """sha256 of the weights file; snapshots belong to it."""


def find_world(name: str | os.PathLike[str]) -> Path:
    """The folder of a shipped world, or the folder given.

    Raises:
        CheckpointError: there is neither a world nor a folder of this name.
    """
    folder, shipped = Path(name), _shipped_folder()
    worlds = {path.parent.name: path.parent for path in shipped.glob("*/config.json")}
    # A folder that merely has a world's name, such as its data, is not meant.
    if folder.is_dir() and ((folder / CHECKSUMS).exists() or str(name) not in worlds):
        return folder
    if str(name) not in worlds:
        raise CheckpointError(
            "a world must be a shipped name or a folder", str(name), nearest(str(name), worlds)
        )
    return worlds[str(name)]


def save_world(
    folder: Path, config: WorldConfig, networks: Networks, starts: Sequence[Context], card: str
) -> None:
    """Write a world; an older one in the same folder is replaced only once the new one is complete."""
    folder = Path(folder)
    building, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        _write_world(building, config, networks, starts, card)
        if folder.exists():
            folder.rename(old)
        building.rename(folder)
    except BaseException:  # Ctrl-C, too
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write_world(
    folder: Path, config: WorldConfig, networks: Networks, starts: Sequence[Context], card: str
) -> None:
    (folder / "starts").mkdir(parents=True)
    configs.save(config, folder / "config.json")
    weights = {
        name: value.detach()
        .to("cpu", torch.float16 if value.is_floating_point() else value.dtype)
        .contiguous()
        for name, value in networks.state_dict().items()
    }
    (folder / "weights.safetensors").write_bytes(save_tensors(weights, {"format": str(config.format)}))
    (folder / "starts.json").write_text(json.dumps([_start_row(start) for start in starts]))
    for i, start in enumerate(starts):
        strip = start.frames.reshape(-1, *start.frames.shape[2:])
        Image.fromarray(strip).save(folder / "starts" / f"{i:03}.png", optimize=True)
    (folder / "card.md").write_text(card)
    write_checksums(folder)


def write_card(folder: Path, card: str) -> None:
    """Replace a world's card and its checksum."""
    (folder / "card.md").write_text(card)
    write_checksums(folder)


def load_world(folder: Path, device: torch.device | str = "cpu") -> StoredWorld:
    """Read a world whole, checking every file against its sum.

    Raises:
        CheckpointError: a file is missing, damaged, or of a newer format.
    """
    folder = Path(folder)
    try:
        return _read_world(folder, device)
    except CheckpointError:
        raise
    except Exception as error:  # files that somebody else made break whatever reads them in many ways
        rule, remedy = "a world's files must belong together", "install or train the world again"
        value = f"{folder.name}: {type(error).__name__}: {error}"
        raise CheckpointError(rule, value[:400], remedy) from error


def _read_world(folder: Path, device: torch.device | str) -> StoredWorld:
    """Read a world: sizes are checked before memory is allocated, numbers before they are used."""
    _check_sums(folder)
    config = _read_config(folder / "config.json")
    raw = read_bounded(folder / "weights.safetensors", _LARGEST["weights.safetensors"])
    networks = build_checked(lambda: Networks(config.networks, config.source), load_tensors(raw))
    starts = read_starts(folder, config.source)
    card = read_bounded(folder / "card.md", _LARGEST["card.md"]).decode()
    networks.eval().requires_grad_(False).to(device)
    return StoredWorld(config, networks, starts, card, hashlib.sha256(raw).hexdigest())


def read_starts(folder: Path, source: SourceSpec) -> tuple[Context, ...]:
    """The starts in a world's folder; ``load_world`` also checks them against their sums.

    Raises:
        CheckpointError: frames, controls or poses that are not those of ``source``.
    """
    rows = json.loads(read_bounded(folder / "starts.json", _LARGEST["starts.json"]))
    if not isinstance(rows, list) or len(rows) > _MOST_STARTS:
        rule = f"files must belong together: starts.json is a list of at most {_MOST_STARTS} starts"
        raise CheckpointError(rule, type(rows).__name__)
    pairs = enumerate(rows)
    return tuple(_read_start(row, folder / "starts" / f"{i:03}.png", source) for i, row in pairs)


def _read_config(path: Path) -> WorldConfig:
    """Read the config; the format is checked first, because a newer one may have unknown fields."""
    row = json.loads(read_bounded(path, _LARGEST["config.json"]))
    if row["format"] != FORMAT:
        remedy = "install a newer worldsim" if row["format"] > FORMAT else "train the world again"
        raise CheckpointError(f"a world's format must be {FORMAT}", row["format"], remedy)
    check_numbers(row)
    return configs.from_dict(WorldConfig, row)


def _shipped_folder() -> Path:
    beside = Path(__file__).resolve().parent.parent / "checkpoints"
    return beside if beside.is_dir() else Path(__file__).resolve().parent / "checkpoints"


def _start_row(start: Context) -> dict[str, object]:
    return {
        "length": len(start.frames),
        "controls": start.controls.tolist(),
        "poses": None if start.poses is None else start.poses.tolist(),
        "seed": start.seed,
        "action_prefix": None if start.action_prefix is None else start.action_prefix.tolist(),
    }


def _read_start(row: dict[str, Any], path: Path, source: SourceSpec) -> Context:
    count, poses, prefix, seed = row["length"], row["poses"], row["action_prefix"], row["seed"]
    if type(count) is not int or not 1 <= count <= _MOST_FRAMES or type(seed) not in (int, type(None)):
        raise CheckpointError(f"a start must have 1 to {_MOST_FRAMES} frames and a seed", (count, seed))
    start = Context(
        read_strip(path, count, source.size),
        np.asarray(row["controls"], np.float32),
        None if poses is None else check_pose(np.asarray(poses, np.float64)),
        seed,
        None if prefix is None else np.asarray(prefix, np.float32),
    )
    columns = source.control_space.size
    for held in (start.controls, *(() if start.action_prefix is None else (start.action_prefix,))):
        if held.ndim != 2 or held.shape[1] != columns or not np.isfinite(held).all():
            raise CheckpointError(f"a start's controls must be finite [T, {columns}]", list(held.shape))
    if source.has_pose and start.poses is None:
        raise CheckpointError("the starts of a source with poses must have poses", path.name)
    return start


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files in a world's folder."""
    lines = [f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in _files(folder)]
    (folder / CHECKSUMS).write_text("".join(lines))


def _check_sums(folder: Path) -> None:
    if not (folder / CHECKSUMS).exists():
        rule, remedy = f"a world's folder must hold {CHECKSUMS}", "name a folder that `worldsim train` wrote"
        raise CheckpointError(rule, str(folder), remedy)
    lines = read_bounded(folder / CHECKSUMS, _LARGEST[CHECKSUMS]).decode().splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in sorted({*sums, *_NEEDED}):
        path = folder / name
        if not path.is_file() or sha256_of(path) != sums.get(name):
            state = "is damaged" if path.is_file() else "is missing"
            rule, remedy = f"a world's files must match {CHECKSUMS}", "check out or train the world again"
            raise CheckpointError(rule, f"{folder.name}/{name} {state}", remedy)
