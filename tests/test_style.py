"""Files stay short enough to read, functions short enough to see whole, lines within a page."""

from __future__ import annotations

import ast

import pytest

from tests.source_tree import modules, texts, tree

MODULES, TEXTS = modules(), texts()
COLUMNS = 110


@pytest.mark.parametrize("module", sorted(MODULES))
def test_files_stay_under_400_lines(module: str) -> None:
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) < 400


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted(MODULES))
def test_functions_stay_under_60_lines(module: str) -> None:
    for node in ast.walk(tree(MODULES[module])):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length < 60, f"{module}:{node.lineno} {node.name} has {length} lines"


def test_lines_stay_within_110_columns() -> None:
    found = [
        f"{name}:{number}"
        for name, path in TEXTS.items()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > COLUMNS
    ]
    assert not found, "wrap these; a table that needs more is a list"


def test_texts_of_all_kinds_are_held() -> None:
    kinds = {path.suffix for path in TEXTS.values()}
    assert kinds >= {".py", ".md", ".h", ".c", ".mjs", ".yml", ".toml", ".cff", ".sh", ".txt"}
    assert {"README.md", "Makefile", ".ci/run", "checkpoints/take-cover/card.md"} <= set(TEXTS)
