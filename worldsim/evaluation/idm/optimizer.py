"""Muon: momentum whose singular values are all set to about one. The IDM learns half as fast again with it.

Jordan et al., 2024. For convolutions and large matrices; what else there is goes to AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Muon"]

_MOMENTUM, _DECAY = 0.95, 0.01
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz iteration: it takes singular values in (0, 1] to about one in five rounds."""


class Muon(torch.optim.Optimizer):
    """For weights of two dimensions or more, of which all but the first are taken as one.

    Args:
        weights: to be trained.
        lr: length of a step, in root mean squares of a matrix whose singular values are one.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make one step."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.lerp_(weight.grad, 1 - _MOMENTUM)
                way = _orthogonalised(weight.grad.lerp(momentum, _MOMENTUM).flatten(1)).view_as(weight)
                rows, columns = weight.flatten(1).shape
                weight.mul_(1 - group["lr"] * _DECAY)
                weight.add_(way, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def _orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix with all singular values about one."""
    a, b, c = _QUINTIC
    is_tall = matrix.shape[0] > matrix.shape[1]
    even = (matrix.T if is_tall else matrix).bfloat16()
    even = even / (even.norm() + 1e-7)
    for _ in range(5):
        gram = even @ even.T
        even = a * even + (b * gram + c * gram @ gram) @ even
    return (even.T if is_tall else even).to(matrix.dtype)
