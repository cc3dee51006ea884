"""CUDA graphs of steps: a step of fixed shapes is captured once and replayed without a thousand launches."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import torch

from worldsim.engine.batch_step import BatchStep
from worldsim.sampling.control_batch import ControlTensors

Work = Callable[[ControlTensors, torch.Tensor | None], BatchStep]
"""Step function: from the controls of the new frames, and their rows, to the step."""

_WARM_UP = 3
"""Runs before the capture, in which libraries choose their kernels and allocate memory."""


class Graph:
    """A step function captured as a graph. The constructor runs it a few times with the given inputs."""

    def __init__(self, work: Work, control_tensors: ControlTensors, rows: torch.Tensor | None) -> None:
        with torch.inference_mode(False):  # they are written to in whatever mode the caller is
            self._inputs = [part.clone() for part in _parts(control_tensors, rows)]
        count, posed = 3 if control_tensors.poses is not None else 1, control_tensors.poses is not None

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

    def __call__(self, control_tensors: ControlTensors, rows: torch.Tensor | None) -> BatchStep:
        """Replay the graph; the result is a copy."""
        for mine, theirs in zip(self._inputs, _parts(control_tensors, rows), strict=True):
            mine.copy_(theirs, non_blocking=True)
        self._graph.replay()
        return self._seen.copy()


_are_disabled = False


@contextlib.contextmanager
def kernels_disabled() -> Iterator[None]:
    """Launch kernels one by one within the block, to compare with graphs.

    It applies to engines, batches and batch sizes that are first stepped within.
    """
    global _are_disabled
    before, _are_disabled = _are_disabled, True
    try:
        yield
    finally:
        _are_disabled = before


def captured(work: Work, control_tensors: ControlTensors, rows: torch.Tensor | None) -> Work:
    """Capture ``work`` as a graph; if that fails, warn and return it unchanged."""
    if _are_disabled:
        return work
    try:
        return Graph(work, control_tensors, rows)
    except RuntimeError as error:
        warnings.warn(f"steps are launched one by one, for a graph failed: {error}", stacklevel=2)
        return work


def _parts(control_tensors: ControlTensors, rows: torch.Tensor | None) -> list[torch.Tensor]:
    return [
        part
        for part in (control_tensors.vector, control_tensors.poses, control_tensors.pose_mask, rows)
        if part is not None
    ]
