"""The compiled kernels: found, chosen by what the processor can do, and called with tensors."""

from __future__ import annotations

import ctypes
import importlib.machinery
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import local
from typing import Any, Self

import torch
from torch import Tensor

from worldsim.utils.cpu_info import cpu_info

_VERSION = 5
"""Version of the C interface, as in version.c; a library of another version was built from other sources."""
_AVX2 = {"avx2", "fma", "f16c"}
_NEEDS = {"avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", *_AVX2}, "avx2": _AVX2}
"""CPU flags (Linux names) that a variant requires; the fastest variant first."""

_MOST = 2**31 - 2**16
"""Elements of a tensor: kernels count them in 32 bits, rounded up to whole registers."""
UNBOUNDED = 2**62
"""Elements of a tensor that a kernel counts in 64 bits."""

Kernel = Callable[..., Any]
Pointer = ctypes.c_void_p

_set_aside = False
_rooms = local()


class _Int(ctypes.c_int):
    """Argument of type int; ctypes itself would drop the bits that it has no room for."""

    @classmethod
    def from_param(cls, value: int) -> ctypes.c_int:
        """Convert an argument. OverflowError if it has no room."""
        if not -(2**31) <= value < 2**31:
            raise OverflowError(f"a kernel takes numbers of 32 bits, not {value}; give it fewer at once")
        return ctypes.c_int(value)


class NoDeepcopy:
    """Base of objects that hold addresses of constant weights: a deep copy is the object itself."""

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self


def variant() -> str | None:
    """Variant for this CPU: "avx512", "avx2" or "portable"; None where no kernels were built."""
    library = _library()
    if library is None:
        return None
    able = (name for name, needs in _NEEDS.items() if needs <= cpu_info().flags)
    return next((name for name in able if hasattr(library, f"worldsim_render_{name}")), "portable")


def kernels_enabled() -> bool:
    """True where gradients are off and kernels are not disabled."""
    return not (_set_aside or torch.is_grad_enabled())


def active_variant() -> str | None:
    """The ``variant`` in use for inference; None also while kernels are disabled."""
    return None if _set_aside else variant()


def accepts(*tensors: Tensor) -> bool:
    """True where kernels are built and enabled, and all ``tensors`` are float32 on a CPU."""
    plain = all(part.device.type == "cpu" and part.dtype == torch.float32 for part in tensors)
    return plain and kernels_enabled() and variant() is not None


@contextmanager
def kernels_disabled() -> Iterator[None]:
    """Use torch instead of kernels in all threads: to compare, or to count operations."""
    global _set_aside
    before, _set_aside = _set_aside, True
    try:
        yield
    finally:
        _set_aside = before


def kernel(name: str, kinds: Sequence[type], result: type | None = None) -> Kernel:
    """A compiled function; ``kinds`` are those of its arguments. Others' Python may run meanwhile.

    Every call makes a function object of its own. If threads shared one, it would lose its argument types
    while a thread converts an argument, as soon as another one set them again.
    """
    library = _library()
    if library is None:
        raise RuntimeError("no kernels were compiled")
    prototype = ctypes.CFUNCTYPE(result, *(_Int if kind is ctypes.c_int else kind for kind in kinds))
    run: Kernel = prototype((f"worldsim_{name}_{variant()}", library))
    return run


def workspace(floats: int) -> Tensor:
    """Scratch memory of this thread, undefined between kernels; reused, as new memory costs page faults.

    Raises:
        OverflowError: it is more than kernels count in 32 bits.
    """
    _check_count(floats)
    mine: Tensor | None = getattr(_rooms, "mine", None)
    if mine is None or len(mine) < floats:
        with torch.inference_mode(False):
            mine = _rooms.mine = torch.empty(floats)
    return mine


def address(tensor: Tensor, dtype: torch.dtype = torch.float32, most: int = _MOST) -> int:
    """Address of a contiguous CPU tensor of type ``dtype`` and of up to ``most`` elements.

    Raises:
        ValueError: it is none; a kernel would read what is not there.
        OverflowError: it has more elements.
    """
    _check_count(tensor.numel(), most)
    if tensor.dtype != dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
        what = f"{tensor.dtype} on {tensor.device}, strides {tensor.stride()}"
        raise ValueError(f"a kernel takes contiguous {dtype} on the CPU, not {what}")
    return tensor.data_ptr()


def shaped(tensor: Tensor, *shape: int) -> Tensor:
    """The tensor itself.

    Raises:
        ValueError: it is of another shape than a kernel is about to read.
    """
    if tensor.shape != shape:
        raise ValueError(f"a kernel was to read {list(shape)}, not {list(tensor.shape)}")
    return tensor


def _check_count(elements: int, most: int = _MOST) -> None:
    if elements > most:
        raise OverflowError(f"a kernel takes up to {most} elements, not {elements}; give it fewer at once")


@cache
def check_struct(kind: type[ctypes.Structure], name: str) -> None:
    """Hold the size of a struct against the one that the kernels were compiled with.

    Raises:
        RuntimeError: they differ: kernels would read other fields than were written.
    """
    size = kernel(f"size_of_{name}", [], ctypes.c_size_t)()
    if size != ctypes.sizeof(kind):
        own = f"{name}: {ctypes.sizeof(kind)} bytes, {size} in the compiled kernels"
        raise RuntimeError(f"{own}; build them again with `python setup.py build_ext --inplace`")


@cache
def _library() -> ctypes.CDLL | None:
    """Next to this file, if it was built from these sources."""
    for ending in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"compiled{ending}")
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
            except OSError:
                return None
            version = getattr(library, "worldsim_version", lambda: None)()
            return library if version == _VERSION else None
    return None
