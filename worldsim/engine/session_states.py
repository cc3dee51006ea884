"""States of an engine's sessions: a row of the batch for those with a slot, host memory for the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from worldsim.engine.scheduler import Scheduler, SlotPlan
from worldsim.sampling.world_state import WorldState

__all__ = ["SessionStates"]


class SessionStates:
    """Moves sessions' states between slots and host memory, as the scheduler plans it.

    Args:
        batch: one row for each slot.
        scheduler: knows who has a slot.
        device: of the batch.
    """

    def __init__(self, batch: WorldState, scheduler: Scheduler, device: torch.device) -> None:
        self._batch, self._scheduler, self._device = batch, scheduler, device
        self._offloaded: dict[int, WorldState] = {}

    def admit(self, number: int, state: WorldState) -> None:
        """Take the state of a session that has no slot yet."""
        self._offloaded[number] = state

    def forget(self, number: int) -> None:
        """Drop the state of a session without a slot, if there is one."""
        self._offloaded.pop(number, None)

    def load(self, numbers: Sequence[int]) -> None:
        """Give every session a slot; idle ones are offloaded for it.

        Raises:
            EngineError: more sessions than slots.
        """
        plan = self._scheduler.plan(numbers)
        offloaded = loaded = 0
        try:
            for move in plan.offload:
                self.offload(move.session, move.slot)
                offloaded += 1
            for move in plan.load:
                self._batch.put(np.array([move.slot]), self._offloaded[move.session].to(self._device))
                del self._offloaded[move.session]
                loaded += 1
        except BaseException:
            self._scheduler.revoke(SlotPlan(plan.offload[offloaded:], plan.load[loaded:]))
            raise

    def offload(self, number: int, slot: int) -> None:
        """Copy the state of a slot into host memory."""
        self._offloaded[number] = self._batch.pick(np.array([slot])).to(torch.device("cpu"))

    def copy(self, number: int) -> WorldState:
        """A copy of a session's state, one row."""
        slot = self._scheduler.slot(number)
        return self._offloaded[number] if slot is None else self._batch.pick(np.array([slot]))

    def temperature(self, number: int) -> float:
        """Factor of a session's sampled noise."""
        slot = self._scheduler.slot(number)
        state = self._offloaded[number] if slot is None else self._batch
        return float(state.temperature[slot or 0])

    def set_temperature(self, number: int, value: float) -> None:
        """Set the factor of a session's sampled noise."""
        slot = self._scheduler.slot(number)
        with torch.inference_mode():
            if slot is not None:
                self._batch.temperature[slot] = value
                return
            kept = self._offloaded[number]  # forks may share its tensors
            self._offloaded[number] = replace(kept, temperature=torch.full_like(kept.temperature, value))
