"""Rules for the parts of a snapshot: whoever sends one can seal it, so nothing in it is believed unchecked.

Tensors are held against those of a fresh state of the same engine: names, dtypes and shapes. What else must
hold is in two tables: ``RANGES`` of tensors and ``FIELDS`` of the header.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldsim.errors import EngineError

__all__ = [
    "ANY",
    "FIELDS",
    "MAX_TEMPERATURE",
    "RANGES",
    "Rule",
    "check_header",
    "check_tensors",
    "rules_like",
]

_MOST_FRAMES = 2**53
_NARROW = frozenset({torch.float16, torch.bfloat16, torch.float32})
"""Number types that stand for each other: a session may go on in an engine of another one."""
_REMEDY = "take the snapshot again with Session.snapshot()"
ANY = (-math.inf, math.inf)
_FINITE_SQUARES = (-1e18, 1e18)
"""Range of narrow floats: networks square them, which must not overflow."""
MAX_TEMPERATURE = 10.0
"""Highest temperature of a session; above it frames are noise."""

RANGES: dict[str, tuple[float, float]] = {
    "frame": (-1.0, 1.0),
    "pose_uncertainty": (0.0, math.inf),
    "indices": (1, _MOST_FRAMES),
    "temperature": (0.0, MAX_TEMPERATURE),
}
"""Least and greatest number of a tensor; floats must be finite in any case.

A generator checks its own tensors further when it loads them."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One tensor of a snapshot."""

    dtype: torch.dtype
    shapes: tuple[tuple[int, ...], ...]
    """Allowed ones."""
    range: tuple[float, float] = ANY
    optional: bool = False

    @property
    def most_bytes(self) -> int:
        """Bytes of the largest tensor that is allowed; narrow floats may come as float32."""
        size = max(self.dtype.itemsize, 4 if self.dtype in _NARROW else 0)
        return size * max(math.prod(shape) for shape in self.shapes)

    def check(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor in the rule's dtype.

        Raises:
            EngineError: another dtype or shape, or a number out of range.
        """
        same = tensor.dtype == self.dtype or {tensor.dtype, self.dtype} <= _NARROW
        if not same or tuple(tensor.shape) not in self.shapes:
            wanted = " or ".join(str(list(shape)) for shape in self.shapes)
            rule = f"a snapshot's {name} must be {_name(self.dtype)} {wanted}"
            raise EngineError(rule, f"{_name(tensor.dtype)} {list(tensor.shape)}", _REMEDY)
        kept = tensor.to(self.dtype)
        if kept.numel() and not self._holds(kept):
            low, high = self.range
            raise EngineError(f"a snapshot's {name} must be finite and in {low:g}..{high:g}", None, _REMEDY)
        return kept

    def _holds(self, tensor: Tensor) -> bool:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return False
        low, high = self.range
        return self.range == ANY or (float(tensor.min()) >= low and float(tensor.max()) <= high)


def rules_like(tensors: Mapping[str, Tensor]) -> dict[str, Rule]:
    """Rules for the tensors of a state, from those of a fresh one of one row."""
    return {
        name: Rule(tensor.dtype, (tuple(tensor.shape),), RANGES.get(name, _default_range(tensor.dtype)))
        for name, tensor in tensors.items()
    }


def _default_range(dtype: torch.dtype) -> tuple[float, float]:
    return _FINITE_SQUARES if dtype in _NARROW else ANY


def check_tensors(tensors: Mapping[str, Tensor], rules: Mapping[str, Rule]) -> dict[str, Tensor]:
    """All tensors of a snapshot, in the rules' dtypes.

    Raises:
        EngineError: a tensor that is missing, unknown or against its rule.
    """
    needed = {name for name, rule in rules.items() if not rule.optional}
    _check_names("tensors", set(tensors), needed, set(rules))
    return {name: rules[name].check(name, tensor) for name, tensor in tensors.items()}


def _whole(least: int, most: int, *, optional: bool = False) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        return (optional and value is None) or (type(value) is int and least <= value <= most)

    return holds


def _real(least: float, most: float, optional: bool = False) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        if value is None:
            return optional
        return type(value) is float and math.isfinite(value) and least <= value <= most

    return holds


def _flag(value: Any) -> bool:
    return type(value) is bool


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format": (_whole(0, 2**31), "a format's number"),
    "weights_sha256": (lambda value: type(value) is str and len(value) <= 128, "a hash of weights"),
    "context": (_whole(1, 2**31), "a number of frames"),
    "seed": (_whole(-(2**256), 2**256), "a whole number"),
    "start": (_whole(0, 2**31, optional=True), "a start's number or null"),
    "index": (_whole(0, _MOST_FRAMES), "a frame's number"),
    "denoising_steps": (_whole(0, 1024), "a number of passes"),
    "has_pose": (_flag, "true or false"),
    "pose_given": (_flag, "true or false"),
    "reward": (_real(-3e38, 3e38), "a finite number"),
    "terminated": (_flag, "true or false"),
    "uncertainty": (_real(0.0, 1.0, optional=True), "a number in 0..1 or null"),
    "known": (_flag, "true or false"),
    "surprise": (_real(0.0, 3e38), "a number that is not negative"),
}
"""A test for each value of the header, and what it says."""
_OPTIONAL = {"surprise"}
"""Those that may be missing."""


def check_header(header: Any) -> dict[str, Any]:
    """The header of a snapshot.

    Raises:
        EngineError: a field that is missing, unknown, of another type or out of range.
    """
    if not isinstance(header, dict):
        raise EngineError("a snapshot's header must be an object", type(header).__name__, _REMEDY)
    _check_names("fields", set(header), set(FIELDS) - _OPTIONAL, set(FIELDS))
    for name, (holds, said) in FIELDS.items():
        if name in header and not holds(header[name]):
            raise EngineError(f"a snapshot's {name} must be {said}", repr(header[name])[:80], _REMEDY)
    return header


def _check_names(what: str, given: set[str], needed: set[str], known: set[str]) -> None:
    missing, unknown = sorted(needed - given), sorted(given - known)
    if missing or unknown:
        rule = f"a snapshot's {what} must be {', '.join(sorted(known))}"
        value = f"missing {missing[:5]}, unknown {[name[:40] for name in unknown[:5]]}"
        raise EngineError(rule, value, _REMEDY)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
