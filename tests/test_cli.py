from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

import worldsim
from tests.source_tree import ROOT, modules
from worldsim import cli
from worldsim.errors import DataError

COMMANDS = list(cli._COMMANDS)


def install(monkeypatch: pytest.MonkeyPatch, run: Callable[[list[str]], int]) -> None:
    """Let ``run`` stand in for every command's ``main``."""
    monkeypatch.setattr("importlib.import_module", lambda name: SimpleNamespace(main=run))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_rest_of_the_line_goes_to_the_command(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    seen: list[list[str]] = []
    install(monkeypatch, lambda argv: seen.append(argv) or 3)
    assert cli.main([command, "doom-maze", "--frames", "5", "--help"]) == 3
    assert cli.main([command]) == 3
    assert seen == [["doom-maze", "--frames", "5", "--help"], []]


def test_an_error_is_one_line_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise DataError("a dataset must be there", argv[0], "record one")

    install(monkeypatch, fail)
    assert cli.main(["train", "nowhere"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "worldsim: a dataset must be there; got 'nowhere'; record one\n"


def test_ctrl_c_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(argv: list[str]) -> int:
        raise KeyboardInterrupt

    install(monkeypatch, interrupt)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="the system has no signals")
def test_sigterm_is_as_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    released = []

    def work(argv: list[str]) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            released.append(argv)
        return 0

    install(monkeypatch, work)
    assert cli.main(["play"]) == 130
    assert released == [[]]
    assert capsys.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_bug_stays_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: list[str]) -> int:
        raise RuntimeError("a bug")

    install(monkeypatch, fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["train"])


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(f"\n  {command} " in out for command in COMMANDS)


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().err


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["paly"])
    assert stop.value.code == 2
    assert "invalid choice: 'paly'" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"worldsim {worldsim.__version__}\n"


def test_help_imports_no_torch() -> None:
    call = "try:\n    cli.main(['--help'])\nfinally:\n    assert 'torch' not in sys.modules"
    code = f"import sys, worldsim.cli as cli\n{call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_its_options(command: str) -> None:
    if cli._COMMANDS[command][0] not in modules():
        pytest.skip("not built yet")
    done = subprocess.run(
        [sys.executable, "-m", "worldsim.cli", command, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"usage: worldsim {command}" in done.stdout


def test_play_py_is_the_play_command() -> None:
    done = subprocess.run(
        [sys.executable, "play.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--world" in done.stdout


@pytest.mark.parametrize("line", [["--import", "mine", "train"], ["train", "--import=mine"]])
def test_parts_are_imported_before_the_command(monkeypatch: pytest.MonkeyPatch, line: list[str]) -> None:
    seen: list[object] = []
    monkeypatch.setattr(cli, "import_parts", seen.append)
    install(monkeypatch, lambda argv: seen.append(argv) or 0)
    assert cli.main([*line, "doom-maze"]) == 0
    assert seen == ["mine", ["doom-maze"]]


def test_an_import_that_fails_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--import", "no_such_parts", "train"]) == 2
    assert cli.main(["train", "--import"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("worldsim: a module of parts must import; got ")
    assert "no_such_parts" in errors[0]
    assert errors[1].startswith("worldsim: --import needs the name of a module")
