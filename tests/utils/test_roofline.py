"""The roofline's peak: of the faster type, and soon known where a type is far slower."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from worldsim.utils import roofline

CPU = torch.device("cpu")


def test_a_type_that_is_far_slower_is_not_measured_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, torch.dtype]] = []

    def matmul(a: Tensor, b: Tensor) -> None:
        made.append((len(a), a.dtype))
        time.sleep(0.02 if a.dtype == torch.bfloat16 else 0.0002)

    monkeypatch.setattr(torch, "matmul", matmul)
    assert roofline.matmul_peak(CPU, size=512, seconds=0) > 0
    assert (512, torch.float32) in made
    assert (512, torch.bfloat16) not in made


@pytest.mark.parametrize("faster", [torch.float32, torch.bfloat16])
def test_the_peak_is_that_of_the_faster_type(monkeypatch: pytest.MonkeyPatch, faster: torch.dtype) -> None:
    def best(work: Callable[[], Tensor], device: torch.device, seconds: float) -> float:
        return 1.0 if work().dtype == faster else 2.0

    monkeypatch.setattr(roofline, "_best", best)
    assert roofline.matmul_peak(CPU, size=8) == 2 * 8**3
