"""Imports what registers a Gymnasium environment: a namespace's package, or a module that is named."""

from __future__ import annotations

import contextlib
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

_OTHERS = (
    "gymnasium_robotics", "highway_env", "panda_gym", "flappy_bird_gymnasium", "vizdoom.gymnasium_wrapper"
)  # fmt: skip
"""Further modules that register environments under names without a namespace."""


def import_environments(env_id: str) -> None:
    """Make ``env_id`` known to Gymnasium, where an installed package or a module registers it.

    Raises:
        DependencyError: the package of a known namespace is not installed.
        SourceError: the module that is named is not there, or importing it fails.
    """
    if ":" in env_id:
        _import_module(env_id.partition(":")[0])
        return
    namespace, slash, name = env_id.rpartition("/")
    if _is_registered(namespace or None, name):
        return
    family = namespace if slash else _family_of(name)
    module, package = _PACKAGES.get(family, (family, family))
    for candidate in _candidates(module) if slash or family in _PACKAGES else ():
        if _is_installed(candidate):
            _import(candidate)
            return
    if family in _PACKAGES:
        remedy = install("atari") if family == "ALE" else install(package=package)
        raise DependencyError(f"{env_id} needs the package {package}", None, remedy)
    for other in dict.fromkeys((*(known for known, _ in _PACKAGES.values()), *_OTHERS)):
        if not slash and not _is_registered(None, name) and _is_installed(other):
            with contextlib.suppress(SourceError):  # one that is broken, and that nobody asked for
                _import(other)


def _is_registered(namespace: str | None, name: str) -> bool:
    """True if Gymnasium knows an environment of this name, of whatever version."""
    name = re.sub(r"-v\d+$", "", name)
    return any((spec.namespace, spec.name) == (namespace, name) for spec in gymnasium.registry.values())


def _family_of(name: str) -> str:
    """Namespace that a name without one belongs to."""
    if re.search(r"NoFrameskip-v\d+$|Deterministic-v\d+$|-ram", name):
        return "ALE"  # its names of before it had a namespace
    return re.split(r"[-_]", name)[0]


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a part of a package that is not there, or does not import
        return False


def _candidates(namespace: str) -> Iterator[str]:
    """Names that a package of environments has by custom."""
    plain = re.sub(r"\W", "_", namespace)
    yield from dict.fromkeys((plain, plain.lower(), f"gym_{plain.lower()}", f"gymnasium_{plain.lower()}"))


def _import_module(module: str) -> None:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # last: it shadows nothing that is installed
    if not _is_installed(module):
        remedy = "install its package, or start where its file lies"
        raise SourceError("the module of an environment must be there", module, remedy)
    _import(module)


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:  # a stranger's module: whatever it does is told as its own fault
        rule = "the module of an environment must import"
        raise SourceError(rule, f"{module}: {type(error).__name__}: {error}", "mend or install it") from error
