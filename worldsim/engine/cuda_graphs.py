"""Steps of fixed shapes, captured once as a CUDA graph and replayed without their thousand launches."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import torch

from worldsim.engine.batch_step import BatchStep
from worldsim.sampling.control_batch import ControlTensors

Work = Callable[[ControlTensors, torch.Tensor | None], BatchStep]
"""From what leads into the new frames, and which rows these are of, to what is seen."""

_WARM_UP = 3
"""Runs before a recording, in which libraries choose their kernels and take their memory."""


class Graph:
    """A ``Work`` as a graph. Making it runs the work a few times with what is given."""

    def __init__(self, work: Work, lead: ControlTensors, rows: torch.Tensor | None) -> None:
        with torch.inference_mode(False):  # they are written to in whatever mode the caller is
            self._inputs = [part.clone() for part in _parts(lead, rows)]
        count, posed = 3 if lead.poses is not None else 1, lead.poses is not None

        def bound() -> BatchStep:
            vector, *rest = self._inputs[:count]
            own = ControlTensors(vector, rest[0], rest[1]) if posed else ControlTensors(vector)
            return work(own, self._inputs[count] if rows is not None else None)

        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                bound()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._seen = bound()

    def __call__(self, lead: ControlTensors, rows: torch.Tensor | None) -> BatchStep:
        """Replay it; what is seen is the caller's own."""
        for mine, theirs in zip(self._inputs, _parts(lead, rows), strict=True):
            mine.copy_(theirs, non_blocking=True)
        self._graph.replay()
        return self._seen.copy()


_are_disabled = False


@contextlib.contextmanager
def kernels_disabled() -> Iterator[None]:
    """Launch steps one by one meanwhile, as where there are no graphs, so that the two can be compared.

    It is about engines, batches and sizes of batches that are first stepped meanwhile.
    """
    global _are_disabled
    before, _are_disabled = _are_disabled, True
    try:
        yield
    finally:
        _are_disabled = before


def captured(work: Work, lead: ControlTensors, rows: torch.Tensor | None) -> Work:
    """``work`` as a graph; as it is where it cannot be captured, and a warning says why."""
    if _are_disabled:
        return work
    try:
        return Graph(work, lead, rows)
    except RuntimeError as error:
        warnings.warn(f"steps are launched one by one, for a graph failed: {error}", stacklevel=2)
        return work


def _parts(lead: ControlTensors, rows: torch.Tensor | None) -> list[torch.Tensor]:
    return [part for part in (lead.vector, lead.poses, lead.pose_mask, rows) if part is not None]
