"""Worlds on disk: safetensors, JSON and PNG; no pickle anywhere, every write atomic, every damage noticed.

    checkpoints/<world>/
      config.json          WorldConfig
      weights.safetensors  float16 on disk
      starts.json + starts/000.png ...   moments from which dreams start, one strip of frames each
      card.md              what it is, how it was trained, how well it does
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

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from worldsim import config as configs
from worldsim.camera import Intrinsics, from_planar
from worldsim.controls import ControlSpace
from worldsim.data.spec import SourceSpec
from worldsim.errors import CheckpointError, DataError, WorldsimError, nearest
from worldsim.model.generator import GeneratorConfig
from worldsim.model.heads import HeadsConfig
from worldsim.networks import Networks, NetworksConfig
from worldsim.tokenizer.frame import FrameConfig
from worldsim.tokenizer.history import HistoryConfig
from worldsim.tokenizer.place import PlaceConfig

_SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Context:
    """Given frames from which a dream starts.

    Raises:
        DataError: the arrays do not belong together.
    """

    frames: np.ndarray
    """uint8 [T, H, W, 3], T >= 1."""
    controls: np.ndarray
    """float32 [T, M]: keys and look that led into each frame; the first row is ignored."""
    poses: np.ndarray | None = None
    """Camera-to-world, float64 [T, 4, 4]."""
    seed: int | None = None
    """Seed of the real source's episode."""
    prefix: np.ndarray | None = None
    """float32 [P, M]: controls that take the real source from ``reset(seed)`` to the last frame."""

    def __post_init__(self) -> None:
        frames, length = self.frames, len(self.frames)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or length < 1:
            raise DataError("a context's frames must be uint8 [T, H, W, 3]", f"{frames.dtype} {list(frames.shape)}")
        if self.controls.ndim != 2 or len(self.controls) != length:
            raise DataError(f"a context of {length} frames needs controls [{length}, M]", list(self.controls.shape))
        if self.poses is not None and self.poses.shape != (length, 4, 4):
            raise DataError(f"a context of {length} frames needs poses [{length}, 4, 4]", list(self.poses.shape))


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """All of a world but its numbers."""

    name: str
    source: SourceSpec
    """The source at the world's frame size."""
    networks: NetworksConfig
    format: int = 1


@dataclass(frozen=True, slots=True)
class Stored:
    """A world as read from disk."""

    config: WorldConfig
    networks: Networks
    starts: tuple[Context, ...]
    card: str
    digest: str
    """sha256 of the weights file: what a snapshot belongs to."""


def find_world(name: str | Path) -> Path:
    """The folder of a shipped world, or the folder given.

    Raises:
        CheckpointError: there is neither a world nor a folder of this name.
    """
    if Path(name).is_dir():
        return Path(name)
    shipped = _shipped_folder()
    worlds = sorted(folder.name for folder in shipped.iterdir() if (folder / "config.json").exists()) if shipped.is_dir() else []
    if str(name) in worlds:
        return shipped / str(name)
    close = nearest(str(name), worlds)
    hint = f"did you mean {close!r}? " if close else ""
    raise CheckpointError("a world must be a shipped name or a folder", str(name), f"{hint}shipped: {', '.join(worlds) or 'none'}")


def save_world(folder: Path, config: WorldConfig, networks: Networks, starts: Sequence[Context], card: str) -> None:
    """Write a world; an older one in the same folder is replaced only once the new one is complete."""
    folder = Path(folder)
    building = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    (building / "starts").mkdir(parents=True)
    configs.save(config, building / "config.json")
    weights = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in networks.state_dict().items()}
    (building / "weights.safetensors").write_bytes(save_tensors(weights, {"format": str(config.format)}))
    (building / "starts.json").write_text(json.dumps([_start_row(start) for start in starts]))
    for i, start in enumerate(starts):
        strip = start.frames.reshape(-1, *start.frames.shape[2:])
        Image.fromarray(strip).save(building / "starts" / f"{i:03}.png", optimize=True)
    (building / "card.md").write_text(card)
    _write_sums(building)
    if folder.exists():
        shutil.rmtree(folder)
    building.rename(folder)


def write_card(folder: Path, card: str) -> None:
    """Replace a world's card and its checksum."""
    (folder / "card.md").write_text(card)
    _write_sums(folder)


def load_world(folder: Path, device: torch.device | str = "cpu") -> Stored:
    """Read a world whole, checking every file against its sum.

    Raises:
        CheckpointError: a file is missing, damaged, or of a newer format.
    """
    folder = Path(folder)
    _check_sums(folder)
    try:
        config = configs.load(WorldConfig, folder / "config.json")
        if config.format != 1:
            raise CheckpointError("a world's format must be 1", config.format, "install a newer worldsim")
        networks = Networks(config.networks)
        raw = (folder / "weights.safetensors").read_bytes()
        networks.load_state_dict({name: value.float() for name, value in load_tensors(raw).items()})
        rows = json.loads((folder / "starts.json").read_text())
        starts = tuple(_read_start(row, folder / "starts" / f"{i:03}.png") for i, row in enumerate(rows))
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, WorldsimError) as error:
        raise CheckpointError("a world's files must belong together", f"{folder.name}: {error}", "install or train the world again") from error
    networks.eval().requires_grad_(False).to(device)
    return Stored(config, networks, starts, (folder / "card.md").read_text(), hashlib.sha256(raw).hexdigest())


def tiny_world(parent: Path, name: str = "tiny", *, tokenizer: str = "history", seed: int = 0) -> Path:
    """A world of random weights for tests: 80x60, the maze's controls, two starts with poses. Returns its folder.

    ``tokenizer``: "history" (with a place) or "frame".
    """
    keys = ("forward", "backward", "strafe_left", "strafe_right", "turn_left", "turn_right")
    combos = ((), *((key,) for key in keys), ("forward", "turn_left"), ("forward", "turn_right"))
    space = ControlSpace(keys=keys, look=True, pose=True, combos=combos)
    camera = Intrinsics(40.0, 48.0, 40.0, 30.0)
    source = SourceSpec(
        name="doom-maze", size=(60, 80), fps=17.5, control_space=space, intrinsics=camera, has_pose=True, unit_metres=1 / 32, tics=2
    )
    place = PlaceConfig(bounds=(0.0, 0.0, 4.0, 4.0), channels=4, hidden=8, samples=8)
    size, control = source.size, space.size + 6
    history = HistoryConfig(size=size, control=control, intrinsics=camera, place=place, width=8, depth=1, channels=4)
    frame = FrameConfig(size=size, control=control, patch=10, width=8, depth=1, channels=4)
    is_history = tokenizer == "history"
    generator = GeneratorConfig(channels=4, view=96 if is_history else 1, control=control, width=16, layers=2, heads=2, context=6)
    heads = HeadsConfig(width=16, control=space.size, surroundings=16 * 6 + 4 if is_history else 0)
    config = NetworksConfig(generator=generator, heads=heads, history=history if is_history else None, frame=None if is_history else frame)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    starts = []
    for i in range(2):
        poses = from_planar(2.0 + 0.1 * np.arange(3), 2.0, 1.3, 0.5 * i)
        frames = rng.integers(0, 256, (3, *size, 3), dtype=np.uint8)
        starts.append(Context(frames, np.zeros((3, space.size), np.float32), poses, 20 * i, np.zeros((5, space.size), np.float32)))
    save_world(parent / name, WorldConfig(name=name, source=source, networks=config), Networks(config), starts, "# tiny\n")
    return parent / name


def _shipped_folder() -> Path:
    beside = Path(__file__).resolve().parent.parent / "checkpoints"
    return beside if beside.is_dir() else Path(__file__).resolve().parent / "checkpoints"


def _start_row(start: Context) -> dict[str, object]:
    listed = lambda array: None if array is None else array.tolist()  # noqa: E731
    return {
        "length": len(start.frames), "controls": listed(start.controls), "poses": listed(start.poses),
        "seed": start.seed, "prefix": listed(start.prefix),
    }


def _read_start(row: dict[str, object], path: Path) -> Context:
    strip = np.asarray(Image.open(path).convert("RGB"))
    array = lambda name, dtype: None if row[name] is None else np.asarray(row[name], dtype)  # noqa: E731
    controls = np.asarray(row["controls"], np.float32)
    frames = strip.reshape(len(controls), -1, *strip.shape[1:])
    seed = row["seed"]
    return Context(frames, controls, array("poses", np.float64), seed if isinstance(seed, int) else None, array("prefix", np.float32))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _SUMS)


def _write_sums(folder: Path) -> None:
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}" for path in _files(folder)]
    (folder / _SUMS).write_text("\n".join(lines) + "\n")


def _check_sums(folder: Path) -> None:
    sums = folder / _SUMS
    if not sums.exists():
        raise CheckpointError("a world's folder must hold SHA256SUMS", str(folder), "name a folder that `worldsim train` wrote")
    for line in sums.read_text().splitlines():
        digest, _, name = line.partition("  ")
        path = folder / name
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            state = "is damaged" if path.exists() else "is missing"
            raise CheckpointError("a world's files must match SHA256SUMS", f"{folder.name}/{name} {state}", "check out or train the world again")
