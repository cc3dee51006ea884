"""Aggregation of stress results, and their failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["add", "failures"]

_MUST_BE_ZERO = (
    "crashes",
    "lost_steps",
    "duplicate_steps",
    "hash_mismatches",
    "stuck",
    "messages_unanswered",
    "sessions_left",
    "others_refused",
    "other_refusals",
    "clients_rejected",
    "leases_lost",
    "pause_sessions_lost",
    "slots_lost",
    "restores_unanswered",
    "restores_internal",
    "world_exits",
    "world_errors",
    "flips_unnoticed",
)
_UPPER_LIMITS = {
    "byte_flood_memory_mb": 512.0,
    "byte_flood_p99_ratio": 2.0,
    "p99_ratio": 2.0,
    "fd_growth": 2,
    "fuzz_fd_growth": 2,
    "reject_p99_ms": 10.0,
}
_LOWER_LIMITS = {"goodput": 0.9}
_KEEP_NEWEST = ("message_rate", "churn_steps_per_s")
_HOUR = 3600


def add(total: dict[str, Any], row: Mapping[str, Any]) -> None:
    """Merge the result of one part into the total.

    Counts and lists are added up, of what has a limit the worst is kept, of the rest the newest.
    """
    for key, value in row.items():
        old = total.get(key)
        if old is None or key in _KEEP_NEWEST:
            total[key] = value
        elif key in _UPPER_LIMITS:
            total[key] = max(old, value)
        elif key in _LOWER_LIMITS:
            total[key] = min(old, value)
        elif isinstance(value, dict):
            total[key] = {**old, **{name: old.get(name, 0) + one for name, one in value.items()}}
        elif isinstance(value, int | list):
            total[key] = old + value
        else:
            total[key] = value


def failures(total: Mapping[str, Any]) -> list[str]:
    """Return all violated limits."""
    found = [f"{key} {total[key]}" for key in _MUST_BE_ZERO if total.get(key)]
    found += [f"refused {len(total['refused'])}"] if total.get("refused") else []
    # A slope is told from noise in hours only; in a slice of seconds none but a gross leak shows.
    slope = {"memory_mb_per_h": 1.0} if total.get("churn_s", 0) >= _HOUR else {"memory_growth_mb": 8.0}
    most = {**_UPPER_LIMITS, **slope}
    found += [f"{key} {total[key]} > {limit}" for key, limit in most.items() if total.get(key, 0) > limit]
    found += [
        f"{key} {total[key]} < {limit}"
        for key, limit in _LOWER_LIMITS.items()
        if total.get(key, limit) < limit
    ]
    return found
