"""Validation of untrusted checkpoints: sizes are checked before memory is allocated, numbers before use.

Checksums do not help, because the author of a file also writes its checksum.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from worldsim.errors import CheckpointError

__all__ = [
    "LIMITS",
    "build_checked",
    "check_numbers",
    "check_weights",
    "read_bounded",
    "read_strip",
    "sha256_of",
]

_REMEDY = "install or train the world again"
_SPARE = 2**26
"""Elements of networks beside their weights: rays, maps, constants."""
_TEXT, _ITEMS, _DEPTH = 10_000, 4096, 12

LIMITS: dict[str, tuple[float, float]] = {
    "layers": (1, 256),
    "depth": (0, 256),
    "every": (1, 256),
    "heads": (1, 1024),
    "context": (2, 4096),
    "sinks": (0, 4095),
    "registers": (0, 1024),
    "twists": (1, 256),
    "samples": (2, 4096),
    "patch": (1, 512),
    "pool": (1, 64),
    "width": (1, 16384),
    "hidden": (1, 16384),
    "size": (1, 8192),
    "tics": (1, 1000),
    "fps": (0.001, 10_000),
    "cell": (0.001, 1000),
    "level_cell": (0.001, 1000),
    "wall_cell": (0.001, 1000),
    "near": (0.001, 1e6),
    "far": (0.001, 1e6),
    "unit_metres": (1e-9, 1e6),
}
"""Least and greatest number of a config's field, by its name, also of each number of a list."""
_WHOLE, _REAL = (0, 65536), (-1e6, 1e6)
"""Limits of all other fields."""
_MAKERS = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye})
_Module = TypeVar("_Module", bound=nn.Module)


def check_numbers(row: Any, name: str = "config", depth: int = 0) -> None:
    """Check the numbers of a config as JSON has it.

    Raises:
        CheckpointError: a number beyond ``LIMITS``, a text or a list that is too long, or too deep a nest.
    """
    if depth > _DEPTH:
        raise CheckpointError(f"a world's config must be at most {_DEPTH} deep", name, _REMEDY)
    if isinstance(row, Mapping | list | str):
        most = _TEXT if isinstance(row, str) else _ITEMS
        if len(row) > most:
            raise CheckpointError(f"a world's {name} must have at most {most} entries", len(row), _REMEDY)
    if isinstance(row, Mapping):
        for key, value in row.items():
            check_numbers(value, str(key)[:40], depth + 1)
    elif isinstance(row, list):
        for value in row:
            check_numbers(value, name, depth + 1)
    elif isinstance(row, int | float) and not isinstance(row, bool):
        low, high = LIMITS.get(name, _WHOLE if isinstance(row, int) and row >= 0 else _REAL)
        if not (math.isfinite(row) and low <= row <= high):
            raise CheckpointError(f"a world's {name} must be in {low:g}..{high:g}", repr(row)[:40], _REMEDY)


class _Budget(TorchFunctionMode):
    """Counts the elements of new tensors, and refuses those over the budget before they are allocated."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = most

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func in _MAKERS:
            sizes = options.get("size", args[0] if args and not isinstance(args[0], int) else args)
            self.left -= math.prod(int(size) for size in sizes if isinstance(size, int))
            if self.left < 0:
                rule = "a world's config must ask for no larger tensors than its weights' file has"
                raise CheckpointError(rule, [str(size) for size in sizes][:8], _REMEDY)
        return func(*args, **options)


def build_checked(build: Callable[[], _Module], weights: Mapping[str, Tensor]) -> _Module:
    """Build a module within a memory budget, and load ``weights`` into it, in float32.

    Raises:
        CheckpointError: it needs more memory than such weights do, or other weights.
    """
    with _Budget(4 * sum(tensor.numel() for tensor in weights.values()) + _SPARE):
        made = build()
    floats = {name: value.float() for name, value in weights.items()}
    check_weights(floats, {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()})
    made.load_state_dict(floats)
    return made


def check_weights(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check the weights of a file, as floats, against the shapes of a config.

    Raises:
        CheckpointError: a weight that is missing, unknown, of another shape, or not finite.
    """
    odd = sorted(set(tensors) ^ set(shapes))
    if odd:
        rule = "a world's config and weights must belong together"
        raise CheckpointError(rule, f"missing or unknown: {[name[:80] for name in odd[:4]]}", _REMEDY)
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            rule = f"a world's {name} must be {list(shapes[name])} as its config says"
            raise CheckpointError(rule, list(tensor.shape), _REMEDY)
        if not math.isfinite(float(tensor.sum())):  # sums of true weights are far from overflowing
            raise CheckpointError("a world's weights must be finite", name, _REMEDY)


def read_bounded(path: Path, most: int) -> bytes:
    """A file's bytes.

    Raises:
        CheckpointError: it has more than ``most``.
    """
    size = path.stat().st_size
    if size > most:
        raise CheckpointError(f"a world's {path.name} must have at most {most} bytes", size, _REMEDY)
    return path.read_bytes()


def sha256_of(path: Path) -> str:
    """sha256 of a file, however long it is."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_strip(path: Path, count: int, size: tuple[int, int]) -> np.ndarray:
    """``count`` frames of ``size`` (height, width) from a PNG, one below the other: uint8 [count, H, W, 3].

    Raises:
        CheckpointError: no PNG, or one of another size, which is found before it is unpacked.
    """
    with Image.open(path, formats=["PNG"]) as image:
        height, width = size
        if image.size != (width, height * count):
            rule = f"the frames of a start must be {width} wide and {count} x {height} high"
            raise CheckpointError(rule, f"{path.name}: {image.size}", _REMEDY)
        strip = np.asarray(image.convert("RGB"))
    return strip.reshape(count, height, width, 3)
