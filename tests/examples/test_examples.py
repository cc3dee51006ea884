"""The examples, run on tiny worlds as their readers run them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.source_tree import ROOT
from tests.tiny import lively_world
from worldsim import camera
from worldsim.agents.record import main as record
from worldsim.bridge.server.server import Server, ServerOptions
from worldsim.data.dataset import Dataset
from worldsim.engine import load

EXAMPLES = ROOT / "examples"


def example(name: str) -> ModuleType:
    """The module of an example."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_world(tmp_path_factory.mktemp("examples"))


@pytest.fixture
def address() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as short:  # the path of a socket has at most 107 letters
        yield f"ipc://{short}/s"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A program of its own: parts that it registers stay there."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    call = [sys.executable, *arguments]
    return subprocess.run(call, env=environment, capture_output=True, text=True, timeout=280)


def test_every_example_is_run_here() -> None:
    named = re.findall(r'(?m)^EXAMPLE_\w+ = "(\w+)"', Path(__file__).read_text(encoding="utf-8"))
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(named)


EXAMPLE_PARTS = "own_parts"
EXAMPLE_REWARD = "own_reward"
EXAMPLE_BRANCH = "branch"
EXAMPLE_GIVEN = "given_frames"
EXAMPLE_REMOTE = "remote_client"
EXAMPLE_GAME = "own_game"
EXAMPLE_DREAM = "dream_data"


@pytest.mark.slow
@pytest.mark.timeout(600)  # two programs, which a busy machine may starve
def test_own_parts_are_trained_played_and_stepped(tmp_path: Path) -> None:
    script = str(EXAMPLES / f"{EXAMPLE_PARTS}.py")
    done = run(script, "--minutes", "0.02", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "2 frames a unit; frames 4 and 5 in one step" in done.stdout
    assert "8 steps in Gymnasium" in done.stdout
    assert (tmp_path / "out" / "play.png").exists()
    stranger = run("-c", f"import worldsim; worldsim.load({str(tmp_path / 'out' / 'run' / 'square')!r})")
    assert stranger.returncode != 0
    assert "linear-patches" in stranger.stderr, "a program that has not imported the parts is told the name"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_own_parts_are_named_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    data, out, world = tmp_path / "data", tmp_path / "run", tmp_path / "run" / "square"
    lines = [
        f"record own_parts:square --out {data} --frames 1200 --codec raw --workers 1",
        f"train square --recipe own_parts:patches --set width=32 --data {data} --out {out} --minutes 0.02 "
        "--device cpu",
        f"play --import own_parts --world {world} --headless --frames 4 --out-prefix {tmp_path / 'play'}",
    ]
    for line in lines:
        done = run("-m", "worldsim.cli", *line.split())
        assert done.returncode == 0, done.stderr
    assert Dataset(data).spec.name == "own_parts:square"
    assert (tmp_path / "play.png").exists()
    done = run("-m", "worldsim.cli", *lines[2].replace("--import own_parts ", "").split(), "--force")
    assert done.returncode == 2
    assert "linear-patches" in done.stderr


@pytest.mark.slow
def test_own_rewards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert example(EXAMPLE_REWARD).main(["--world", str(folder), "--frames", "3"]) == 0
    told = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert set(told) == {"brightness", "novelty", "darkness"}
    assert 0 < float(told["brightness"]) < 1
    assert float(told["darkness"]) == pytest.approx(1 - float(told["brightness"]), abs=0.2)


def test_branches_come_back_to_the_bit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert example(EXAMPLE_BRANCH).main(["--world", str(folder), "--frames", "2"]) == 0
    assert "the same frames again: True" in capsys.readouterr().out


def test_a_session_begins_with_given_frames(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert example(EXAMPLE_GIVEN).main(["--world", str(folder)]) == 0
    length = len(load(folder, "cpu").starts[0].frames)
    told = capsys.readouterr().out
    assert f"began with {length} given frames; newest index {length - 1}" in told
    assert f"imagined frame {length}, " in told
    assert f"imagined frame {length + 2}, " in told, "the observed frame counts"


def test_a_remote_client(folder: Path, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    engine = load(folder, "cpu").engine(4, rewind_frames=4)
    with Server(engine, ServerOptions(address=address, metrics_port=0)):
        assert example(EXAMPLE_REMOTE).main([address]) == 0
    assert "2 branches at frame" in capsys.readouterr().out


@pytest.mark.slow
def test_an_own_game_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    check_env(example(EXAMPLE_GAME).FallingBlocks(render_mode="rgb_array"), skip_render_check=True)
    out = tmp_path / "lanes"
    arguments = ["--frames", "200", "--workers", "1", "--codec", "raw", "--out", str(out)]
    assert record([f"gym:{EXAMPLE_GAME}:FallingBlocks-v0", *arguments]) == 0
    assert sum(episode.length for episode in Dataset(out).episodes) >= 200
    assert Dataset(out).spec.control_space.keys == ("left", "right")


@pytest.mark.slow
@pytest.mark.timeout(300)  # a program that starts another one
@pytest.mark.parametrize("poses", [True, False])
def test_dreams_become_a_dataset(tmp_path: Path, poses: bool) -> None:
    world = lively_world(tmp_path, "w", tokenizer="history" if poses else "frame", poses=poses)
    script, out = str(EXAMPLES / f"{EXAMPLE_DREAM}.py"), tmp_path / "dream"
    done = run(script, "--world", str(world), "--frames", "60", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert ("2 paths of 8 frames, 100% known" in done.stdout) == poses
    dataset, loaded = Dataset(out), load(world, "cpu")
    assert dataset.spec == loaded.spec
    episode = dataset.episode(1)
    session = loaded.engine(1, rewind_frames=0).open(episode.seed)
    for frame, control in zip(episode.frames, episode.controls, strict=True):
        np.testing.assert_array_equal(frame, session.frame)
        session.step(control)


def test_frames_along_paths_are_those_of_single_sessions(folder: Path) -> None:
    world = load(folder, "cpu")
    paths = np.stack(
        [np.stack([camera.from_planar(2, 2, 1.3, turn) for turn in (0.1 * i, i)]) for i in (1, 2)]
    )
    frames, known = example(EXAMPLE_DREAM).frames_along(world, paths)
    assert known.all()
    for number, path in enumerate(paths):
        session = world.engine(1).open(number, 0)
        for frame, pose in zip(frames[number], path, strict=True):
            np.testing.assert_array_equal(frame, session.step(pose).frame)
