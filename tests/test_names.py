"""Names and docstrings: words of the field, one meaning each, subject first."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator

import pytest

from tests.source_tree import modules, tree

MODULES = modules()

RETIRED = {
    "action_rows", "alone", "behaviours", "blobs", "choosers", "compose", "crew", "desk", "door",
    "doorkeeper", "dream", "dreams", "facts", "fields", "films", "fleet", "footing", "foresight", "front",
    "guests", "handling", "haste", "held_actions", "judge", "judge_disturbance", "judge_footage",
    "judge_lessons", "judge_network", "judge_track", "judge_training", "keeper", "lane", "lanes", "lead",
    "ledger", "letter", "lock", "look", "move", "obedience", "openings", "outputs", "pace", "patience",
    "peak", "peers", "pen", "pictures", "place", "pool", "post", "processor", "recall", "referee",
    "reproduce", "served", "shares", "teacher", "takes", "ticker", "tiles", "trial", "turns", "upcoming",
    "verdicts", "yardstick",
}  # fmt: skip
"""Names that modules had before; ``docs/glossary.md`` has the words that took their place."""

CLAUSES = re.compile(r"\W*(What|Whether|Of|How|Where|Who)\b")
"""Beginnings of a docstring that hide its subject."""


def docstrings(node: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of the docstrings of a module, its classes, functions and attributes."""
    for owner in ast.walk(node):
        if isinstance(owner, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in owner.body:
                value = statement.value if isinstance(statement, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield statement.lineno, value.value


@pytest.mark.slow
def test_public_class_names_are_unique() -> None:
    homes = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(module)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_module_has_a_retired_name(module: str) -> None:
    assert not RETIRED & set(module.split(".")), "see docs/glossary.md"


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted(MODULES))
def test_docstrings_begin_with_their_subject(module: str) -> None:
    found = [
        f"{line}: {text.splitlines()[0]}"
        for line, text in docstrings(tree(MODULES[module]))
        if CLAUSES.match(text)
    ]
    assert found == [], f"{module}: begin with a noun or an imperative verb"
