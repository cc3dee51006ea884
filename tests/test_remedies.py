"""Installation commands: those that code and documents give never install a stranger's package."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from tests.source_tree import ROOT, modules, tree
from worldsim import errors
from worldsim.errors import install

STRANGER = re.compile(r"(?<![\w/.-])worldsim(\[[\w,\s-]+\]|==|>=|\s*@)")
"""The project's import name as a requirement: on PyPI somebody else's package."""
COMMAND = re.compile(r"(?:pip|uv pip|pipx|uv add) install ([^`\n)]+)")
INSTALL = re.compile(r"\bpip3? install\b|\bpip3? uninstall\b")

DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/**/*.md", "clients/*/*.md", "benchmarks/**/*.md", "checkpoints/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
SETTINGS = [ROOT / "pyproject.toml", ROOT / "clients" / "python" / "pyproject.toml", ROOT / "Makefile"]


def requirements(command: str) -> list[str]:
    """What a pip command line installs, options and their values left out."""
    words, found = shlex.split(command, comments=True), []
    while words:
        word = words.pop(0)
        if word in ("-c", "--constraint", "-r", "--index-url"):
            words.pop(0)
        elif word not in ("-e", "--editable") and not word.startswith("-"):
            found.append(word)
    return found


@pytest.mark.parametrize("path", [*DOCUMENTS, *SETTINGS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_document_names_the_strangers_package(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not STRANGER.search(text)
    for command in COMMAND.findall(text):
        for requirement in requirements(command):
            assert requirement.startswith((".", "'.")), f"{path} installs {requirement} from an index"


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted(modules()))
def test_code_gives_no_command_of_its_own(module: str) -> None:
    if module == "worldsim.errors":
        return
    texts = [
        node.value
        for node in ast.walk(tree(modules()[module]))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    for text in texts:
        assert not STRANGER.search(text), text
        told = INSTALL.search(text.replace("pip uninstall pygame pygame-ce", ""))
        assert told is None, f"{module} says {text!r}: use worldsim.errors.install"


@pytest.mark.parametrize("module", sorted(modules()))
def test_extras_that_code_names_exist(module: str) -> None:
    for node in ast.walk(tree(modules()[module])):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "install":
            assert {word.value for word in node.args if isinstance(word, ast.Constant)} <= EXTRAS


def test_the_command_installs_this_clone() -> None:
    assert install("play", "doom") == f"pip install -e '{ROOT}[play,doom]'"
    assert install() == f"pip install -e '{ROOT}'"
    assert install(package="pillow") == "pip install pillow"


def test_an_installed_package_names_a_clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(errors, "_CLONE", tmp_path)
    assert install("play") == "pip install -e '.[play]' in a clone of worldsim"


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("pip install 'worldsim[bridge]'", True),
        ('["worldsim[bridge]", "ray"]', True),
        ("install worldsim[play]", True),
        ("worldsim==0.1", True),
        ("pip install -e '.[play]'", False),
        ("worldsim-engine[bridge]", False),
        ("/home/a/worldsim[play]", False),
        ("worldsim serve", False),
    ],
)
def test_the_rule_itself(text: str, refused: bool) -> None:
    assert bool(STRANGER.search(text)) == refused
