"""What is installed: every package is listed, and what is listed exists."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib

import worldsim
from tests.source_tree import ROOMS, ROOT
from worldsim.checkpoints import FOLDER

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_listed_packages_are_those_that_exist() -> None:
    folders = {**ROOMS, "checkpoints": "worldsim.checkpoints"}
    existing = {
        ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
        for folder, package in folders.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert sorted(existing) == PROJECT["tool"]["setuptools"]["packages"]


def test_every_python_file_lies_in_a_package() -> None:
    for folder in ROOMS:
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), f"{path.parent} needs an __init__.py"


def test_shipped_worlds_are_found() -> None:
    assert FOLDER.is_dir()
    assert (FOLDER / "__init__.py").exists()


def test_the_version_is_the_installed_one_and_in_the_changelog() -> None:
    assert importlib.metadata.version("worldsim") == worldsim.__version__
    assert f"## {worldsim.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_has_an_exact_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    exact = {line.split("==")[0].lower() for line in lines if "==" in line}
    assert len(exact) == sum(not line.startswith("#") for line in lines)
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [*PROJECT["project"]["dependencies"], *(entry for extra in extras for entry in extra)]
    names = {re.split(r"[\[<>=]", entry)[0].lower() for entry in wanted} - {"worldsim"}
    assert names <= exact
