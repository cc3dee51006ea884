"""The page: well-formed, self-contained, and it opens."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.conftest import RoomCollector
from worldsim.engine.world import World
from worldsim.errors import DataError
from worldsim.evaluation.compare import comparison, read_report
from worldsim.evaluation.idm.model import InverseDynamicsModel
from worldsim.evaluation.page.examples import example_rollouts
from worldsim.evaluation.page.page import page_of
from worldsim.evaluation.page.svg import heat, lines, paths
from worldsim.evaluation.suite import EvalConfig, Report, evaluate
from worldsim.evaluation.tasks import TaskSizes

BROWSER = Path(__file__).parent / "browser"
VOID = {"meta", "br", "img", "link", "input", "hr"}
SIZES = TaskSizes(branch_points=2, loops=2, seconds=(1,), endings=4, long_rollouts=2, frames=20)


@pytest.fixture(scope="module")
def collector(world: World) -> RoomCollector:
    return RoomCollector(world.spec)


@pytest.fixture(scope="module")
def report(world: World, collector: RoomCollector, idm: InverseDynamicsModel) -> Report:
    config = EvalConfig(
        trajectories=3, teacher_forced_frames=4, score_every=2, horizon=64, batch=2, tasks=SIZES
    )
    return evaluate(world, collector, config, simulator=collector.source, idm=idm, denoising_steps=1)


@pytest.fixture(scope="module")
def page(world: World, collector: RoomCollector, report: Report) -> str:
    pytest.importorskip("av")
    cases = example_rollouts(world, collector, report, 1)
    return page_of(report, {"world": "<tiny>", "source": "a room"}, world.spec.control_space.keys, cases)


class Reader(HTMLParser):
    """Checks that every tag is closed, and collects what is referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.slow
def test_all_metrics_of_the_parts_are_there(report: Report) -> None:
    assert {
        "key_accuracy", "opposite_action_accuracy", "action_latency_frames",
        "rot_deg_s", "trans_pct_s", "frechet", "loop_closure_1s_psnr", "loop_closure_1s_psnr_keys_only",
        "drift_ratio", "drift_gradient_ratio", "drift_frame_diff_ratio", "idle_psnr", "end_auroc",
        "reward_rmse",
    } <= report.metrics.keys()  # fmt: skip
    for name, metric in report.metrics.items():
        assert np.isfinite(metric.value), name
        assert metric.ci[0] <= metric.ci[1], name


@pytest.mark.slow
def test_the_page_is_well_formed_and_self_contained(page: str, report: Report) -> None:
    reader = Reader()
    reader.feed(page.removeprefix("<!doctype html>"))
    assert reader.open == []
    assert all(reference.startswith("data:") for reference in reader.references)
    assert not any(word in page for word in ("http:", "https:", "url(", "@import", "<script"))
    assert reader.tags.count("video") == 3
    assert reader.tags.count("svg") == 2 + 3 + 2 + 2
    assert all(f"<code>{name}</code>" in page for name in report.metrics)
    assert "&lt;tiny&gt; against a room" in page
    assert "nan" not in page.replace(page[page.find("base64") :], "")


@pytest.mark.slow
def test_examples_are_the_rollouts_that_were_scored(
    world: World, collector: RoomCollector, report: Report
) -> None:
    pytest.importorskip("av")
    best, _, worst = example_rollouts(world, collector, report, 1)
    score = report.scores["true.psnr"].mean(1)
    assert f"{score.max():.1f} dB" in best.title
    assert f"{score.min():.1f} dB" in worst.title
    assert best.video[4:8] == b"ftyp"
    assert best.true is not None
    assert best.true.shape == (64, 2)


@pytest.mark.network
def test_a_browser_opens_it_without_errors(page: str, tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("no Node.js")
    for file in BROWSER.iterdir():
        shutil.copy(file, tmp_path)
    quiet = ["--no-audit", "--no-fund", "--prefer-offline"]
    made = subprocess.run(
        [npm, "install", *quiet], cwd=tmp_path, capture_output=True, timeout=120, check=False
    )
    if made.returncode:
        pytest.skip("no browser to be had")
    (tmp_path / "index.html").write_text(page, encoding="utf-8")
    call = [node, "open.mjs", "index.html"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == {
        "title": "<tiny> against a room", "videos": ["fine"] * 3, "plots": 9, "errors": [], "outside": [],
    }  # fmt: skip


def test_plots_have_what_they_are_given() -> None:
    plot = lines({"a & b": np.arange(2000.0), "c": np.ones(10)}, x="frame", y="dB")
    assert plot.count("<polyline") == 2
    assert "a &amp; b" in plot
    assert plot.count(",") < 900, "long lines are thinned"
    assert lines({"flat": np.full(5, 3.0)}, x="x", y="y").count("<polyline") == 1
    assert heat(["none", "forward"], np.array([[2, 0], [1, 3]])).count("<rect") == 4
    assert paths({"a": np.zeros((5, 2)), "b": np.ones((5, 2))}).count("<circle") == 2


def test_two_reports_are_compared(tmp_path: Path) -> None:
    row = {
        "value": 20.0,
        "ci": [19.0, 21.0],
        "lower_reference": 10.0,
        "upper_reference": 30.0,
        "unit": "dB",
        "about": "",
    }
    first = {"world": "a", "denoising_steps": 2, "metrics": {"next_psnr": row, "gone": row}}
    second = {
        "world": "b",
        "denoising_steps": 2,
        "metrics": {"next_psnr": {**row, "value": 25.0, "ci": [24.0, 26.0]}},
    }
    (tmp_path / "a.json").write_text(json.dumps(first))
    table = comparison(read_report(tmp_path / "a.json"), second)
    assert table.row_count == 1
    assert list(table.columns[5].cells) == ["+5.00 *"]
    assert str(table.title) == "a | b: world a | b"
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(DataError, match="must be what `worldsim eval --json` printed"):
        read_report(tmp_path / "b.json")
