"""Files stay short enough to read and functions short enough to see whole."""

from __future__ import annotations

import ast

import pytest

from tests.source_tree import modules, tree

MODULES = modules()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_files_stay_under_400_lines(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) < 400


@pytest.mark.parametrize("module", sorted(MODULES))
def test_functions_stay_under_60_lines(module: str) -> None:
    for node in ast.walk(tree(MODULES[module])):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length < 60, f"{module}:{node.lineno} {node.name} has {length} lines"
