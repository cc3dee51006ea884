"""The project's own source files, for the tests that read them."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = {"worldsim": "worldsim", "envs": "worldsim.envs", "agents": "worldsim.agents"}
"""Top-level folder -> the package that it is installed as."""

_TEXTS = {".py", ".md", ".h", ".c", ".mjs", ".html", ".css", ".yml", ".toml", ".cff", ".sh", ".txt"}
"""Suffixes of files that people write."""
_NAMES = {"Makefile", ".gitignore", "run"}
"""Names of such files that have no suffix."""
_FOLDERS = (".ci", ".github", "benchmarks", "checkpoints", "clients", "docs", "examples", "tests", *ROOMS)
_MADE = {"__pycache__", "build", "node_modules"}
"""Folders of what programs write."""


def texts() -> dict[str, Path]:
    """Path from the root -> file, of what people write: code, documentation, settings."""
    found = [*ROOT.iterdir(), *(path for folder in _FOLDERS for path in (ROOT / folder).rglob("*"))]
    named = {path.relative_to(ROOT): path for path in found if path.suffix in _TEXTS or path.name in _NAMES}
    return {
        name.as_posix(): path
        for name, path in named.items()
        if path.is_file() and not _MADE & set(name.parts) and ".egg-info" not in name.as_posix()
    }


def modules() -> dict[str, Path]:
    """Installed module name -> file, of everything that is shipped; ``play`` is the script at the root."""
    found = {"play": ROOT / "play.py"}
    for folder, package in ROOMS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = inner[:-1] if inner[-1] == "__init__" else inner
            found[".".join([package, *parts])] = path
    return found


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
