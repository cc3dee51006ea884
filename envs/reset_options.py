"""Options of ``reset``: the starts and prompts of episodes, and the mask of those that are reset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from worldsim.context import Context
from worldsim.controls import Control, ControlSpace
from worldsim.errors import ConfigError, DataError, nearest
from worldsim.sampling.upload import upload

__all__ = ["Start", "mask_on", "read_mask", "read_prompts", "read_start", "read_starts"]

Start: TypeAlias = int | Context | None
"""Start of an episode: number of a world's start, given frames, or None: picked by the seed."""

_STARTS = ("context", "start")


def read_start(options: Mapping[str, Any] | None, controls: ControlSpace) -> Start:
    """The start that a single environment's reset options ask for.

    Args:
        options: ``start``, an int; or ``context``, a ``Context`` or a mapping with ``frames`` uint8
            [T, H, W, 3], then ``controls`` float32 [T, n_keys + 1] or ``keys`` (0/1 [T, n_keys], or T
            collections of names), each what led into its frame; ``poses`` float64 [T, 4, 4] where known.

    Raises:
        ConfigError: an unknown option, or both of them. ControlError, DataError: a context that makes none.
    """
    options = options or {}
    _check_names(options, (*_STARTS, "prompt"))
    return _start(options.get("start"), options.get("context"), controls)


def read_starts(options: Mapping[str, Any] | None, controls: ControlSpace, n: int) -> list[Start]:
    """The starts of ``n`` worlds: each option as in :func:`read_start`, one for all or a list of ``n``."""
    options = options or {}
    _check_names(options, (*_STARTS, "prompt", "reset_mask"))
    columns = [_for_each(name, options.get(name), n) for name in ("start", "context")]
    return [_start(start, context, controls) for start, context in zip(*columns, strict=True)]


def read_prompts(prompt: Any, controls: ControlSpace, n: int) -> list[str | None]:
    """The prompts of ``n`` worlds from one for all, None for the unknown one, or a list of ``n``.

    Raises:
        ConfigError: a list of another length. ControlError: a prompt that the world does not know.
    """
    prompts = _for_each("prompt", prompt, n)
    for one in prompts:
        controls.validate(Control(prompt=one))
    return list(prompts)


def read_mask(options: Mapping[str, Any] | None, n: int) -> np.ndarray:
    """``bool [n]``: which worlds to reset, from ``options["reset_mask"]`` (NumPy or a tensor); else all.

    Raises:
        ConfigError: another shape or dtype, or no world at all.
    """
    mask = (options or {}).get("reset_mask")
    if mask is None:
        return np.ones(n, bool)
    array = np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask)
    if array.shape != (n,) or array.dtype != np.bool_ or not array.any():
        raise ConfigError(
            f"reset_mask must be a bool array of shape ({n},) with at least one True",
            array.tolist(),
            "mark the worlds that are to begin anew",
        )
    return array


def mask_on(options: Mapping[str, Any] | None, n: int, device: torch.device) -> Tensor:
    """As ``read_mask``, bool [n] on ``device``; a tensor on a GPU is not asked what it holds."""
    mask = (options or {}).get("reset_mask")
    if not isinstance(mask, Tensor) or mask.device.type == "cpu":
        return upload(read_mask(options, n), device)
    if mask.shape != (n,) or mask.dtype != torch.bool:
        rule = f"reset_mask must be a bool tensor of shape ({n},)"
        raise ConfigError(rule, (tuple(mask.shape), mask.dtype))
    return mask.to(device)


def _check_names(options: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in options:
        if name not in known:
            raise ConfigError("reset options must be known", name, nearest(name, known))


def _for_each(name: str, option: Any, n: int) -> Sequence[Any]:
    if isinstance(option, Sequence | np.ndarray) and not isinstance(option, str):
        if len(option) != n:
            raise ConfigError(f"a list of {name}s must have one for each of {n} worlds", len(option))
        return list(option)
    return [option] * n


def _start(start: Any, context: Any, controls: ControlSpace) -> Start:
    if start is not None and context is not None:
        raise ConfigError("an episode has one beginning", "start and context", "pass one of the two")
    if context is None:
        return None if start is None else int(start)
    return context if isinstance(context, Context) else _context(context, controls)


def _context(given: Any, controls: ControlSpace) -> Context:
    if not isinstance(given, Mapping) or "frames" not in given or not {"controls", "keys"} & given.keys():
        raise DataError(
            "a context must have frames and the controls or keys that led into them",
            sorted(given) if isinstance(given, Mapping) else type(given).__name__,
            "pass {'frames': ..., 'keys': ..., 'poses': ...}, or a Context",
        )
    _check_names(given, ("frames", "controls", "keys", "poses"))
    held = given["controls" if "controls" in given else "keys"]
    return Context(given["frames"], held, given.get("poses")).fitted(controls)
