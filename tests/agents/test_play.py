"""``worldsim play`` without a window: files, one JSON line, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

import worldsim
from tests.agents.fake_engine import FakeEngine, FakeSource, fake_world
from worldsim.agents.human import display, play
from worldsim.agents.human.reference_run import ReferenceRun
from worldsim.controls import Control
from worldsim.errors import DependencyError, EngineError, install

FIGURES = {"fps", "p50_ms", "p99_ms", "frames", "world", "device", "dtype", "denoising_steps", "params"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A fake world is loaded whatever is asked for; the folder is empty and there is no display."""
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    world = fake_world((12, 16))
    monkeypatch.setitem(vars(worldsim), "load", lambda name, device: world)
    monkeypatch.setattr(play, "open_reference", lambda spec: ReferenceRun(FakeSource(spec)))
    return world


def no_engine(spec: object) -> ReferenceRun:
    raise DependencyError("Doom is played by vizdoom", None, install("doom"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="there always is a display")
def test_without_a_display_it_walks_by_itself(
    world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert play.main([]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["frames"] == 200
    assert "no display" in err
    assert "play.mp4 and play.png" in err
    with av.open(str(tmp_path / "play.mp4")) as file:
        assert sum(1 for _ in file.decode(video=0)) == 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["play.mp4", "play.png"]


def test_an_earlier_walk_stays(world: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "play.mp4").write_bytes(b"kept")
    (tmp_path / "play-1.png").write_bytes(b"kept")
    assert play.main(["--headless", "--frames", "4"]) == 0
    assert (tmp_path / "play.mp4").read_bytes() == b"kept"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["play-1.png", "play-2.mp4", "play-2.png", "play.mp4"]
    assert play.main(["--headless", "--frames", "4", "--force"]) == 0
    assert (tmp_path / "play.mp4").read_bytes() != b"kept"


@pytest.mark.parametrize("name", ["walk.mp4", "walk.png"])
def test_a_recording_that_is_named_replaces_nothing_unasked(
    world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_bytes(b"kept")
    line = ["--headless", "--frames", "4", "--record", "walk.mp4"]
    assert play.main(line) == 2
    assert "overwritten unasked" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == b"kept"
    assert play.main([*line, "--force"]) == 0
    assert (tmp_path / name).read_bytes() != b"kept"


def test_places_that_cannot_be_written_are_told_before_the_walk(
    world: SimpleNamespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(play, "_load", None)  # nothing is walked
    (tmp_path / "play.png").mkdir()
    lines = {
        "--out-prefix new/": "No such file",
        "--out-prefix new/walk --force": "No such file",
        "--force": "name of a folder",
        "--record walk.png": "contact sheet",
        "--record play.mp4": "name of a folder",
    }
    for line, told in lines.items():
        assert play.main(["--headless", *line.split()]) == 2
        assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["play.png"]


def test_headless_prints_exactly_one_json_line(
    world: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        play.main(
            [
                "--headless",
                "--frames",
                "20",
                "--record",
                "out.mp4",
                "--json",
                "--denoising-steps",
                "4",
                "--start",
                "2",
                "--seed",
                "7",
            ]
        )
        == 0
    )
    out, _ = capsys.readouterr()
    assert out.count("\n") == 1
    figures = json.loads(out)
    assert figures.keys() >= FIGURES
    assert (figures["frames"], figures["denoising_steps"], figures["params"]) == (20, 4, world.params)
    assert figures["compared"] is True
    assert (tmp_path / "out.mp4").stat().st_size > 500
    assert (tmp_path / "out.png").exists()


@pytest.mark.slow
def test_the_sheet_shows_the_dream_above_the_engine(world: SimpleNamespace, tmp_path: Path) -> None:
    assert play.main(["--headless", "--frames", "32", "--out-prefix", "x"]) == 0
    picture = np.array(Image.open(tmp_path / "x.png"))
    scale, gap = 10, 4
    tall, wide = 12 * scale, 16 * scale
    dream, engine = (picture[22 + i * (tall + gap) :][:tall, 64 : 64 + wide] for i in range(2))
    np.testing.assert_array_equal(dream, engine)  # the fake dream is the maze itself
    assert dream.std() > 5


def test_without_the_real_engine_the_dream_alone_is_shown(
    world: SimpleNamespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(play, "open_reference", no_engine)
    assert play.main(["--headless", "--frames", "20", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["compared"] is False
    assert install("doom") in err
    assert Image.open(tmp_path / "play.png").height < 400


def test_without_pyav_there_still_is_a_sheet(
    world: SimpleNamespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert play.main(["--headless", "--frames", "4"]) == 0
    assert "No video." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["play.png"]


def test_an_episode_that_ends_is_followed_by_the_next_start(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEngine, "ends_at", 5)
    assert play.main(["--headless", "--frames", "12"]) == 0


def test_an_engine_that_stops_is_one_line(
    world: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: FakeEngine, controls: dict[object, Control], **options: object) -> None:
        raise EngineError("memory has to suffice", "13 GiB", "use fewer slots")

    monkeypatch.setattr(play, "_warm_up", lambda engine, seed: None)
    monkeypatch.setattr(FakeEngine, "step", stop)
    assert play.main(["--headless", "--frames", "4", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "memory has to suffice" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--headless --frames 0", "--frames"),
        ("--headless --fps -1", "--fps"),
        ("--headless --fps nan", "--fps"),
        ("--headless --start 0", "--start"),
        ("--headless --start 99", "--start"),
        ("--headless --record nowhere/x.mp4", "nowhere"),
        ("--headless --out-prefix nowhere/x", "nowhere"),
    ],
)
def test_mistakes_are_one_line(
    world: SimpleNamespace, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    assert play.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("environ", "platform", "there"),
    [
        ({}, "linux", False),
        ({"DISPLAY": ""}, "linux", False),
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({"SDL_VIDEODRIVER": "dummy"}, "linux", True),
        ({}, "win32", True),
        ({}, "darwin", True),
    ],
)
def test_where_there_is_a_display(environ: dict[str, str], platform: str, there: bool) -> None:
    assert display.has_display(environ, platform) == there


def test_a_driver_that_nobody_sees_is_no_display() -> None:
    with pytest.raises(display.NoDisplay):
        display.check_driver("offscreen", {})
    display.check_driver("x11", {})
    display.check_driver("dummy", {"SDL_VIDEODRIVER": "dummy"})


def test_without_pygame_the_remedy_is_told(
    world: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPLAY", ":77")
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert play.main([]) == 2
    assert install("play") in capsys.readouterr().err


def test_two_pygames_or_the_other_one_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert display.check_pygame() is None
    monkeypatch.setattr(display.importlib.metadata, "version", lambda name: "2.6")
    assert "both installed" in (display.check_pygame() or "")
    other = SimpleNamespace(version=SimpleNamespace(ver="2.6.1"))
    monkeypatch.setitem(sys.modules, "pygame", other)
    with pytest.raises(DependencyError, match=r"pygame 2\.6\.1.*pip uninstall"):
        display.check_pygame()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="there always is a display")
def test_a_display_that_does_not_answer_is_no_traceback(tmp_path: Path) -> None:
    code = """
        import worldsim
        from tests.agents.fake_engine import fake_world
        from worldsim.agents.human import play
        vars(worldsim)["load"] = lambda name, device: fake_world((6, 8))
        raise SystemExit(play.main(["--frames", "3"]))
    """
    environ = {name: value for name, value in os.environ.items() if name != "SDL_VIDEODRIVER"}
    environ |= {"DISPLAY": ":77", "PYTHONPATH": str(Path(__file__).parents[2])}
    environ.pop("WAYLAND_DISPLAY", None)
    line = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(line, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == 3
    assert "No window" in done.stderr
    assert "Traceback" not in done.stderr


def test_headless_and_help_need_no_pygame() -> None:
    code = "import sys, worldsim.agents.human.play as p; print('pygame' in sys.modules); p.main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[0] == "False"
    assert "--headless" in done.stdout
