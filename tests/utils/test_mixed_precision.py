"""Mixed precision: only where bfloat16 is faster."""

from __future__ import annotations

import pytest
import torch

from worldsim.utils.cpu_info import CpuInfo
from worldsim.utils.mixed_precision import mixed_precision


@pytest.mark.parametrize(("flags", "dtype"), [({"amx_bf16"}, torch.bfloat16), ({"avx512f"}, torch.float32)])
def test_products_on_a_cpu_are_bfloat16_where_it_is_fast(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], dtype: torch.dtype
) -> None:
    here = CpuInfo("", "GenuineIntel", frozenset(flags))
    monkeypatch.setattr("worldsim.utils.cpu_info.cpu_info", lambda: here)
    with mixed_precision("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_other_devices_stay_in_float32() -> None:
    with mixed_precision("mps"):
        assert not torch.is_autocast_enabled("cpu")
