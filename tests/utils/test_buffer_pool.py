"""Memory that is used again, and never while somebody holds it."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch

from worldsim.utils import buffer_pool

SHAPE = (3, 64, 128)


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_pool, "_free", type(buffer_pool._free)(list))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
def test_a_copy_is_equal_and_of_its_own(dtype: torch.dtype) -> None:
    part = torch.arange(3 * 64 * 128 * 2).reshape(2, *SHAPE).to(dtype)[1].transpose(0, 2)
    copy = buffer_pool.clone(part)
    assert torch.equal(copy, part)
    assert copy.is_contiguous()
    copy.zero_()
    assert part.any()


@pytest.mark.slow
def test_memory_is_used_again_when_it_is_let_go() -> None:
    first = buffer_pool.clone(torch.ones(SHAPE))
    where = first.data_ptr()
    del first
    gc.collect()
    assert buffer_pool.clone(torch.zeros(SHAPE)).data_ptr() == where


@pytest.mark.slow
def test_a_view_keeps_its_memory() -> None:
    view = buffer_pool.clone(torch.ones(SHAPE))[1:2]
    gc.collect()
    others = [buffer_pool.clone(torch.zeros(SHAPE)) for _ in range(4)]
    assert (view == 1).all()
    assert len({one.data_ptr() for one in others}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("count", [1 << 14, (1 << 14) + 1, 1_843_200, (1 << 26) + 8])
def test_parts_of_a_slab_lie_apart_and_on_lines_of_their_own(count: int) -> None:
    copies = [buffer_pool.clone(torch.full((count,), number, dtype=torch.uint8)) for number in range(3)]
    for number, copy in enumerate(copies):
        assert copy.shape == (count,)
        assert (copy == number).all()
    starts = sorted(copy.data_ptr() for copy in copies)
    assert all(second - first >= count for first, second in pairwise(starts))
    assert len({start % 64 for start in starts}) == 1 or count > 1 << 26  # a slab each


def test_what_is_small_is_left_to_the_system() -> None:
    for _ in range(3):
        assert buffer_pool.clone(torch.ones(8)).sum() == 8
    assert not buffer_pool._free


def test_threads_never_share_it() -> None:
    def work(number: int) -> bool:
        kept = [buffer_pool.clone(torch.full(SHAPE, float(number))) for _ in range(5)]
        return all((one == number).all() for one in kept)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(60)))
