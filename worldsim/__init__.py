"""A learned world that you can step into."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

_here = Path(__file__).parent
if not (_here / "envs").is_dir() and (_here.parent / "pyproject.toml").is_file():
    # A clone, where envs/, agents/ and checkpoints/ lie beside this folder: found there, installed or not.
    __path__.append(str(_here.parent))

if TYPE_CHECKING:
    from worldsim.context import Context
    from worldsim.controls import Control, ControlSpace
    from worldsim.engine.engine import Engine
    from worldsim.engine.session import Session
    from worldsim.engine.step import Step
    from worldsim.engine.world import World, load
    from worldsim.errors import WorldsimError

__version__ = "0.1.0"
__all__ = [
    "Context",
    "Control",
    "ControlSpace",
    "Engine",
    "Session",
    "Step",
    "World",
    "WorldsimError",
    "load",
]

_HOMES = {
    "Context": "worldsim.context",
    "Control": "worldsim.controls",
    "ControlSpace": "worldsim.controls",
    "Engine": "worldsim.engine.engine",
    "Session": "worldsim.engine.session",
    "Step": "worldsim.engine.step",
    "World": "worldsim.engine.world",
    "WorldsimError": "worldsim.errors",
    "load": "worldsim.engine.world",
}


def __getattr__(name: str) -> object:
    """The public names, imported on first use: ``import worldsim`` alone stays quick and free of torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'worldsim' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("worldsim."):
            raise
        from worldsim.errors import DependencyError, install

        rule = f"worldsim.{name} needs the engine, and only the client is installed"
        raise DependencyError(rule, None, install()) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


if importlib.util.find_spec("worldsim.envs"):  # the client alone has no environments
    importlib.import_module(
        "worldsim.utils.threads"
    ).limit_spinning()  # torch's OpenMP looks once, when imported
    importlib.import_module("worldsim.envs.registry").register()
