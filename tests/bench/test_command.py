"""``worldsim bench``, as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny import lively_world
from worldsim.bench import command, session_ops
from worldsim.bench.interfaces import env_overhead
from worldsim.bench.machine import MachineLimits
from worldsim.bench.steps import BenchCase, time_steps
from worldsim.engine.world import World, load
from worldsim.errors import ConfigError

LIMITS = MachineLimits(1e12, 1e11)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_world(tmp_path_factory.mktemp("bench"), "tiny")


@pytest.fixture(scope="module")
def world(folder: Path) -> World:
    return load(folder, "cpu")


@pytest.mark.slow
def test_steps_as_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["step", "--world", str(folder), "--batch", "1,3", "--denoising-steps", "1,2", "--seconds", "0"]
    assert command.main([*line, "--json", "--device", "cpu", "--out", str(tmp_path / "result.json")]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert result["world"] == "tiny"
    assert result["device"] == "cpu"
    assert min(result[name] for name in ("params", "peak_tflops", "bandwidth_gb_s")) > 0
    cases = result["cases"]
    assert [(case["batch"], case["denoising_steps"]) for case in cases] == [(1, 1), (1, 2), (3, 1), (3, 2)]
    for case in cases:
        assert 0 < case["p50_ms"] <= case["p99_ms"]
        assert 0 < case["mfu"] <= case["roofline_share"]
        assert case["timed"] == 5
    # Two passes cost more than one, and three sessions three times as much as one.
    assert cases[1]["gflop"] > cases[0]["gflop"]
    assert cases[2]["gflop"] == pytest.approx(3 * cases[0]["gflop"], rel=0.01)


@pytest.mark.slow
def test_steps_as_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["step", "--world", str(folder), "--batch", "2", "--denoising-steps", "1", "--seconds", "0"]
    assert command.main(line) == 0
    out = capsys.readouterr().out
    assert "frames/s" in out
    assert "of peak" in out


@pytest.mark.slow
def test_memory(folder: Path, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["memory", "--world", str(folder), "--json", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["state_bytes"] == world.engine(1).session_bytes
    states = [row["state_bytes"] for row in result["by_context"]]
    assert states == sorted(states)


@pytest.mark.slow
def test_passes_and_batches_are_checked() -> None:
    with pytest.raises(ConfigError, match="K must be one of"):
        command.main(["step", "--denoising-steps", "1,3"])
    with pytest.raises(ConfigError, match="at least one session"):
        command.main(["step", "--batch", "0"])


def test_frames_count_for_all_sessions(world: World) -> None:
    timing = time_steps(world, BenchCase(batch=4, denoising_steps=1, context=3), LIMITS, seconds=0.0)
    assert timing.frames_per_s == pytest.approx(4000 / timing.p50_ms, rel=0.7)
    assert (timing.batch, timing.denoising_steps, timing.context) == (4, 1, 3)


def test_sessions_are_handled(world: World) -> None:
    times = session_ops.time_session_ops(world, repeats=2)
    assert times.snapshot_bytes > world.engine(1).session_bytes
    assert min(times.fork_ms, times.snapshot_ms, times.restore_ms, times.rewind_ms) > 0


@pytest.mark.slow
def test_a_long_run_is_cut_by_time(world: World) -> None:
    assert session_ops.time_long_run(world, 5).frames == 5
    run = session_ops.time_long_run(world, 10**9, seconds=0.05)
    assert 0 < run.frames < 10**9
    assert run.ratio == run.far_ms / run.near_ms


def test_the_environment_costs_something(world: World) -> None:
    overhead = env_overhead(world, 2, repeats=2)
    assert overhead.share < 1
    assert overhead.batch == 2
