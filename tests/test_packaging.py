"""What is installed, under which names, and in which versions."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import worldsim
from tests.source_tree import ROOMS, ROOT
from worldsim.checkpoints import FOLDER

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_python_file_lies_in_a_package() -> None:
    for folder in ROOMS:
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), f"{path.parent} needs an __init__.py"


@pytest.mark.slow
def test_an_installation_holds_all_that_is_shipped(tmp_path: Path) -> None:
    build = ["egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path)]
    subprocess.run([sys.executable, "setup.py", "--quiet", *build], cwd=ROOT, check=True, capture_output=True)
    installed = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.py")}
    wanted = {
        f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, package in ROOMS.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    assert installed - {"worldsim/checkpoints/__init__.py"} == wanted
    worlds = {path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__"}
    found = {path.name for path in (tmp_path / "worldsim" / "checkpoints").iterdir() if path.is_dir()}
    assert found - {"__pycache__"} == worlds
    rest = {path.relative_to(FOLDER) for path in FOLDER.rglob("*.*") if not path.suffix.startswith(".py")}
    assert all((tmp_path / "worldsim" / "checkpoints" / path).exists() for path in rest)
    assert (tmp_path / "worldsim" / "py.typed").exists()


def test_a_clone_works_without_an_installation_of_its_own(tmp_path: Path) -> None:
    blind = "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]"
    names = "worldsim.agents, worldsim.checkpoints, worldsim.envs"
    code = f"import sys; {blind}; sys.path.insert(0, {str(ROOT)!r}); import {names}; print({names})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert all(str(ROOT / folder) in done.stdout for folder in ("agents", "checkpoints", "envs"))


def test_shipped_worlds_are_found() -> None:
    assert FOLDER.is_dir()
    assert (FOLDER / "__init__.py").exists()


@pytest.mark.parametrize(
    ("folder", "name"), [(ROOT, "worldsim-engine"), (ROOT / "clients" / "python", "worldsim-client")]
)
def test_distributions_have_names_of_their_own_and_one_version(
    folder: Path, name: str, tmp_path: Path
) -> None:
    call = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(call, cwd=folder, check=True, capture_output=True, timeout=120)
    (told,) = tmp_path.glob("*/PKG-INFO")
    metadata = email.message_from_string(told.read_text(encoding="utf-8"))
    assert metadata["Name"] == name, "`worldsim` itself is a stranger's package on PyPI"
    assert metadata["Version"] == worldsim.__version__


def test_the_version_is_in_the_changelog() -> None:
    assert f"## {worldsim.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_has_an_exact_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    exact = {line.split("==")[0].lower() for line in lines if "==" in line}
    assert len(exact) == sum(not line.startswith("#") for line in lines)
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [*PROJECT["project"]["dependencies"], *(entry for extra in extras for entry in extra)]
    names = {re.split(r"[\[<>=]", entry)[0].lower() for entry in wanted} - {"worldsim-engine"}
    assert names <= exact
