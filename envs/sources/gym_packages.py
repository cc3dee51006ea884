"""Imports what registers a Gymnasium environment: a namespace's package, or a module that is named."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator

import gymnasium

from worldsim.errors import DependencyError, SourceError, install

__all__ = ["import_environments"]

_PACKAGES: dict[str, tuple[str, str]] = {
    "ALE": ("ale_py", "ale-py"),
    "MiniGrid": ("minigrid", "minigrid"),
    "BabyAI": ("minigrid", "minigrid"),
    "MiniWorld": ("miniworld", "miniworld"),
    "procgen_gym": ("procgen", "procgen"),
    "dm_control": ("shimmy", "shimmy[dm-control]"),
}
"""Namespace, or family of names -> module that registers it, and the distribution that brings it."""


def import_environments(env_id: str) -> None:
    """Make ``env_id`` known to Gymnasium, where an installed package or a module registers it.

    Raises:
        DependencyError: the package of a known namespace is not installed.
        SourceError: the module that is named is not there, or importing it fails.
    """
    if ":" in env_id:
        _import_module(env_id.partition(":")[0])
        return
    if env_id in gymnasium.registry:
        return
    namespace, slash, name = env_id.rpartition("/")
    family = namespace if slash else re.split(r"[-_]", name)[0]
    module, package = _PACKAGES.get(family, (family, family))
    for candidate in _candidates(module) if slash or family in _PACKAGES else ():
        if importlib.util.find_spec(candidate) is not None:
            _import(candidate)
            return
    if family in _PACKAGES:
        remedy = install("atari") if family == "ALE" else install(package=package)
        raise DependencyError(f"{env_id} needs the package {package}", None, remedy)


def _candidates(namespace: str) -> Iterator[str]:
    """Names that a package of environments has by custom."""
    plain = re.sub(r"\W", "_", namespace)
    yield from dict.fromkeys((plain, plain.lower(), f"gym_{plain.lower()}", f"gymnasium_{plain.lower()}"))


def _import_module(module: str) -> None:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # last: it shadows nothing that is installed
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        remedy = "install its package, or start where its file lies"
        raise SourceError("the module of an environment must be there", module, remedy)
    _import(module)


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:  # a stranger's module: whatever it does is told as its own fault
        rule = "the module of an environment must import"
        raise SourceError(rule, f"{module}: {type(error).__name__}: {error}", "mend or install it") from error
