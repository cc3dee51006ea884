"""Coding of bits by their chances: a range coder (the package constriction), or the length it would need.

Shapes: n bits coded together.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from worldsim.errors import DataError, DependencyError, install

__all__ = ["BitCounter", "BitReader", "BitWriter", "Coder"]

_LEAST = 2.0**-16
"""Least chance of a bit: a sure bit that is wrong costs 16 bits."""


class Coder(Protocol):
    """Codes bits one batch after the other."""

    def code(self, chance: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        """Bits, int32 [n] of 0 and 1, whose ``chance`` float64 [n] to be 1 is known.

        A writer is given ``bits`` and returns them; a reader is given None.
        """


class BitCounter:
    """Counts the bits that an ideal coder needs: minus the binary logarithm of their chances."""

    def __init__(self) -> None:
        self.total = 0.0
        """Bits so far."""

    def code(self, chance: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        assert bits is not None, "there is nothing to read from"
        chance = _clamped(chance)
        self.total -= float(np.log2(np.where(bits > 0, chance, 1 - chance)).sum())
        return bits


class BitWriter:
    """Writes bits.

    Raises:
        DependencyError: constriction is not installed.
    """

    def __init__(self) -> None:
        stream = _stream()
        self._encoder, self._model = stream.queue.RangeEncoder(), stream.model.Bernoulli(perfect=False)

    def code(self, chance: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        assert bits is not None, "a writer is given what it writes"
        self._encoder.encode(bits, self._model, _clamped(chance))
        return bits

    def finish(self) -> bytes:
        """All that was written."""
        return np.asarray(self._encoder.get_compressed(), "<u4").tobytes()


class BitReader:
    """Reads what a ``BitWriter`` wrote, given the same chances.

    Raises:
        DataError: the bytes are no whole words.
        DependencyError: constriction is not installed.
    """

    def __init__(self, payload: bytes) -> None:
        if len(payload) % 4:
            raise DataError("coded bits must be whole words", len(payload), "the file is damaged")
        stream = _stream()
        words = np.frombuffer(payload, "<u4").astype(np.uint32)
        self._decoder, self._model = stream.queue.RangeDecoder(words), stream.model.Bernoulli(perfect=False)

    def code(self, chance: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        assert bits is None, "a reader is not given what it reads"
        try:
            return np.asarray(self._decoder.decode(self._model, _clamped(chance)), np.int32)
        except AssertionError as error:  # so constriction says that the words cannot have been written
            raise DataError("coded bits must fit their chances", str(error), "the file is damaged") from error


def _clamped(chance: np.ndarray) -> np.ndarray:
    """Chances on a grid of 2^-16, so that no rounding of a sum beyond that matters, within (0, 1)."""
    grid = np.round(np.asarray(chance, np.float64) / _LEAST) * _LEAST
    return np.clip(grid, _LEAST, 1 - _LEAST)


def _stream() -> Any:
    """The streams of the package constriction."""
    try:
        from constriction import stream
    except ImportError as error:
        raise DependencyError("compression needs constriction", None, install("compression")) from error
    return stream
