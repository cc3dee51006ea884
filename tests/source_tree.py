"""The project's own source files, for the tests that read them."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = {"worldsim": "worldsim", "envs": "worldsim.envs", "agents": "worldsim.agents"}
"""Top-level folder -> the package that it is installed as."""


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
