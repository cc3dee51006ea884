"""Every number on every command line has a range, and one checker refuses what is outside."""

from __future__ import annotations

import argparse
import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.source_tree import ROOT
from worldsim import cli, options
from worldsim.errors import ConfigError
from worldsim.options import COUNT, PORT, Number, Parser, frame_size, listed

COMMANDS = {name: (module, "main") for name, (module, _) in cli._COMMANDS.items()} | {
    "ray": ("worldsim.bridge.ray", "main"),
    "ablation": ("benchmarks.ablation", "main"),
    "temperatures": ("benchmarks.temperatures", "main"),
    "compression": ("benchmarks.compression", "main"),
    "units": ("benchmarks.units.__main__", "main"),
    "real learner": ("benchmarks.real_learner", "main"),
    "stress": ("benchmarks.stress.__main__", "main"),
}
SOURCES = [
    path for folder in ("worldsim", "envs", "agents", "benchmarks") for path in (ROOT / folder).rglob("*.py")
]


NO_NUMBERS = ("cli.py", "options.py", "wheels.py", "environment.py")
"""Modules that may make parsers of argparse: they take no numbers, or run before anything is installed."""


class CaughtError(Exception):
    """Carries the parser that a command made."""


@pytest.fixture
def catch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command end where it would read its line."""

    def stop(self: Parser, *_: object) -> None:
        raise CaughtError(self)

    monkeypatch.setattr(Parser, "parse_args", stop)


def parser_of(module: str, function: str) -> Parser:
    with pytest.raises(CaughtError) as caught:
        getattr(importlib.import_module(module), function)([])
    found = caught.value.args[0]
    assert isinstance(found, Parser)
    return found


def actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All options of a parser and of those below it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from actions_of(below)
        yield action


def test_help_tells_each_default_once() -> None:
    parser = Parser(prog="try")
    parser.add_argument("what", nargs="?", default="all", help="the part")
    parser.add_argument("--frames", type=COUNT, default=200_000, help="frames to record")
    parser.add_argument("--batch", type=listed(COUNT), default="1,16", help="sessions")
    parser.add_argument("--fps", type=COUNT, help="frames a second (default: the world's own)")
    parser.add_argument("--force", action="store_true", help="replace the file")
    parser.add_argument("--no-kernels", dest="kernels", action="store_false", help="leave all to torch")
    parser.add_argument("--set", action="append", default=[], help="a field")
    told = [line.strip() for line in parser.format_help().splitlines()]
    assert [line[line.index("(default") :] for line in told if "(default" in line] == [
        *("(default: all)", "(default: 200000)", "(default: 1,16)", "(default: the world's own)")
    ]
    assert parser.parse_args([]).batch == [1, 16]


@pytest.mark.usefixtures("catch")
@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_is_without_words(command: str) -> None:
    for action in actions_of(parser_of(*COMMANDS[command])):
        words = "" if isinstance(action, argparse._SubParsersAction) else action.help
        assert words is not None, f"{action.option_strings or action.dest} has no help"
        assert "%(default)" not in words, f"{words!r}: the formatter adds the default"


@pytest.mark.usefixtures("catch")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_has_a_range(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = parser_of(*COMMANDS[command])
    monkeypatch.undo()
    for action in actions_of(parser):
        flag, kind = (action.option_strings or [""])[0], action.type
        assert kind not in (int, float, complex), f"{flag} takes any number"
        if not isinstance(kind, Number):
            continue
        default = action.default
        assert default is None or kind(str(default)) == default, f"{flag} by default is out of its range"
        below = kind.low if kind.above else kind.low - 1
        for bad in ("nan", "inf", "-inf", "1e999", "", "x", f"{below:.15g}", f"{kind.high * 2:.0f}0"):
            with pytest.raises(ConfigError, match=flag):
                parser.parse_args([f"{flag}={bad}"])


@pytest.mark.slow
def test_no_parser_takes_a_bare_number_and_all_are_ours() -> None:
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            kinds = [word.value for word in node.keywords if word.arg == "type"]
            bare = [kind for kind in kinds if isinstance(kind, ast.Name) and kind.id in ("int", "float")]
            called = ast.unparse(node.func)
            is_foreign = called.endswith("ArgumentParser") and path.name not in NO_NUMBERS
            if bare or is_foreign:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found, "take a type of worldsim.options, and its Parser"


@pytest.mark.parametrize(
    "line",
    [
        "train x --data d --out o --minutes 0",
        "train x --data d --out o --minutes -1",
        "train x --data d --out o --minutes nan",
        "train x --data d --out o --seed -1",
        "train x --data d --out o --size 0x0",
        "train x --data d --out o --size 60",
        "train x --data d --out o --threads 0",
        "train ../x --data d --out o",
        "train a/b --data d --out o",
        "train . --data d --out o",
        "train x --data d --out o --set batch=0",
        "train x --data d --out o --set batch=-1",
        "train x --data d --out o --set length=0",
        "train x --data d --out o --set width=-16",
        "train x --data d --out o --set context=1",
        "train x --data d --out o --set lr_scale=-1",
        "train x --data d --out o --set lr_scale=nan",
        "train x --data d --out o --set scene_fraction=-1",
        "train x --data d --out o --set context_noise=5",
        "train x --data d --out o --recipe units --set generator_every=0",
        "train x --data d --out o --recipe next-scale --set bits=0",
        "train x --data d --out o --recipe latent-dynamics --set vae_batch=0",
        "record doom-maze --out o --frames -5",
        "record doom-maze --out o --frames 0",
        "record doom-maze --out o --size 10",
        "record doom-maze --out o --size x",
        "record doom-maze --out o --workers 0",
        "record doom-maze --out o --seed 4000",
        "eval doom-maze --horizon 0",
        "eval doom-maze --seed 20000",
        "baseline convlstm --data d --out o --hidden 0",
        "train-idm doom-maze --minutes inf",
        "play --fps nan",
        "play --start 0",
        "serve doom-maze --replicas 0",
        "serve doom-maze --lease-ttl -1",
        "serve doom-maze --lease-ttl nan",
        "serve doom-maze --metrics-port 99999",
        "serve doom-maze --slots 0",
        "serve doom-maze --offload -1",
        "bench --batch 1,0",
        "bench --batch 1,x",
        "bench --seconds nan",
    ],
)
def test_what_is_out_of_range_is_one_typed_line(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("worldsim")
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir()), "nothing is made before the line is read"


def test_a_line_that_lacks_something_is_answered_with_its_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "x"])
    assert stop.value.code == 2
    assert "usage: worldsim train" in capsys.readouterr().err


def test_what_is_in_range_is_read() -> None:
    assert COUNT("1") == 1
    assert PORT("0") == 0
    assert options.MINUTES("0.02") == 0.02
    assert frame_size("210x160") == (210, 160)
    assert listed(COUNT)("1,16,64") == [1, 16, 64]
    with pytest.raises(argparse.ArgumentTypeError, match="of at least 1 and at most 1000000000; got '0'"):
        COUNT("0")
