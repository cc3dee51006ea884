"""Settings for the kernels' tests: nothing is taught, in each variant, in rooms with fences."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.kernels import compare
from worldsim.kernels import (
    decoder,
    generator,
    image_ops,
    library,
    noise,
    recurrent,
    render,
    vae_decoder,
    warp,
)

_FENCE = 64


@pytest.fixture(scope="module", autouse=True)
def untaught() -> Iterator[None]:
    """Kernels may run only where there are no gradients."""
    with torch.no_grad():
        yield


@pytest.fixture(params=compare.VARIANTS)
def each_variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is made quick in a test is of one variant."""
    if request.param not in compare.able():
        pytest.skip(f"this processor cannot run {request.param} kernels, or none were compiled")
    monkeypatch.setattr(library, "variant", lambda: request.param)


@pytest.fixture
def fenced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rooms are as large as was asked for, and hold nothing that could be read before it is written."""
    made: list[Tensor] = []

    def workspace(floats: int) -> Tensor:
        made.append(torch.full((floats + 2 * _FENCE,), torch.nan))
        return made[-1][_FENCE:-_FENCE]

    for module in (render, warp, decoder, generator, image_ops, noise, recurrent, vae_decoder):
        monkeypatch.setattr(module, "workspace", workspace)
    yield
    for whole in made:
        assert whole[:_FENCE].isnan().all(), "written before a room's begin"
        assert whole[-_FENCE:].isnan().all(), "written beyond a room's end"
