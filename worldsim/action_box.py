"""Continuous actions: the box that they lie in, their checks, and their columns in a control vector.

NumPy only, as ``controls``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldsim.errors import ControlError

__all__ = ["MAX_ACTION", "ActionBox", "read_action"]

MAX_ACTION = 256
"""Numbers of the longest continuous action."""


@dataclass(frozen=True, kw_only=True)
class ActionBox:
    """The continuous actions that a world takes: n numbers, each within bounds of its own.

    In a control vector an action has n + 1 columns: 1 and its numbers, or 0 throughout where it is unknown.

    Raises:
        ControlError: bounds of different lengths, none or more than ``MAX_ACTION``, bounds that are not
            finite, or a lower one that is not below the upper one.
    """

    low: tuple[float, ...]
    """Lower bounds, rounded to float32."""
    high: tuple[float, ...]
    """Upper bounds, rounded to float32."""

    def __post_init__(self) -> None:
        low, high = read_action(self.low), read_action(self.high)
        if len(low) != len(high):
            raise ControlError("an action must have as many lower as upper bounds", (len(low), len(high)))
        if not all(a < b for a, b in zip(low, high, strict=True)):
            raise ControlError("an action's lower bounds must be below the upper ones", (low, high))
        object.__setattr__(self, "low", low)  # the instance is frozen
        object.__setattr__(self, "high", high)

    @property
    def size(self) -> int:
        """Length of an action, n."""
        return len(self.low)

    def validate(self, action: Sequence[float]) -> None:
        """Check an action's length and its bounds.

        Raises:
            ControlError: another length, or a number out of its bounds.
        """
        if len(action) != self.size:
            remedy = f"give action=[{', '.join(f'a{i}' for i in range(min(self.size, 3)))}{self._dots}]"
            raise ControlError(f"an action must have {self.size} numbers", len(action), remedy)
        for i, (low, number, high) in enumerate(zip(self.low, action, self.high, strict=True)):
            if not low <= number <= high:
                rule = f"number {i} of an action must be in [{low:g}, {high:g}]"
                raise ControlError(rule, number, "clip it to the world's bounds")

    def sample(self, rng: np.random.Generator) -> tuple[float, ...]:
        """A random action: each number uniform within its bounds."""
        return read_action(rng.uniform(self.low, self.high))

    def columns(self, action: Sequence[float] | None) -> list[float]:
        """The n + 1 columns of an action; None: unknown."""
        return [0.0] * (self.size + 1) if action is None else [1.0, *action]

    def from_columns(self, columns: np.ndarray) -> tuple[float, ...] | None:
        """The action of n + 1 columns, the inverse of :meth:`columns`.

        Raises:
            ControlError: a first column that is neither 0 nor 1, or a number out of its bounds.
        """
        known, *action = columns.tolist()
        if known not in (0, 1):
            raise ControlError("the first column of an action must be 0 or 1, known", known)
        if not known:
            return None
        numbers = read_action(action)
        self.validate(numbers)
        return numbers

    def check_rows(self, rows: np.ndarray) -> None:
        """Check columns [T, n + 1] of many actions; raises ControlError as :meth:`from_columns`."""
        known, low, high = rows[:, 0], np.array(self.low), np.array(self.high)
        inside = (known == 0) | ((rows[:, 1:] >= low) & (rows[:, 1:] <= high)).all(1)
        good = inside & np.isin(known, (0, 1))
        if not good.all():
            self.from_columns(rows[int(np.argmin(good))])

    @property
    def _dots(self) -> str:
        return ", ..." if self.size > 3 else ""


def read_action(given: Any) -> tuple[float, ...]:
    """Numbers, a list or an array [n], rounded to float32.

    Raises:
        ControlError: no list of 1 to ``MAX_ACTION`` numbers, or numbers that are not finite.
    """
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of different lengths, a tensor on a GPU
        raise ControlError("an action must be a list of numbers", given) from error
    if array.dtype.kind not in "biuf" or array.ndim != 1 or not 1 <= len(array) <= MAX_ACTION:
        rule = f"an action must be a list of 1 to {MAX_ACTION} numbers"
        raise ControlError(rule, _shortened(given), "write action=[0.5, -1.0]")
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise ControlError("an action must be finite", array.tolist())
    return tuple(numbers.tolist())


def _shortened(given: Any) -> object:
    return given if len(repr(given)) <= 200 else f"{type(given).__name__} {list(np.shape(given))}"
