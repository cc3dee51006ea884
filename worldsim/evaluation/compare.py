"""Two reports side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from worldsim.errors import DataError

__all__ = ["comparison", "read_report"]


def read_report(path: Path) -> Mapping[str, Any]:
    """Read a report that ``worldsim eval --json`` printed.

    Raises:
        DataError: it is no such file.
    """
    try:
        report = json.loads(path.read_text())
        report["metrics"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        rule = "a report must be what `worldsim eval --json` printed"
        raise DataError(rule, f"{path}: {error}", "print it again") from error
    found: Mapping[str, Any] = report
    return found


def comparison(a: Mapping[str, Any], b: Mapping[str, Any]) -> Table:
    """Return a table of the metrics that both have; * where neither interval contains the other's value."""
    differing = [name for name in a if name != "metrics" and a[name] != b.get(name)]
    about = "; ".join(f"{name} {a[name]} | {b.get(name)}" for name in differing)
    title = f"a | b: {about}" if about else "a | b"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0))
    table.add_column("metric", no_wrap=True)
    for name in ("a", "95 %", "b", "95 %", "b - a", "unit"):  # where it is narrow, intervals take two lines
        table.add_column(name, justify="right", min_width=5 if name in ("a", "b") else 8)
    for name, left in a["metrics"].items():
        right = b["metrics"].get(name)
        if right is not None:
            table.add_row(name, *_cells(left, right), left["unit"])
    return table


def _cells(left: Mapping[str, Any], right: Mapping[str, Any]) -> tuple[str, ...]:
    value = [side["value"] for side in (left, right)]
    span = ["{:.2f} to {:.2f}".format(*side["ci"]) for side in (left, right)]
    inside = [
        low <= other <= high
        for (low, high), other in zip((left["ci"], right["ci"]), reversed(value), strict=True)
    ]
    mark = "" if any(inside) else " *"
    return f"{value[0]:.2f}", span[0], f"{value[1]:.2f}", span[1], f"{value[1] - value[0]:+.2f}{mark}"
