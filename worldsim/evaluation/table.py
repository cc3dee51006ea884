"""The report for people: a table, and below it what each metric is."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group
from rich.table import Table
from rich.text import Text

from worldsim.evaluation.metric import Metric

__all__ = ["table_of"]


def table_of(metrics: Mapping[str, Metric], settings: Mapping[str, object]) -> Group:
    """One row per metric; then what they are and what they depend on."""
    table = Table(title=f"{settings['world']} against {settings['source']}", title_justify="left")
    table.add_column("metric", no_wrap=True)
    for name in ("value", "95 %", "lower ref.", "upper ref."):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("unit")
    for name, metric in metrics.items():
        low, high = metric.ci
        values = (
            _number(metric.value),
            f"{low:.2f} to {high:.2f}",
            _number(metric.lower_reference),
            _number(metric.upper_reference),
        )
        table.add_row(name, *values, metric.unit)
    notes = "\n".join(f"{name}: {metric.about}" for name, metric in metrics.items())
    return Group(
        table, Text(notes, "dim"), Text(", ".join(f"{name} {value}" for name, value in settings.items()))
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
