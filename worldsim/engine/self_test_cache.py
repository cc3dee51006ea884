"""Cache of self-test results on disk: one small file for each machine, number type and world."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch

from worldsim.engine.self_test import Invariance
from worldsim.utils.cpu_info import cpu_info

_FOLDER = "WORLDSIM_CACHE"
"""The environment variable that names another folder than the user's cache."""
_PACKAGES = ("kernels", "model", "sampling", "scene", "tokenizer")
"""Packages whose code a result depends on."""
_OPTIONS = ("ATEN_", "DNNL_", "KMP_", "MKL_", "ONEDNN_")
"""Beginnings of environment variables by which libraries choose their loops."""


def cached(facts: Mapping[str, object], test: Callable[[], Invariance]) -> Invariance:
    """Return the cached result of ``test`` for these facts and this machine; else run and cache it.

    If the folder cannot be written every process runs the test.
    """
    content = json.dumps({**facts, **_machine()}, sort_keys=True, default=str)
    path = _folder() / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"
    kept = _read(path)
    if kept is None:
        kept = test()
        _keep(path, {"invariance": asdict(kept), "facts": json.loads(content)})
    return kept


def _read(path: Path) -> Invariance | None:
    """The cached result; None if there is none or it is damaged."""
    try:
        content = json.loads(path.read_text())["invariance"]
        batch, threads = content["batch"], content["threads"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Invariance(batch=batch is True, threads=threads is True)


def _machine() -> dict[str, object]:
    """Facts that decide the order of torch's sums on this machine."""
    options = {name: value for name, value in os.environ.items() if name.startswith(_OPTIONS)}
    here = cpu_info()
    return {
        "processor": [here.vendor, here.name, " ".join(sorted(here.flags))],
        "torch": [torch.__version__, torch.backends.cpu.get_cpu_capability()],
        "mkldnn": torch.backends.mkldnn.enabled,
        "options": options,
        "code": _code(),
    }


@cache
def _code() -> str:
    """sha256 of the code that multiplies, kernels included."""
    found, root = hashlib.sha256(), Path(__file__).parents[1]
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in {".py", ".so"}:
                found.update(path.read_bytes())
    return found.hexdigest()


def _folder() -> Path:
    if _FOLDER in os.environ:
        return Path(os.environ[_FOLDER])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worldsim"


def _keep(path: Path, content: Mapping[str, object]) -> None:
    """Write whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
            file.write(json.dumps(content))
        os.replace(file.name, path)
    except OSError:
        return
