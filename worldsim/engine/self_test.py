"""Self-test of prepared networks: is a row the same to the bit in every batch and on any number of threads?

torch picks the loop of a product by its size, so a batch may sum in another order than a single row. So may
other operations: a SiLU handles the remainder of all rows after the last two registers with another loop. The
effect depends on the processor, on torch and on the layers' sizes, so it is measured. The test has two parts:
every product of a step at its own shape, with operands whose sum consists of rounding errors only, so that
another order almost always shows; and whole steps from the world's starts, for all other operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from worldsim.context import Context
from worldsim.networks import Networks
from worldsim.pixels import to_model
from worldsim.sampling.clock import imagine_frame, init_state
from worldsim.sampling.control_batch import ControlTensors
from worldsim.sampling.world_state import WorldState, empty_state
from worldsim.utils.threads import thread_limit

_ROWS = 32
"""Rows of the largest batch."""
_SIZES = (2, 3, 5, 8, 16, 32)
"""Batch sizes that a product is tested with."""
_SPREAD = 6
"""Operands lie between 2^-6 and 2^6."""
_STARTS = 4
_FEWEST, _MOST, _PIXELS = 2, 12, 200_000
"""Fewest and most rounds of the second part, and the pixels of one row's frames in all rounds."""
_COMPANY = 5
"""Rows of a round."""


@dataclass(frozen=True, slots=True)
class _Operand:
    """One of a product's two operands."""

    argument: int
    """Index among the arguments."""
    summed: int
    """The axis that is summed over."""
    has_rows: bool
    """True if its first axis is that of the rows."""


_aten = torch.ops.aten
_PRODUCTS: dict[Callable[..., Any], tuple[_Operand, _Operand]] = {
    _aten.linear.default: (_Operand(0, -1, True), _Operand(1, -1, False)),
    _aten.conv2d.default: (_Operand(0, 1, True), _Operand(1, 1, False)),
    _aten.matmul.default: (_Operand(0, -1, True), _Operand(1, -2, True)),
    _aten.bmm.default: (_Operand(0, -1, True), _Operand(1, -2, True)),
    _aten.baddbmm.default: (_Operand(1, -1, True), _Operand(2, -2, True)),
}
"""The products that are tested: all of a step but those of a static scene without kernels."""


@dataclass(frozen=True, slots=True)
class Invariance:
    """Results of the self-test."""

    batch: bool
    """A row on one thread gives the same bits in every batch."""
    threads: bool
    """A row alone gives the same bits on one thread and on all."""


def measure_invariance(networks: Networks, starts: Sequence[Context], threads: int) -> Invariance:
    """Try prepared networks on a CPU; ``threads`` are all that a row alone may get."""
    with torch.inference_mode(), thread_limit(1):
        state = _begun(networks, starts)
        products = _products_of(networks, state)
        batch = all(product.is_same_in_batches() for product in products)
        alike = threads == 1 or all(product.is_same_on(threads) for product in products)
        return Invariance(
            batch=batch and _steps_are_same_in_batches(networks, state),
            threads=alike and (threads == 1 or _steps_are_same_on(threads, networks, state)),
        )


@dataclass(frozen=True, slots=True)
class _Product:
    """A product as a step of one row calls it."""

    call: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for calls that torch treats alike."""
        outputs = [_layout(part) if isinstance(part, Tensor) else repr(part) for part in self.arguments]
        return (self.call, *outputs, repr(self.options))

    def is_same_in_batches(self) -> bool:
        """True if rows give the same bits alone and in batches."""
        operands = self._sensitive()
        alone = torch.cat([self._run(operands, slice(i, i + 1)) for i in range(_ROWS)])
        return all(torch.equal(self._run(operands, slice(size)), alone[:size]) for size in _SIZES)

    def is_same_on(self, threads: int) -> bool:
        """True if rows alone give the same bits on one thread and on ``threads``."""
        operands, rows = self._sensitive(), [slice(i, i + 1) for i in range(2)]
        alone = [self._run(operands, row) for row in rows]
        with thread_limit(threads):
            return all(map(torch.equal, alone, [self._run(operands, row) for row in rows]))

    def _run(self, arguments: Sequence[Any], rows: slice) -> Tensor:
        batched = [operand.argument for operand in _PRODUCTS[self.call] if operand.has_rows]
        given = [part[rows] if i in batched else part for i, part in enumerate(arguments)]
        return self.call(*given, **self.options)

    def _sensitive(self) -> list[Any]:
        """Operands of 32 rows whose terms cancel in pairs, far apart in the sum; what is left is rounding."""
        arguments, generator = list(self.arguments), torch.Generator().manual_seed(0)
        operands = _PRODUCTS[self.call]
        length = self.arguments[operands[0].argument].shape[operands[0].summed]
        plus, minus = torch.randperm(length, generator=generator)[: length // 2 * 2].view(2, -1)
        for operand, sign in zip(operands, (-1, 1), strict=True):
            like = self.arguments[operand.argument]
            made = _spread(like, _ROWS if operand.has_rows else len(like), generator)
            made.index_copy_(operand.summed, minus, sign * made.index_select(operand.summed, plus))
            arguments[operand.argument] = made.expand(_ROWS, *made.shape[1:]) if _is_shared(like) else made
        return arguments


class _Recorder(TorchDispatchMode):
    """Keeps the products that are called, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.products: dict[tuple[object, ...], _Product] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: nothing is compiled here, and torch's compiler takes seconds to import."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _PRODUCTS:
            product = _Product(func, args, kwargs or {})
            self.products.setdefault(product.key, product)
        return func(*args, **(kwargs or {}))


def _products_of(networks: Networks, state: WorldState) -> list[_Product]:
    """The products of steps of two rows, with every number of passes."""
    controls = _controls(networks, 2, np.random.default_rng(0))
    with _Recorder() as recorder:
        for passes in networks.sampler.allowed_steps:
            imagine_frame(networks, state.pick(slice(2)), controls, passes)
    return list(recorder.products.values())


def _steps_are_same_in_batches(networks: Networks, state: WorldState) -> bool:
    """True if rows step the same alone and in batches of changing sizes; moves ``state`` on."""
    rng, single = np.random.default_rng(1), _parts(range(1, _COMPANY))
    for number in range(_rounds(state)):
        controls, passes = _controls(networks, _COMPANY, rng), _passes(networks, number)
        alone = [_stepped(networks, state.pick(row), controls.pick(row), passes) for row in single]
        parts = _parts([int(rng.integers(1, _COMPANY))])
        together = [_advance(networks, state, part, controls, passes) for part in parts]
        if not all(map(torch.equal, _joined(alone), _joined(together))):
            return False
    return True


def _steps_are_same_on(threads: int, networks: Networks, state: WorldState) -> bool:
    """True if a row steps the same on one thread and on ``threads``."""
    rng, one, other = np.random.default_rng(2), state.pick(slice(1)), state.pick(slice(1))
    for number in range(_rounds(state)):
        controls, passes = _controls(networks, 1, rng), _passes(networks, number)
        outputs = _stepped(networks, one, controls, passes)
        with thread_limit(threads):
            again = _stepped(networks, other, controls, passes)
        if not all(map(torch.equal, outputs, again)):
            return False
    return True


def _passes(networks: Networks, number: int) -> int:
    """Denoising steps of a round, each allowed number in turn."""
    allowed = networks.sampler.allowed_steps
    return allowed[number % len(allowed)]


def _rounds(state: WorldState) -> int:
    height, width = state.previous.frame.shape[-2:]
    return int(np.clip(_PIXELS // (_COMPANY * height * width), _FEWEST, _MOST))


def _joined(parts: Iterable[list[Tensor]]) -> list[Tensor]:
    return [torch.cat(same) for same in zip(*parts, strict=True)]


def _parts(cuts: Iterable[int]) -> list[slice]:
    """All rows, cut before those of these numbers."""
    edges = [0, *cuts, _COMPANY]
    return [slice(first, last) for first, last in pairwise(edges)]


def _advance(
    networks: Networks, state: WorldState, rows: slice, controls: ControlTensors, passes: int
) -> list[Tensor]:
    """Step some rows of ``state`` as one batch, as an engine does."""
    part = state.over(rows)
    outputs = _stepped(networks, part, controls.pick(rows), passes)
    state.take(rows, part)
    return outputs


def _stepped(networks: Networks, state: WorldState, controls: ControlTensors, passes: int) -> list[Tensor]:
    """Step ``state``; all that an engine answers or keeps, rows first."""
    unit = imagine_frame(networks, state, controls, passes)
    outputs = [unit.frame, unit.latent, unit.reward, unit.continue_prob, unit.uncertainty]
    outputs += [] if unit.surprise is None else [unit.surprise]
    return [*outputs, *state.parts().values(), *state.generator.tensors().values()]


def _begun(networks: Networks, starts: Sequence[Context]) -> WorldState:
    """Rows that begin at the world's starts, or on noise where it has none."""
    state = empty_state(networks, _COMPANY)
    rng, (height, width) = np.random.default_rng(3), state.previous.frame.shape[-2:]
    for row in range(_COMPANY):
        noise = rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        frames, poses = noise, np.eye(4)[None]
        if starts:
            start = starts[row % min(len(starts), _STARTS)]
            frames, poses = start.frames[-1:], poses if start.poses is None else start.poses[-1:]
        seeds = np.array([row], np.uint64)
        state.put(slice(row, row + 1), init_state(networks, to_model(frames, networks.device), poses, seeds))
    return state


def _controls(networks: Networks, rows: int, rng: np.random.Generator) -> ControlTensors:
    """Keys up or down, a yaw of up to a tenth of a radian, the first prompt or none, an action or none."""
    vector = rng.integers(0, 2, (rows, networks.control_size)).astype(np.float32)
    vector[:, networks.motion_size - 1] = rng.uniform(-0.1, 0.1, rows)
    return ControlTensors(torch.from_numpy(vector))


def _spread(like: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Numbers of both signs and many sizes, of the type and memory layout of ``like``, in ``rows`` rows."""
    shape = (1 if _is_shared(like) else rows, *like.shape[1:])
    order = sorted(range(like.ndim), key=lambda axis: (axis > 0, -like.stride()[axis]))
    size = [shape[axis] for axis in order]
    scale = torch.rand(size, generator=generator).mul_(2 * _SPREAD).sub_(_SPREAD).exp2_()
    made = torch.randn(size, generator=generator).sign_().mul_(scale).to(like.dtype)
    return made.permute(*np.argsort(order).tolist())


def _is_shared(operand: Tensor) -> bool:
    """True if all rows share memory: weights that are expanded over a batch."""
    return operand.stride(0) == 0


def _layout(operand: Tensor) -> tuple[object, ...]:
    return (operand.dtype, tuple(operand.shape), operand.stride())
