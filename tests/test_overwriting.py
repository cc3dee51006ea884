"""No command overwrites results unasked, or begins to work for a place that cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldsim import cli
from worldsim.agents.learner.command import read_options
from worldsim.errors import StorageError
from worldsim.utils.run_command import run_command

COMMANDS = {
    "train": ("train x --data nowhere --recipe small --out OUT", "OUT/state.safetensors"),
    "train of the same name": ("train x --data nowhere --recipe small --out OUT", "OUT/x/config.json"),
    "baseline": ("baseline convlstm --data nowhere --out OUT/b.safetensors", "OUT/b.safetensors"),
    "train-idm": ("train-idm nothing --out OUT/j.safetensors", "OUT/j.safetensors"),
    "bench": ("bench step --world nowhere --out OUT/b.json", "OUT/b.json"),
    "eval": ("eval nowhere --out OUT", "OUT/index.html"),
    "videos": ("eval nowhere --videos OUT", "OUT/sheet.png"),
    "dream-train": ("dream-train nowhere --minutes 1 --out OUT", "OUT/rounds.json"),
    "compress": ("compress nowhere OUT/c --data nowhere", "OUT/c"),
    "decompress": ("decompress nowhere nofile OUT/e.npz", "OUT/e.npz"),
    "play": ("play --world nowhere --headless --record OUT/w.mp4", "OUT/w.mp4"),
    "play's sheet": ("play --world nowhere --headless --record OUT/w.mp4", "OUT/w.png"),
}
"""Command line, and the result that is there already. Nothing else of it is: later steps would fail."""


@pytest.mark.parametrize("name", COMMANDS)
def test_results_stay(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, result = (text.replace("OUT", str(tmp_path / "out")) for text in COMMANDS[name])
    Path(result).parent.mkdir(parents=True)
    Path(result).write_text("kept")
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "results must not be overwritten unasked" in err
    assert "add --resume" in err or "add --force" in err
    assert Path(result).read_text() == "kept"
    way = "--resume" if "train" in name else "--force"
    assert cli.main([*line.split(), way]) == 2, "it goes on, to what is not there"
    assert "overwritten unasked" not in capsys.readouterr().err


OUTPUTS = [line for name, (line, _) in COMMANDS.items() if " of " not in name] + [
    "keys new robot --dir OUT",
    "record gym:tests.envs.pixel_env:Dots-v0 --frames 10 --out OUT",
    "play --world nowhere --headless --out-prefix OUT/play",
    "play --world nowhere --headless --out-prefix OUT/",
    "play --world nowhere --headless --force --out-prefix OUT/play",
]


@pytest.mark.parametrize("line", OUTPUTS)
def test_a_place_that_takes_no_files_is_told_before_the_work(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(line.replace("OUT", str(tmp_path / "file" / "out")).split()) == 2
    out, err = capsys.readouterr()
    told = err.splitlines()[-1]
    assert out == ""
    assert "the system must allow what a command does" in told
    assert str(tmp_path) in told
    assert "Traceback" not in err


def test_learners_try_their_file_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "policy.safetensors"
    saved.write_text("kept")
    with pytest.raises(StorageError, match="overwritten unasked"):
        read_options("A learner.", ["--out", str(saved)])
    assert read_options("A learner.", ["--out", str(saved), "--force"]).out == saved
    assert run_command(lambda: int(read_options("A learner.", ["--num-envs", "0"]).num_envs)) == 2
    assert "--num-envs" in capsys.readouterr().err
