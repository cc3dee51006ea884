"""Rows side by side."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldsim.engine.cpu_workers import CpuWorkers
from worldsim.engine.latency_model import LatencyModel
from worldsim.engine.self_test import Invariance

CPU, SIZE = torch.device("cpu"), (120, 160)
INVARIANCES = [Invariance(batch, threads) for batch in (True, False) for threads in (True, False)]
BOTH = INVARIANCES[0]


@pytest.fixture(autouse=True, scope="module")
def two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@given(st.integers(1, 70), st.sampled_from(INVARIANCES))
def test_every_row_is_worked_on_once_and_in_order(count: int, invariance: Invariance) -> None:
    parts = CpuWorkers(CPU, SIZE, invariance).run(count, lambda rows: rows * 10)
    rows = np.concatenate([rows for rows, _ in parts])
    np.testing.assert_array_equal(rows, np.arange(count))
    np.testing.assert_array_equal(np.concatenate([done for _, done in parts]), rows * 10)
    assert max(len(rows) for rows, _ in parts) <= (8 if invariance.batch else 1)


@pytest.mark.parametrize(("height", "rows"), [(480, 1), (240, 2), (120, 8), (60, 32), (8, 32)])
def test_the_smaller_frames_are_the_more_a_core_takes(height: int, rows: int) -> None:
    parts = CpuWorkers(CPU, (height, height * 4 // 3), BOTH).run(64, lambda rows: None)
    assert max(len(part) for part, _ in parts) == rows


def test_many_rows_are_shared_by_single_threads() -> None:
    lanes = CpuWorkers(CPU, SIZE, BOTH)
    seen = lanes.run(8, lambda rows: (threading.get_ident(), torch.get_num_threads()))
    assert {threads for _, (_, threads) in seen} == {1}
    assert threading.get_ident() not in {ident for _, (ident, _) in seen}


def test_one_row_has_all_threads() -> None:
    ((rows, (ident, threads)),) = CpuWorkers(CPU, SIZE, BOTH).run(
        1, lambda rows: (threading.get_ident(), torch.get_num_threads())
    )
    assert (list(rows), ident, threads) == ([0], threading.get_ident(), 2)


def test_one_row_that_rounds_otherwise_beside_others_has_a_thread_as_among_them() -> None:
    lanes = CpuWorkers(CPU, SIZE, Invariance(batch=False, threads=False))
    for count in (1, 3):
        threads = lanes.run(count, lambda rows: torch.get_num_threads())
        assert [number for _, number in threads] == [1] * count


def test_rows_that_differ_in_a_batch_alone_may_have_all_threads_one_by_one() -> None:
    lanes = CpuWorkers(CPU, SIZE, Invariance(batch=False, threads=True))
    for count, threads in ((1, 2), (3, 1)):
        seen = lanes.run(count, lambda rows: (len(rows), torch.get_num_threads()))
        assert [told for _, told in seen] == [(1, threads)] * count


def test_an_error_in_a_lane_is_the_caller_s() -> None:
    def work(rows: np.ndarray) -> None:
        if 5 in rows:
            raise ValueError("row 5")

    with pytest.raises(ValueError, match="row 5"):
        CpuWorkers(CPU, SIZE, BOTH).run(8, work)


def test_pace_gives_what_fits() -> None:
    model = LatencyModel((1, 2, 4))
    for steps, seconds in ((4, 0.04), (2, 0.02), (1, 0.01)):
        model.record(1, steps, seconds)
    assert [model.max_steps_within(1, 4, deadline) for deadline in (1.0, 0.03, 0.02, 0.005)] == [4, 2, 2, 1]
    assert model.max_steps_within(1, 2, 1.0) == 2
    assert model.max_steps_within(8, 4, 0.05) == 4, "never measured: tried if one session fits"
    assert model.max_steps_within(8, 4, 0.02) == 2, "eight sessions take as long as one at least"
    assert LatencyModel((1, 2)).max_steps_within(8, 2, 0.001) == 2, "nothing was measured yet"


@given(st.integers(1, 70), st.sampled_from(INVARIANCES))
def test_no_part_is_empty(count: int, invariance: Invariance) -> None:
    assert all(len(rows) for rows, _ in CpuWorkers(CPU, SIZE, invariance).run(count, lambda rows: None))
