"""Matrix products of any size are torch's, and a row's sums do not depend on what lies beside it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.compare import built, same, threads
from tests.tiny import random_like
from worldsim.kernels import dense as module
from worldsim.kernels.dense import Dense, pack_panels

pytestmark = built


def layer(outputs: int, inputs: int, biased: bool = True) -> tuple[Tensor, Tensor | None]:
    return random_like((outputs, inputs), 0), random_like((outputs,), 1) if biased else None


@given(st.integers(1, 20), st.integers(1, 70), st.integers(1, 150), st.booleans())
def test_a_product_is_torch_s(rows: int, inputs: int, outputs: int, biased: bool) -> None:
    weights, x = layer(outputs, inputs, biased), random_like((rows, inputs), 2)
    torch.testing.assert_close(Dense(*weights)(x), F.linear(x, *weights), atol=1e-4, rtol=1e-5)


@pytest.mark.usefixtures("each_variant")
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 1, 1), (6, 16, 64), (7, 33, 65), (19, 70, 150)])
def test_a_product_is_torch_s_in_each_variant(rows: int, inputs: int, outputs: int) -> None:
    weights, x = layer(outputs, inputs), random_like((rows, inputs), 2)
    torch.testing.assert_close(Dense(*weights)(x), F.linear(x, *weights), atol=1e-4, rtol=1e-5)


@pytest.mark.usefixtures("each_variant")
@pytest.mark.parametrize("inputs", [3, 64, 200])
def test_a_row_is_the_same_whatever_lies_beside_it(inputs: int) -> None:
    dense, x = Dense(*layer(100, inputs)), random_like((20, inputs), 2)
    whole = dense(x)
    for i in range(20):
        same(dense(x[i : i + 1])[0], whole[i])
        same(dense(x[i:])[0], whole[i])
    same(dense(x.flip(0)).flip(0), whole)
    x[::2] = torch.nan
    same(dense(x)[1::2], whole[1::2])


@pytest.mark.usefixtures("each_variant")
@pytest.mark.parametrize("rows", [1, 2, 5, 6, 48, 49, 60])
@pytest.mark.parametrize("inputs", [1, 64, 130])
def test_float16_weights_give_the_same_sums(monkeypatch: pytest.MonkeyPatch, rows: int, inputs: int) -> None:
    weight, bias = layer(70, inputs)
    extremes = torch.tensor([0.0, -0.0, 65504.0, -(2.0**-14), 2.0**-24, -(2.0**-24), 3 * 2.0**-17])
    weight = weight.half().float()
    weight[: len(extremes), 0] = extremes
    narrow, x = Dense(weight, bias), random_like((rows, inputs), 2)
    assert narrow.data.half
    monkeypatch.setattr(module, "_narrowed", lambda weight: weight)
    wide = Dense(weight, bias)
    assert not wide.data.half
    same(narrow(x), wide(x))


def test_weights_that_float16_would_round_stay_float32() -> None:
    for number in (1 / 3, 1e5, 1e-9, torch.nan):
        assert not Dense(torch.full((2, 3), number)).data.half


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_a_product_is_the_same_on_two_threads(rows: int) -> None:
    dense, x = Dense(*layer(200, 50)), random_like((rows, 50), 2)
    alone = dense(x)
    with threads(2):
        same(dense(x), alone)


def test_leading_axes_and_other_layouts_are_taken_as_they_come() -> None:
    weights, x = layer(9, 5), random_like((5, 4, 3), 2).permute(1, 2, 0)
    made = Dense(*weights)(x)
    assert made.shape == (4, 3, 9)
    torch.testing.assert_close(made, F.linear(x, *weights))
    same(Dense(*weights)(x.double()), made)
    assert Dense(*weights)(x[:0]).shape == (0, 3, 9)
    across = random_like((5, 9), 3).T
    torch.testing.assert_close(Dense(across)(x), F.linear(x, across))


@given(st.integers(1, 150), st.integers(1, 8))
def test_panels_hold_every_weight_and_zeros(outputs: int, inputs: int) -> None:
    weight = random_like((2, outputs, inputs), 0)
    panels = pack_panels(weight)
    assert panels.shape == (2, -(-outputs // 64), inputs, 64)
    back = panels.transpose(-1, -2).flatten(1, 2)
    same(back[:, :outputs], weight)
    assert not back[:, outputs:].any()
