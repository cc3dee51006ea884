"""Rules that the tests themselves keep: seeded draws, waits that end, installations marked as such."""

from __future__ import annotations

import ast
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.source_tree import ROOT, tree
from tests.waiting import wait_until

FILES = sorted(set((ROOT / "tests").rglob("*.py")) - {Path(__file__)})
DRAWS = {"random", "randint", "uniform", "choice", "shuffle", "sample", "gauss"}
ENDLESS = {"wait", "join", "communicate"}
LIMITED = {"program.wait"}
"""Calls that have a limit already: a benchmark's ``Program`` is made with its seconds."""


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of an attribute or a name; other parts are left out."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_generator_is_without_a_seed(path: Path) -> None:
    for call in calls(path):
        name = dotted(call.func)
        seeded = bool(call.args or call.keywords)
        assert seeded or not name.endswith(("default_rng", "random.Random", "manual_seed")), (
            f"{path}:{call.lineno} {name}() needs a seed"
        )
        drawn = name.removeprefix("random.") if name.startswith("random.") else ""
        assert drawn not in DRAWS, f"{path}:{call.lineno} {name}: use random.Random(seed), or parametrise"


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_wait_is_endless(path: Path) -> None:
    for call in calls(path):
        owner, _, method = dotted(call.func).rpartition(".")
        bounded = bool(call.args or call.keywords)
        waits = method in ENDLESS and owner and not owner.endswith("path")
        waits = waits and dotted(call.func) not in LIMITED
        assert bounded or not waits, f"{path}:{call.lineno} {owner}.{method}() needs a timeout"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_installations_are_marked(path: Path) -> None:
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks = {dotted(mark) for mark in node.decorator_list}
            words = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
            installs = words & {"ci", "install"} and words & {"--quiet", "--no-audit", "--ignore-scripts"}
            assert not installs or "pytest.mark.network" in marks, f"{node.name} needs the mark network"


@pytest.mark.parametrize("turn", [1, 2])
def test_draws_without_a_generator_repeat(turn: int) -> None:
    drawn = (random.random(), np.random.rand(), torch.rand(1).item())
    assert _seen.setdefault("drawn", drawn) == drawn


def test_a_wait_that_is_in_vain_ends() -> None:
    with pytest.raises(AssertionError, match=r"not within 0.05 s: a miracle"):
        wait_until(lambda: False, "a miracle", 0.05)


def test_every_test_has_a_time_limit(pytestconfig: pytest.Config) -> None:
    assert float(pytestconfig.getini("timeout")) > 0
    assert "pytest_timeout" in sys.modules


_seen: dict[str, tuple[float, ...]] = {}
