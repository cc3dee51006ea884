"""From a recording to figures, for frames of any size and for episodes that are short."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from worldsim.cli import main
from worldsim.engine.world import load

MODULE = "tests.envs.pixel_env"
SMALL = {
    "width": 16, "layers": 2, "heads": 2, "context": 3, "tokenizer_width": 8, "tokenizer_depth": 1,
    "channels": 4, "batch": 2, "length": 4,
}  # fmt: skip
SIZES = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "size", "tokenizer"),
    [
        ("Dots-v0", None, "history"),
        ("GreyDots-v0", "84x84", "history"),
        ("Levers-v0", "48x48", "frame"),
        ("FlatDots-v0", "31x17", "history"),
    ],
)
def test_any_source_becomes_a_world_that_is_measured(
    env_id: str, size: str | None, tokenizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, data, run = f"gym:{MODULE}:{env_id}", tmp_path / "data", tmp_path / "run"
    shape = (24, 32) if size is None else tuple(map(int, size.split("x")))
    line = ["record", source, "--frames", "150", "--workers", "1", "--out", str(data)]
    assert main([*line, *([] if size is None else ["--size", size])]) == 0
    assert f"{source}: frames of {shape[0]}x{shape[1]} at 20 fps" in capsys.readouterr().err
    line = ["train", "dots", "--data", str(data), "--out", str(run), "--minutes", "0.005", *SIZES]
    line += ["--recipe", "small"]
    assert main([*line, "--set", f"tokenizer={tokenizer}"]) == 0
    world = load(run / "dots", "cpu")
    assert world.spec.size == shape
    session = world.engine(1).open()
    assert session.step().frame.shape == (*shape, 3)
    capsys.readouterr()
    report = tmp_path / "report"
    line = ["eval", str(run / "dots"), "--quick", "--trajectories", "2", "--json", "--device", "cpu"]
    assert main([*line, "--out", str(report)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["length"] < 44, "episodes end before the 260 frames that a dream is asked for"
    assert {"tokenizer_psnr", "next_psnr", "copy_psnr"} <= told["metrics"].keys()
    assert all(np.isfinite(metric["value"]) for metric in told["metrics"].values())
    assert "Traceback" not in json.dumps(told["failures"])
    assert (report / "index.html").stat().st_size > 1000
