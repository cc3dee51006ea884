"""The report for people: a table, and below it what each figure is."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group
from rich.table import Table
from rich.text import Text

from worldsim.evaluation.figure import Figure

__all__ = ["table_of"]


def table_of(figures: Mapping[str, Figure], facts: Mapping[str, object]) -> Group:
    """One row per figure; then what they are and what they depend on."""
    table = Table(title=f"{facts['world']} against {facts['source']}", title_justify="left")
    table.add_column("figure", no_wrap=True)
    for name in ("value", "95 %", "floor", "ceiling"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("unit")
    for name, figure in figures.items():
        low, high = figure.ci
        values = (
            _number(figure.value),
            f"{low:.2f} to {high:.2f}",
            _number(figure.floor),
            _number(figure.ceiling),
        )
        table.add_row(name, *values, figure.unit)
    notes = "\n".join(f"{name}: {figure.about}" for name, figure in figures.items())
    return Group(
        table, Text(notes, "dim"), Text(", ".join(f"{name} {value}" for name, value in facts.items()))
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
