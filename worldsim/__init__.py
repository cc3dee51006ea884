"""A learned world that you can step into."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

_here = Path(__file__).parent
if not (_here / "envs").is_dir():
    # A clone, where envs/, agents/ and checkpoints/ lie beside this folder: found there, installed or not.
    __path__.append(str(_here.parent))

from worldsim.envs.registry import register as _register_envs  # noqa: E402

if TYPE_CHECKING:
    from worldsim.checkpoint import Context
    from worldsim.controls import Control, ControlSpace
    from worldsim.engine.world import World, load
    from worldsim.errors import WorldsimError

__version__ = "0.1.0"
__all__ = ["Context", "Control", "ControlSpace", "World", "WorldsimError", "load"]

_HOMES = {
    "Context": "worldsim.checkpoint",
    "Control": "worldsim.controls",
    "ControlSpace": "worldsim.controls",
    "World": "worldsim.engine.world",
    "WorldsimError": "worldsim.errors",
    "load": "worldsim.engine.world",
}


def __getattr__(name: str) -> object:
    """The public names, imported on first use: ``import worldsim`` alone stays quick and free of torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'worldsim' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


_register_envs()
