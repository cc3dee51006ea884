"""``worldsim bench step``, as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worldsim.engine.world import World
from worldsim.errors import ConfigError
from worldsim.evaluation import bench
from worldsim.peak import matmul_peak


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_FEWEST", 3)


def test_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["step", "--world", str(folder), "--batch", "1,3", "--steps", "1,2", "--seconds", "0", "--json"]
    assert bench.main([*line, "--device", "cpu", "--out", str(tmp_path / "result.json")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert result["world"] == "tiny"
    assert result["device"] == "cpu"
    assert result["params"] > 0
    assert result["peak_tflops"] > 0
    cases = result["cases"]
    assert [(case["batch"], case["steps"]) for case in cases] == [(1, 1), (1, 2), (3, 1), (3, 2)]
    for case in cases:
        assert 0 < case["p50_ms"] <= case["p99_ms"]
        assert 0 < case["peak_share"] < 1
        assert case["timed"] == 3
    # Two passes cost more than one, and three sessions three times as much as one.
    assert cases[1]["gflop"] > cases[0]["gflop"]
    assert cases[2]["gflop"] == pytest.approx(3 * cases[0]["gflop"], rel=0.01)


def test_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["step", "--world", str(folder), "--batch", "2", "--steps", "1", "--seconds", "0"]
    assert bench.main(line) == 0
    out = capsys.readouterr().out
    assert "frames/s" in out
    assert "of peak" in out


def test_passes_and_batches_are_checked() -> None:
    with pytest.raises(ConfigError, match="K must be one of"):
        bench.main(["step", "--steps", "1,3"])
    with pytest.raises(ConfigError, match="at least one session"):
        bench.main(["step", "--batch", "0"])


def test_frames_count_for_all_sessions(world: World) -> None:
    peak = matmul_peak(world.device, size=256, seconds=0.01)
    case = bench.bench_step(world, 4, 1, peak, seconds=0.0)
    assert case.frames_per_s == pytest.approx(4000 / case.p50_ms, rel=0.7)
