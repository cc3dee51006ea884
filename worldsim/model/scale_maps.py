"""Fixed linear maps between the scales of a frame: area down, bilinear up.

Shapes: R rows, N tokens of all scales, n tokens of one, G tokens of the finest, D features, K scales.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ScaleMaps"]


class ScaleMaps(nn.Module):
    """Sums of scales, stretched over the finest grid and averaged down to any scale.

    Args:
        scales: rows and columns of every scale, coarse to fine.
    """

    up: Tensor
    down: Tensor
    below: Tensor
    scale_of: Tensor
    """Number of each token's scale, int64 [N]."""

    def __init__(self, scales: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.scales, self.grid = scales, scales[-1]
        self.areas = [rows * columns for rows, columns in scales]
        """Tokens of each scale."""
        self._starts = [sum(self.areas[:number]) for number in range(len(scales) + 1)]
        up = torch.cat([_up(scale, self.grid) for scale in scales], 1)
        down = torch.cat([_down(self.grid, scale) for scale in scales], 0)
        total = sum(self.areas)
        number = torch.arange(len(scales)).repeat_interleave(torch.tensor(self.areas), output_size=total)
        self.register_buffer("up", up, persistent=False)
        self.register_buffer("down", down, persistent=False)
        below = (down @ up) * (number[:, None] > number)
        self.register_buffer("below", below, persistent=False)
        self.register_buffer("scale_of", number, persistent=False)

    def rows(self, index: int) -> slice:
        """The tokens of scale ``index``."""
        return slice(self._starts[index], self._starts[index + 1])

    def whole(self, tokens: Tensor) -> Tensor:
        """The sum of all scales of ``tokens`` [R, N, D] on the finest grid [R, G, D]."""
        return _applied(self.up, tokens)

    def spread(self, fine: Tensor) -> Tensor:
        """``fine`` [R, G, D] averaged down to every scale [R, N, D]."""
        return _applied(self.down, fine)

    def first(self, fine: Tensor) -> Tensor:
        """``fine`` [R, G, D] averaged down to the first scale; zeros for all others [R, N, D]."""
        first = _applied(self.down[: self.areas[0]], fine)
        return F.pad(first, (0, 0, 0, self._starts[-1] - self.areas[0]))

    def coarser(self, tokens: Tensor) -> Tensor:
        """The sum of the coarser scales of ``tokens`` [R, N, D], as each scale sees it [R, N, D]."""
        return _applied(self.below, tokens)

    def coarser_of(self, tokens: Tensor, index: int) -> Tensor:
        """The sum of the scales before ``index``, whose tokens are [R, m, D], as that one sees it."""
        return _applied(self.below[self.rows(index), : tokens.shape[1]], tokens)


def _applied(weights: Tensor, x: Tensor) -> Tensor:
    """``weights`` [n, m] times ``x`` [R, m, D], every row alone."""
    return torch.bmm(weights.to(x.dtype).expand(len(x), -1, -1), x)


def _identity(grid: tuple[int, int]) -> Tensor:
    """The unit planes of a grid [n, 1, rows, columns]."""
    area = grid[0] * grid[1]
    return torch.eye(area).view(area, 1, *grid)


def _up(scale: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Weights [G, n] of bilinear stretching."""
    if scale == grid:
        return torch.eye(grid[0] * grid[1])
    planes = F.interpolate(_identity(scale), grid, mode="bilinear", align_corners=False)
    return planes.flatten(1).T.contiguous()


def _down(grid: tuple[int, int], scale: tuple[int, int]) -> Tensor:
    """Weights [n, G] of averaging."""
    if scale == grid:
        return torch.eye(grid[0] * grid[1])
    return F.adaptive_avg_pool2d(_identity(grid), scale).flatten(1).T.contiguous()
