"""Collectors play episodes of a source; recordings and evaluations are made of them."""

from __future__ import annotations

from typing import Protocol

from worldsim.data.episodes import EpisodeArrays
from worldsim.data.spec import SourceSpec

__all__ = ["Collector"]


class Collector(Protocol):
    """Plays whole episodes of one source."""

    @property
    def spec(self) -> SourceSpec:
        """The source."""

    def play(self, seed: int) -> EpisodeArrays:
        """Play the episode that ``seed`` fixes, controls included."""

    def close(self) -> None:
        """Release the source."""
