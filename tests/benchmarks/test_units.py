"""The tables of prediction units, on tiny networks and a tiny dataset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.units.__main__ import main
from benchmarks.units.cells import TABLES, cells_of
from benchmarks.units.measures import Reader
from tests.training.rooms import write_walks
from worldsim.data.clips import ClipStore
from worldsim.errors import ConfigError
from worldsim.tokenizer.protocol import LatentSpec
from worldsim.training import trainer
from worldsim.units import read_unit

TINY = {
    "width": 16,
    "layers": 2,
    "heads": 2,
    "channels": 3,
    "vae_width": 8,
    "vae_depth": 1,
    "vae_batch": 4,
    "batch": 2,
    "length": 8,
    "generator_every": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_walks(tmp_path_factory.mktemp("walks"), {1: 60, 3: 50, 20: 60}, poses=False)


def command(data: Path, out: Path, *more: str) -> list[str]:
    settings = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    sizes = ["--minutes", "0.01", "--trajectories", "2", "--frames", "6", "--endless-frames", "30"]
    return ["--data", str(data), "--out", str(out), "--device", "cpu", *sizes, *settings, *more]


@pytest.mark.slow
def test_tables_are_made_and_not_made_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "matmul_peak", lambda device: 1e12)  # seconds, on a busy machine
    results = tmp_path / "units.json"
    words = command(
        data,
        tmp_path / "out",
        "--tables=units,endless",
        "--only=cube:4/2x2x2",
        "--contexts=8",
        "--endless-unit=cube:4/2x2x2",
        f"--results={results}",
    )
    assert main(words) == 0
    printed = capsys.readouterr().out
    report = json.loads(results.read_text())
    rows = report["tables"]["units"]
    kinds = [(stage, steps) for stage in ("1", "2") for steps in (1, 2, 4)]
    assert [(row["stage"], row["K"]) for row in rows] == kinds
    assert all(np.isfinite(row[name]) for row in rows for name in ("frechet", "motion_ratio"))
    assert {row["latency_frames"] for row in rows} == {4}
    for row in report["rows"]["units"]:
        assert row["frechet_low"] <= row["frechet"] <= row["frechet_high"]
        assert row["psnr6_gap_low"] <= row["psnr6_gap"] <= row["psnr6_gap_high"]
    assert report["tables"]["endless"][0]["frames"] == 30
    page = (tmp_path / "out" / "index.html").read_text()
    assert "films/units/strips.png" in page
    assert (tmp_path / "out" / "films" / "units" / "strips.png").exists()
    assert main(words) == 0  # nothing is trained again
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("grid", "cubes"), [((6, 8), ("4/4x3x4", "1/1x3x4")), ((4, 6), ("4/4x4x3", "1/1x2x3"))]
)
def test_rows_are_units_that_divide_the_grid(grid: tuple[int, int], cubes: tuple[str, ...]) -> None:
    cells = cells_of(grid)
    form = LatentSpec(kind="continuous", tokens=grid[0] * grid[1], channels=4, grid=grid, bounded=False)
    for cell in cells:
        assert read_unit(cell.changes["unit"]).build(form).frames in (1, 4)
    slugs = [cell.slug for cell in cells]
    assert len(slugs) - len(set(slugs)) == 3, (
        "a cube, the symmetric scorers and recorded data are twice there"
    )
    assert tuple(dict.fromkeys(cell.table for cell in cells)) == TABLES
    named = [cell.name for cell in cells if cell.table == "cubes"]
    assert (named[0], named[-1]) == tuple(f"cube:{sizes}" for sizes in cubes)


@pytest.mark.parametrize("wrong", ["--tables=cells", "--only=frames"])
def test_an_unknown_table_or_row_is_refused(data: Path, tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ConfigError, match="must be one of"):
        main(command(data, tmp_path, wrong))


def test_a_reader_knows_real_motion_from_none(data: Path) -> None:
    clips = ClipStore(data)
    reader = Reader(clips, count=6, length=20)
    clip = clips.sample(4, 16, np.random.default_rng(1))
    still = np.repeat(clip.frames[:, :1], 16, 1)
    assert reader.features(clip.frames).shape == (60, 32)
    apart = reader.features(still).std(0).mean()
    assert apart < reader.features(clip.frames).std(0).mean()
    assert 0 <= reader.accuracy(clip.frames, clip.controls) <= 1
