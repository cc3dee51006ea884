"""The README's Python, run as a reader would: block after block, on the shipped world."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import worldsim
from tests.source_tree import ROOT
from worldsim.bridge.client.local_address import default_address
from worldsim.bridge.server.server import Server, ServerOptions

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)", README))


def blocks(section: str) -> list[str]:
    """The Python of a section."""
    found = re.findall(r"(?s)```python\n(.*?)```", SECTIONS[section])
    assert found, f"{section} has Python"
    return found


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve doom-maze at its default address, as `worldsim serve doom-maze` does."""
    with tempfile.TemporaryDirectory() as short:  # the path of a socket has at most 107 letters
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        address = default_address("doom-maze")
        Path(address.removeprefix("ipc://")).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = worldsim.load("doom-maze", "cpu").engine(12, rewind_frames=8)
        with Server(engine, ServerOptions(address=address, metrics_port=0)):
            yield


def run(section: str) -> dict[str, Any]:
    """Run all blocks of a section in one namespace, and return it."""
    names: dict[str, Any] = {"__name__": "readme"}
    for block in blocks(section):
        exec(compile(block, f"README.md: {section}", "exec"), names)
    return names


def test_every_section_with_python_is_run() -> None:
    told = Path(__file__).read_text(encoding="utf-8")
    with_python = [name for name, text in SECTIONS.items() if "```python" in text]
    assert with_python
    assert all(f'run("{name}")' in told for name in with_python), with_python


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.slow
def test_a_world_in_which_things_move() -> None:
    names = run("A world in which things move")
    assert names["observation"].shape == (60, 80, 3)
    names["env"].close()


@pytest.mark.slow
def test_from_python() -> None:
    names = run("From Python")
    assert names["again"].index == names["session"].index
    assert len(names["steps"]) == 3


@pytest.mark.slow
def test_for_agents() -> None:
    names = run("For agents")
    assert names["observation"].shape == names["env"].observation_space.shape
    names["env"].close()
    names["envs"].close()


@pytest.mark.slow
def test_from_another_program(served: None) -> None:
    names = run("From another program")
    assert len(names["steps"]) == 8
    assert names["later"].result().index == names["step"].index + 1
