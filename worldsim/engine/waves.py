"""Waves: the batches in which one call steps many sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TypeVar

from worldsim.sampling.protocol import Sampler, check_denoising_steps

__all__ = ["check_passes", "waves"]

T = TypeVar("T")


def check_passes(
    sampler: Sampler, who: Sequence[T], passes: Mapping[T, int] | None, usual: int
) -> dict[T, int]:
    """Denoising steps of everyone in ``who``: those of ``passes``, or else the ``usual`` ones.

    Raises:
        ConfigError: the sampler does not take as many.
    """
    given = passes or {}
    return {one: check_denoising_steps(sampler, given.get(one, usual)) for one in who}


def waves(who: Sequence[T], passes: Mapping[T, int], most: int) -> list[tuple[int, list[T]]]:
    """Batches of at most ``most``, in the order of ``who``, each with the denoising steps of all in it.

    Those with the fewest come first: they are in a hurry.
    """
    found: list[tuple[int, list[T]]] = []
    for steps, group in groupby(sorted(who, key=passes.__getitem__), key=passes.__getitem__):
        same = list(group)
        found += [(steps, same[first : first + most]) for first in range(0, len(same), most)]
    return found
