"""Layers that multiply by a kernel, held against torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from worldsim.kernels import library
from worldsim.kernels.dense_layers import DenseConv2d, DenseLinear, use_dense_layers

needs_kernels = pytest.mark.skipif(library.variant() is None, reason="no kernels were compiled")
CONVOLUTIONS = [
    nn.Conv2d(5, 7, 1),
    nn.Conv2d(5, 70, 3, padding=1),
    nn.Conv2d(8, 6, 2, 2),
    nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), bias=False),
]


def inputs(layer: nn.Module, batch: int = 5) -> Tensor:
    torch.manual_seed(0)
    if isinstance(layer, nn.Conv2d):
        return torch.randn(batch, layer.in_channels, 6, 9)
    return torch.randn(batch, 3, 20)


@needs_kernels
@pytest.mark.parametrize("layer", [*CONVOLUTIONS, nn.Linear(20, 70), nn.Linear(20, 3, bias=False)])
def test_a_layer_is_torch_s_and_a_row_is_the_same_in_every_batch(layer: nn.Module) -> None:
    made = DenseConv2d.of(layer) if isinstance(layer, nn.Conv2d) else DenseLinear.of(layer)
    x = inputs(layer)
    with torch.no_grad():
        together = made(x)
        torch.testing.assert_close(together, layer(x), rtol=1e-4, atol=1e-5)
        assert together.is_contiguous()
        for row in range(len(x)):
            assert torch.equal(made(x[row : row + 1]), together[row : row + 1])
        with library.kernels_disabled():
            torch.testing.assert_close(made(x), layer(x))
    with torch.enable_grad():
        assert made(x.requires_grad_()).requires_grad, "gradients are torch's"
    with torch.no_grad():
        assert made.double()(x.double()).dtype == torch.float64, "other types are torch's"


def test_layers_keep_their_names_and_weights() -> None:
    grouped = nn.Conv2d(4, 4, 1, groups=2)
    module = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU()), grouped)
    before = dict(module.named_parameters())
    use_dense_layers(module)
    assert isinstance(module[0], DenseLinear)
    assert isinstance(module[1][0], DenseConv2d)
    assert module[2] is grouped
    assert {name: id(weight) for name, weight in module.named_parameters()} == {
        name: id(weight) for name, weight in before.items()
    }
