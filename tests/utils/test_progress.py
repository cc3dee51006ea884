"""Progress as told to a log and to a terminal, and the throughput that goes with it."""

from __future__ import annotations

import pytest
import torch

from worldsim.training.stage import Logs
from worldsim.training.throughput import Throughput
from worldsim.utils import progress
from worldsim.utils.progress import ProgressReporter


class Watch:
    """Stands for the module ``time``."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(progress, "time", watch)
    return watch


def test_a_log_gets_a_line_every_half_minute_and_the_last_one(
    watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressReporter("training", 200) as reporter:
        for done in range(1, 71):
            watch.now += 1
            reporter.update(done, f"step {done}")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training 15%, 0:00:30 gone, 0:02:50 to go: step 30",
        "training 30%, 0:01:00 gone, 0:02:20 to go: step 60",
        "training 35%, 0:01:10 gone, 0:02:10 to go: step 70",
    ]


def test_what_was_done_before_does_not_count_as_speed(
    watch: Watch, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressReporter("training", 200) as reporter:
        reporter.begin(100)
        watch.now += 30
        reporter.update(115)
    assert capsys.readouterr().err == "training 57%, 0:00:30 gone, 0:02:50 to go\n"


def test_a_last_step_beyond_the_time_is_all_of_it(watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressReporter("training", 30) as reporter:
        watch.now += 43
        reporter.update(43)
    assert capsys.readouterr().err == "training 100%, 0:00:43 gone, 0:00:00 to go\n"


def test_nothing_done_nothing_said(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressReporter("decoding", 3):
        pass
    assert capsys.readouterr().err == ""


def test_an_interrupted_run_tells_where_it_stood(watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> None:
        with ProgressReporter("training", 10) as reporter:
            watch.now += 5
            reporter.update(5, "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert "50%" in capsys.readouterr().err


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with ProgressReporter("training", 10) as reporter:
        reporter.update(5, "half of it")
        reporter.update(10, "all of it")
    told = capsys.readouterr().err
    assert "training" in told
    assert "all of it" in told
    assert "\x1b[" in told


def test_throughput_is_a_share_of_the_peak() -> None:
    a = torch.ones(8, 4)
    calls = []

    def step() -> Logs:
        calls.append(a @ a.T)
        return {"loss": 1.0}

    throughput = Throughput(peak=1.0)
    for steps in (1, 2):
        for _ in range(steps):
            assert throughput.run(step)["loss"] == 1
        read = throughput.read()
        counted = steps > 1  # the first step may do what is done only once
        assert read["mfu"] == pytest.approx(counted * 2 * 8 * 4 * 8 * float(read["steps_per_s"]))
    assert len(calls) == 3
    assert throughput.read()["steps_per_s"] == 0
