"""Sessions of any engine behind the interface of ``worldsim.engine.batch.WorldBatch``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch

from worldsim.controls import Control
from worldsim.engine.batch_step import BatchStep
from worldsim.engine.temperature import Temperature, TemperatureRange
from worldsim.envs.reset_options import Start
from worldsim.errors import EngineError
from worldsim.sampling.control_batch import ControlBatch

__all__ = ["SessionBatch", "step_uncertainty"]


class _Engine(Protocol):
    """Interface of the engine, which may be a server's."""

    def open(self, seed: int = 0, start: Any = None, temperature: float = 1.0) -> Any:
        """A session."""

    def step(self, controls: Any) -> Any:
        """Step of every session."""


class SessionBatch:
    """``count`` sessions that are stepped together, for served worlds. All tensors are on the host.

    Args:
        engine: opens sessions and steps them.
        count: how many.
        space: the world's ``ControlSpace``.
        temperature: factor of the sampled noise, in [0, 10], or the lowest and the highest one.
    """

    device = torch.device("cpu")

    def __init__(self, engine: _Engine, count: int, space: Any, temperature: Temperature = 1.0) -> None:
        self.engine, self.count = engine, count
        self._space, self._temperatures = space, TemperatureRange.read(temperature)
        self._sessions: list[Any] = [None] * count

    @property
    def now(self) -> BatchStep:
        """Newest step of every world."""
        return _gathered([session.last for session in self._sessions], self._seeds())

    def begin(self, rows: Sequence[int], seeds: Sequence[int], starts: Sequence[Start]) -> None:
        """Begin worlds anew; see ``WorldBatch.begin``. One that cannot begin leaves its row empty."""
        for row, seed, start in zip(rows, seeds, starts, strict=True):
            self._end(row)
            self._sessions[row] = self.engine.open(seed, start, self._temperatures.of(seed))

    def step(self, controls: ControlBatch) -> BatchStep:
        """Step every world; see ``WorldBatch.step``."""
        if None in self._sessions:
            raise EngineError("a world must have begun before it is stepped", self._sessions.index(None))
        held = [self._control(controls, i) for i in range(self.count)]
        steps = self.engine.step(dict(zip(self._sessions, held, strict=True)))
        return _gathered([steps[session] for session in self._sessions], self._seeds())

    def close(self) -> None:
        """Close all sessions."""
        for row in range(self.count):
            self._end(row)

    def _end(self, row: int) -> None:
        session, self._sessions[row] = self._sessions[row], None
        if session is not None:
            session.close()

    def _control(self, controls: ControlBatch, i: int) -> Control:
        vector = np.asarray(controls.vector[i])
        given = controls.pose_mask is not None and controls.poses is not None and bool(controls.pose_mask[i])
        pose = np.asarray(controls.poses[i]) if given and controls.poses is not None else None
        return replace(self._space.from_vector(vector), pose=pose)

    def _seeds(self) -> list[int]:
        return [session.seed for session in self._sessions]


def step_uncertainty(step: Any) -> float:
    """Uncertainty of a step; NaN in a world without poses."""
    return math.nan if step.uncertainty is None else float(step.uncertainty)


def _gathered(steps: Sequence[Any], seeds: Sequence[int]) -> BatchStep:
    posed = all(step.pose is not None for step in steps)
    return BatchStep(
        frame=torch.from_numpy(np.stack([step.frame for step in steps])),
        pose_given=torch.tensor([step.pose_given for step in steps]),
        reward=torch.tensor([step.reward for step in steps], dtype=torch.float32),
        terminated=torch.tensor([step.terminated for step in steps]),
        uncertainty=torch.tensor([step_uncertainty(step) for step in steps], dtype=torch.float64),
        known=torch.tensor([step.known for step in steps]),
        index=torch.tensor([step.index for step in steps]),
        seed=torch.tensor(seeds),
        pose=torch.from_numpy(np.stack([step.pose for step in steps])) if posed else None,
        single=steps,
    )
