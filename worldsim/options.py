"""Options of every command line: the parser, and the ranges that values are checked against.

No parser uses a bare ``int`` or ``float``: a number out of range is refused before any work is done.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from worldsim.errors import ConfigError

__all__ = [
    "COUNT",
    "DENOISING",
    "FRAMES_PER_SECOND",
    "MINUTES",
    "NATURAL",
    "PORT",
    "PROCESSES",
    "SECONDS",
    "SEED",
    "SHARE",
    "TEMPERATURE",
    "THREADS",
    "Number",
    "Parser",
    "frame_size",
    "listed",
]

_T = TypeVar("_T")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help that ends each option's line with its default, so that no help text repeats it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        is_value = not isinstance(action.default, bool | list) and action.default is not None
        can_be_left_out = bool(action.option_strings) or action.nargs == argparse.OPTIONAL
        if is_value and can_be_left_out and action.default != argparse.SUPPRESS:
            text = f"{text} (default: %(default)s)".lstrip()
        return text


class Parser(argparse.ArgumentParser):
    """Argument parser that refuses a value with a typed error of one line.

    A line that lacks something, or has too much, is answered with its usage, as argparse does.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": _HelpFormatter} | options)

    def error(self, message: str) -> NoReturn:
        """End the parsing.

        Raises:
            ConfigError: an option's value is not allowed. SystemExit: the line as a whole is wrong.
        """
        cause = sys.exc_info()[1]
        if isinstance(cause, argparse.ArgumentError) and cause.argument_name:
            about = f"see `{self.prog} --help`"
            raise ConfigError(f"{cause.argument_name}: {cause.message}", None, about) from None
        super().error(message)


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """Range of an option's value; argparse calls it with the text of the command line."""

    whole: bool = True
    """True if only whole numbers are allowed; the result is then an int, else a float."""
    low: float = 0
    """The least value."""
    high: float = 10**9
    """The greatest value."""
    above: bool = False
    """True if ``low`` itself is not allowed."""
    about: str = ""
    """The range in words; by default it is written in numbers."""

    def __call__(self, text: str) -> int | float:
        """The number that ``text`` says.

        Raises:
            argparse.ArgumentTypeError: it says none, or one out of the range.
        """
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:
            value = math.nan
        is_low_enough = value > self.low if self.above else value >= self.low
        if not (is_low_enough and value <= self.high):  # NaN is neither
            raise argparse.ArgumentTypeError(f"must be {self}; got {text[:40]!r}")
        return value

    def __str__(self) -> str:
        if self.about:
            return self.about
        kind = "a whole number" if self.whole else "a number"
        low = f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        return f"{kind} {low} and at most {self.high:.15g}"


COUNT = Number(low=1)
"""Frames, trajectories, channels: at least one."""
NATURAL = Number()
"""A count that may be 0."""
SEED = Number(high=2**63 - 1)
"""Seed of a random generator."""
THREADS = Number(low=1, high=1024)
"""CPU threads."""
PROCESSES = Number(low=1, high=1024)
"""Processes, environments or sessions side by side."""
PORT = Number(high=65_535)
"""TCP port; 0: any that is free."""
MINUTES = Number(whole=False, above=True, high=525_600)
"""Time of a training, at most a year."""
SECONDS = Number(whole=False, above=True, high=31_536_000)
"""Time, at most a year."""
TEMPERATURE = Number(whole=False, high=10)
"""Factor of the sampled noise."""
SHARE = Number(whole=False, high=1)
"""Part of a whole."""
FRAMES_PER_SECOND = Number(whole=False, high=10_000)
"""Frame rate; 0: unlimited."""
DENOISING = Number(low=1, high=1024)
"""Denoising steps K; those that a world's sampler does not take are refused when it is loaded."""
_SIDE = Number(low=1, high=8192)
"""Side of a frame in pixels."""


def frame_size(text: str) -> tuple[int, int]:
    """Height and width in pixels from ``HxW``, e.g. 120x160.

    Raises:
        argparse.ArgumentTypeError: the text is no size.
    """
    height, x, width = text.partition("x")
    if not (x and height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be HxW in pixels, e.g. 120x160; got {text[:40]!r}")
    return int(_SIDE(height)), int(_SIDE(width))


def listed(one: Callable[[str], _T]) -> Callable[[str], list[_T]]:
    """The type of an option with several values between commas, each of the type ``one``."""

    def read(text: str) -> list[_T]:
        return [one(part) for part in text.split(",")]

    return read
