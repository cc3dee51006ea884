"""Sessions repeat to the bit through forks, offloading, restores, rewinds and batches, by every path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from tests.kernels.compare import threads
from tests.tiny import lively_world
from worldsim.bench.determinism import check_determinism
from worldsim.engine.world import load
from worldsim.kernels.library import kernels_disabled


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny worlds with a scene, with a past but no poses, and with neither."""
    place = tmp_path_factory.mktemp("worlds")
    return {
        "scene": lively_world(place, "scene"),
        "past": lively_world(place, "past", poses=False),
        "frame": lively_world(place, "frame", tokenizer="frame", poses=False),
    }


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def count(request: pytest.FixtureRequest) -> Iterator[int]:
    with threads(request.param):
        yield request.param


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("kind", "kernels"),
    [("scene", True), ("scene", False), ("past", False), ("frame", False)],
    ids=["scene by kernels", "scene by torch", "past", "frame"],
)
def test_every_frame_comes_again(
    worlds: dict[str, Path], count: int, dtype: torch.dtype, kind: str, kernels: bool
) -> None:
    with nullcontext() if kernels else kernels_disabled():
        report = check_determinism(load(worlds[kind], "cpu", dtype), 24, seed=count)
    assert report.mismatches == 0
    assert set(report.events) >= {"fork", "offload", "restore", "rewind"}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "torch"])
def test_so_does_every_frame_of_a_shipped_world(count: int, dtype: torch.dtype, kernels: bool) -> None:
    """Its layers are large enough for threads to share them, which those of a tiny world are not."""
    with nullcontext() if kernels else kernels_disabled():
        report = check_determinism(load("doom-maze", "cpu", dtype), 3)
    assert report.mismatches == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scene", "frame"])
def test_so_it_does_in_a_process_of_its_own(worlds: dict[str, Path], kind: str) -> None:
    report = check_determinism(load(worlds[kind], "cpu"), 20, name=str(worlds[kind]))
    assert (report.mismatches, report.other_process) == (0, "same")


@pytest.mark.slow
def test_so_does_a_long_session(worlds: dict[str, Path]) -> None:
    """In bfloat16 one frame in hundreds was another, where a small product's loop hung on the batch."""
    report = check_determinism(load(worlds["scene"], "cpu", torch.bfloat16), 100)
    assert report.mismatches == 0


def test_a_report_says_what_was_done_where_torch_does_not_repeat(worlds: dict[str, Path]) -> None:
    report = check_determinism(load(worlds["frame"], "cpu"), 1)
    assert ("alone" in report.fallback) != report.batch_invariant
    report.batch_invariant, report.thread_invariant = True, False
    assert report.fallback.startswith("a row was stepped with one thread")
    report.batch_invariant, report.thread_invariant = True, True
    assert report.fallback == ""
