"""How keys move cameras, in one go; ``model.dynamics``, ``model.footing``, ``sampling.move`` say it in torch.

Shapes: B cameras, M keys and look, P past twists.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldsim.kernels.dense import DenseData, Packed
from worldsim.kernels.library import Fixed, Pointer, address, check_struct, kernel, shaped
from worldsim.kernels.look import AROUND, Look

FELT, MET = 16 * 4, 6
"""Length of what a footing tells of the ground around, and of what is in the way (move.h)."""
_LAYERS, _INNER, _LANES = 4, 1024, 16


class _FootingData(ctypes.Structure):
    _fields_ = (
        ("stood", Pointer),
        *((name, ctypes.c_int32) for name in ("rows", "columns", "reach")),
        *((name, ctypes.c_double) for name in ("x0", "y0", "cell")),
    )


class _MotionData(ctypes.Structure):
    _fields_ = (
        ("turn", DenseData * _LAYERS),
        ("push", DenseData),
        ("rest", DenseData * _LAYERS),
        ("slip", DenseData * _LAYERS),
        ("scale", ctypes.c_double * 6),
        *((name, ctypes.c_int32) for name in ("keys", "twists")),
        *((name, ctypes.c_float) for name in ("eye", "coasting")),
    )


class Ground(Fixed):
    """A map of where cameras stood, as move.h takes it.

    Args:
        stood: uint8 [rows, columns].
        corner: x and y of its first cell's corner, in metres.
        cell: side of a cell.
        reach: cells around a point among which the nearest ground is looked for.
    """

    def __init__(self, stood: Tensor, corner: tuple[float, float], cell: float, reach: int) -> None:
        check_struct(_FootingData, "FootingData")
        self._kept = stood.detach().contiguous()
        self.data = _FootingData(address(self._kept, torch.uint8), *stood.shape, reach, *corner, cell)


class Mover(Fixed):
    """Dynamics on the ground of a place, as move.h takes them.

    Args:
        look: the place that is felt for.
        ground: where one can stand.
        networks: of the turn, of the rest and of the error: three linear layers with SiLU and a last.
        push: what displacements are a mixture by.
        scale: what a normalised twist is multiplied by [6].
        sizes: M and P.
        eye: height of the camera at rest, in metres.
        coasting: the share of its last step by which a camera without keys moves at most; None: no such rule.
    """

    def __init__(
        self,
        look: Look,
        ground: Ground,
        networks: tuple[Sequence[nn.Linear], Sequence[nn.Linear], Sequence[nn.Linear]],
        push: nn.Linear,
        scale: Sequence[float],
        sizes: tuple[int, int],
        eye: float,
        coasting: float | None,
    ) -> None:
        self._look, self._ground = look, ground
        self._layers = [[Packed(layer.weight, layer.bias) for layer in network] for network in networks]
        self._push = Packed(push.weight, push.bias)
        turn, rest, slip = ((DenseData * _LAYERS)(*(layer.data for layer in some)) for some in self._layers)
        check_struct(_MotionData, "MotionData")
        self._sizes = sizes
        rules = (*sizes, eye, -1.0 if coasting is None else coasting)
        self._data = _MotionData(turn, self._push.data, rest, slip, (ctypes.c_double * 6)(*scale), *rules)
        given = [*[Pointer] * 3, ctypes.c_int, ctypes.c_double, ctypes.c_float]
        self._run = kernel("move", [*given, *[Pointer] * 9])

    def __call__(
        self,
        poses: Tensor,
        moves: Tensor,
        doubt: Tensor,
        vector: Tensor,
        fastest: float,
        lost: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The normalised twist [B, 6], the doubt [B], new poses [B, 4, 4], planar [B, 4], back [B, 4, 4].

        Args:
            poses: camera-to-world, float64 [B, 4, 4].
            moves: past normalised twists with their keys and look, newest last [B, P, 6 + M].
            doubt: metres [B].
            vector: keys and look of the step [B, M].
            fastest: times its usual length that a step has at most.
            lost: metres of doubt beyond which there is no more.
        """
        worlds, double = len(poses), torch.float64
        keys, twists = self._sizes
        poses = shaped(poses, worlds, 4, 4).contiguous()
        shapes = ((moves, (twists, 6 + keys)), (doubt, ()), (vector, (keys,)))
        told = [shaped(part, worlds, *shape).contiguous() for part, shape in shapes]
        to = torch.empty_like(poses)
        twist, doubts, planar = torch.empty(worlds, 6), torch.empty(worlds), torch.empty(worlds, 4)
        back = torch.empty(worlds, 4, 4)
        where = (ctypes.addressof(data) for data in (self._look.data, self._ground.data, self._data))
        made = map(address, (twist, doubts, planar, back))
        given = (address(poses, double), *map(address, told), address(to, double))
        self._run(*where, worlds, fastest, lost, *given, *made)
        return twist, doubts, to, planar, back


def suits(inputs: int, hidden: Sequence[int], around: int, met: int) -> bool:
    """Whether move.h is written for such dynamics: the longest input, widths, what they are told."""
    whole = all(width % _LANES == 0 and width <= _INNER for width in hidden)
    return whole and inputs <= _INNER and (around, met) == (AROUND + FELT, MET)
