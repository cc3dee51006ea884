"""Results of a run: pieces that are whole, small and few, put together and evaluated."""

from __future__ import annotations

import json
import os
import signal
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import pack, wheels
from benchmarks.gpu.collect import better, check_report, unpack
from benchmarks.gpu.collect import main as collect
from benchmarks.gpu.pack import FILES, REPORT, join_pieces, pack_results, pack_world
from benchmarks.gpu.plan import PARTS, Training, read_plan
from benchmarks.gpu.process import Program
from benchmarks.gpu.run import Run
from benchmarks.gpu.untrained import load_or_initialise
from tests.tiny import lively_world
from worldsim.checkpoint import load_world
from worldsim.errors import CheckpointError, ConfigError, DataError


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return lively_world(tmp_path, "tiny")


def report(out: Path, **told: Any) -> None:
    row = {"parts": [], "worlds": {}, "problems": [], **told}
    (out / REPORT).write_text(json.dumps(row))


def test_a_world_survives_its_pieces(out: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "PIECE", 700_000)
    pieces = pack_world(world, out, "tiny-small")
    assert len(pieces) > 1
    assert [piece.bytes for piece in pieces[:-1]] == [700_000] * (len(pieces) - 1)
    (back,) = unpack(out, out / "worlds")
    for old, new in zip(*(load_world(folder).networks.parameters() for folder in (world, back)), strict=True):
        assert torch.equal(old, new)


def test_fewer_pieces_take_the_place_of_more(out: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "PIECE", 700_000)
    pack_world(world, out, "tiny-small")
    monkeypatch.setattr(pack, "PIECE", 1_400_000)
    pieces = pack_world(world, out, "tiny-small")
    assert sorted(path.name for path in out.iterdir()) == [piece.file for piece in pieces]
    load_world(unpack(out, out / "worlds")[0])


@pytest.mark.parametrize(("limit", "value"), [("PIECE", 150_000), ("WORLDS", 100_000)])
def test_what_could_not_come_back_is_refused(
    out: Path, world: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(pack, limit, value)
    with pytest.raises(DataError, match="come back"):
        pack_world(world, out, "tiny-small")
    assert not list(out.iterdir())


def test_two_worlds_share_the_room(out: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "PIECE", 700_000)
    count = len(pack_world(world, out, "tiny-small"))
    assert 2 * count > FILES - 2
    with pytest.raises(DataError, match="fewer worlds"):
        pack_world(world, out, "tiny-base")
    assert len(list(out.iterdir())) == count


def test_a_missing_piece_is_told(out: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "PIECE", 700_000)
    pieces = pack_world(world, out, "tiny-small")
    (out / pieces[0].file).unlink()
    with pytest.raises(DataError, match="pieces"):
        join_pieces(out)


def test_a_damaged_piece_is_told(out: Path, world: Path) -> None:
    (piece,) = pack_world(world, out, "tiny-small")
    report(out, worlds={"tiny-small": [{"file": piece.file, "bytes": piece.bytes, "sha256": piece.sha256}]})
    assert check_report(out) == []
    data = bytearray((out / piece.file).read_bytes())
    data[len(data) // 2] ^= 1
    (out / piece.file).write_bytes(data)
    assert check_report(out) == [f"{piece.file} is not the one that the report tells of"]
    with pytest.raises(CheckpointError):
        load_world(unpack(out, out / "worlds")[0])


def test_results_leave_out_what_is_too_large(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "LOGS", 20_000)
    (tmp_path / "small.log").write_text("all is well")
    (tmp_path / "large.bin").write_bytes(np.random.default_rng(0).bytes(50_000))
    files = [(tmp_path / name, name) for name in ("small.log", "large.bin")]
    assert pack_results(files, out) == ["large.bin"]
    with tarfile.open(out / pack.RESULTS) as archive:
        assert archive.getnames() == ["small.log"]


def test_collect_puts_together_without_judging(
    out: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack_world(world, out, "tiny-small")
    report(out)
    assert collect([str(out), "--no-eval"]) == 0
    assert "tiny-small: whole" in capsys.readouterr().out
    assert collect([str(out.parent / "nothing"), "--no-eval"]) == 2
    report(out, parts=[{"name": "bench", "status": "over", "seconds": 3}])
    assert collect([str(out), "--no-eval"]) == 1


def figures(**values: tuple[float, float, float]) -> dict[str, Any]:
    return {"metrics": {name: {"value": v, "ci": (low, high)} for name, (v, low, high) in values.items()}}


@pytest.mark.parametrize(
    ("mine", "is_better"),
    [
        ({"next_gain": (3.0, 2.8, 3.2), "rollout16_psnr": (20.0, 19, 21)}, True),
        ({"next_gain": (2.0, 1.8, 2.2), "rollout16_psnr": (20.0, 19, 21)}, False),
        ({"next_gain": (3.0, 2.8, 3.2), "rollout16_psnr": (15.0, 14, 16)}, False),
        ({"copy_psnr": (3.0, 2.8, 3.2)}, False),
    ],
)
def test_better_is_better_in_something_and_worse_in_nothing(mine: dict[str, Any], is_better: bool) -> None:
    shipped = figures(next_gain=(2.0, 1.8, 2.2), rollout16_psnr=(20.0, 19.0, 21.0))
    assert better(figures(**mine), shipped)[0] == is_better


def started(log: Path) -> None:
    until = time.monotonic() + 60
    while not (log.exists() and log.read_text() == "on\n"):
        assert time.monotonic() < until, "it does not start"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_program_is_stopped_at_its_limit(tmp_path: Path) -> None:
    outcome = Program("slow", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, 0.3).wait()
    assert (outcome.status, outcome.exit) == ("over", -signal.SIGTERM)


@pytest.mark.slow
def test_who_does_not_stop_is_killed(tmp_path: Path) -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('on'); time.sleep(60)"
    program = Program("stubborn", [sys.executable, "-uc", script], tmp_path, 60, grace=0.3)
    started(tmp_path / "stubborn.log")
    program.stop()
    assert program.wait().status == "over"


def test_a_recording_ends_well_when_it_is_stopped(tmp_path: Path) -> None:
    script = "import sys, time\ntry: print('on'); time.sleep(60)\nexcept KeyboardInterrupt: sys.exit(130)"
    line = [sys.executable, "-uc", script]
    program = Program("recorder", line, tmp_path, 60, stop=signal.SIGINT, may_be_stopped=True)
    started(tmp_path / "recorder.log")
    program.stop()
    assert program.wait().status == "done"


def test_what_a_program_started_ends_with_it(tmp_path: Path) -> None:
    script = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid)"
    outcome = Program("parent", [sys.executable, "-uc", script], tmp_path, 20).wait()
    assert outcome.status == "done"
    pid, until = int(outcome.tail), time.monotonic() + 10
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("it is still there")


def test_trainings_are_read(tmp_path: Path) -> None:
    line = ["--train", "take-cover:base:0.6", "--train", "take-cover:small:0.4:width=64,batch=8"]
    plan = read_plan([*line, "--scratch", str(tmp_path), "--data", "doom-maze=/x"], tmp_path)
    assert plan.trainings[1] == Training("take-cover", "small", 0.4, ("width=64", "batch=8"))
    assert [one.name for one in plan.recordings] == ["take-cover"]
    assert (plan.only, plan.device) == (PARTS, "cuda")
    assert [lane.name for lane in plan.lanes] == ["checks", "train"]
    assert set(plan.worlds) == {"take-cover-base", "take-cover-small"}


def write_plan(path: Path, text: str) -> list[str]:
    (path / "plan.toml").write_text(text)
    return ["--plan", str(path / "plan.toml"), "--scratch", str(path / "scratch"), "--device", "cpu"]


def test_lanes_run_beside_each_other_and_wait_for_what_they_need(out: Path, tmp_path: Path) -> None:
    """The first lane ends what the second waits for; a step over its limit stops no other."""
    text = """
[[record]]
name = "data"
command = 'touch {data}; sleep 60'
seconds = 1
[[lane]]
name = "one"
needs = ["data"]
steps = [{name = "first", command = "test -e {data} && sleep 0.5 && touch {runs}-first", seconds = 20}]
[[lane]]
name = "two"
steps = [
    {name = "slow", command = "sleep 60", seconds = 1.5},
    {name = "last", command = "until test -e {runs}-first; do sleep 0.1; done", seconds = 20},
]
[[lane]]
name = "three"
needs = ["one", "two"]
steps = [{name = "end", command = "test -e {runs}-first && echo {minutes} {device}"}]
"""
    line = [*write_plan(tmp_path, text), "--only", "record,train", "--budget", "120", "--keep"]
    plan = read_plan(line, out)
    assert not Run(plan, time.time()).run()
    told = json.loads((out / REPORT).read_text())
    assert {part["name"]: part["status"] for part in told["parts"]} == {
        "record-data": "over", "first": "done", "slow": "over", "last": "done", "end": "done",
    }  # fmt: skip
    assert (plan.scratch / "logs/end.log").read_text().endswith(" cpu\n")


@pytest.mark.parametrize(
    "text",
    [
        "no toml",
        "[[lane]]\nname = 'a'\nneeds = ['b']\nsteps = []",
        "[[lane]]\nname = 'a'\nsteps = [{name = 'x', command = ''}, {name = 'x', command = ''}]",
        "[[lanes]]\nname = 'a'",
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(out: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        read_plan(write_plan(tmp_path, text), out)


@pytest.mark.parametrize(
    "line",
    [
        ["--train", "take-cover"],
        ["--train", "take-cover:small:much"],
        ["--train", "take-cover:small:0"],
        ["--train", "a:small:1", "--train", "a:small:1"],
        ["--only", "everything"],
        ["--budget", "-1"],
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, line: list[str]) -> None:
    with pytest.raises(ConfigError):
        read_plan([*line, "--scratch", str(tmp_path)], tmp_path)


def test_missing_wheels_are_told(tmp_path: Path) -> None:
    assert [line for line in wheels.missing(tmp_path) if line.startswith("a wheel of")] == [
        f"a wheel of {name}" for name in wheels.CARRIED
    ]
    assert "fits" in wheels.weigh(tmp_path, limit=2**40)
    told = wheels.weigh(tmp_path, limit=2**20)
    assert "move aside" in told
    assert "weights.safetensors" in told


def test_a_world_without_its_weights_can_be_timed(world: Path) -> None:
    assert load_or_initialise(str(world), "cpu")[1]
    (world / "weights.safetensors").unlink()
    made, is_trained = load_or_initialise(str(world), "cpu")
    assert not is_trained
    assert made.engine(1).open(0, 0).step().frame.shape == (*made.spec.size, 3)
