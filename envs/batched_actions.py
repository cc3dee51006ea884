"""Decoding of the actions of many episodes at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.controls import Control
from worldsim.envs.actions import MAX_YAW, Actions, DictActions
from worldsim.envs.reset_options import read_prompts
from worldsim.errors import ControlError
from worldsim.sampling.control_batch import ControlBatch
from worldsim.sampling.upload import upload

__all__ = ["BatchedActions"]


class BatchedActions:
    """Decodes the actions of ``count`` episodes, as ``Actions`` decodes those of one.

    Actions on the host are checked. Tensors on a GPU stay there unchecked, because reading them would
    synchronise: numbers out of range are clamped, bits other than 0 count as 1, entries that are not finite
    as 0. "dict" actions are always copied to the host, because a pose must be checked.
    """

    def __init__(self, actions: Actions, count: int, device: torch.device) -> None:
        self.actions, self.count, self.device = actions, count, device
        space = actions.controls
        table = np.stack([space.vector(space.from_discrete(i)) for i in range(len(space.discrete_actions))])
        self._table = upload(table.astype(np.float32), device)
        self._prompts = torch.zeros(count, device=device)  # numbers, as in control vectors
        bounds = ((), ()) if space.action is None else (space.action.low, space.action.high)
        self._bounds = [upload(np.array(bound, np.float32), device) for bound in bounds]

    def choose_prompts(self, prompt: Any, mask: Tensor) -> None:
        """Set the prompt of the controls from now on, where ``mask``, bool [N].

        Args:
            prompt: one for all episodes, None for the unknown one, or a list of N.
            mask: on this device.

        Raises:
            ConfigError: a list of another length. ControlError: a prompt that the world does not know.
        """
        space = self.actions.controls
        numbers = [space.prompt_number(one) for one in read_prompts(prompt, space, self.count)]
        self._prompts = torch.where(mask, upload(np.array(numbers, np.float32), self.device), self._prompts)

    def controls(self, actions: Any) -> ControlBatch:
        """Decode ``actions``, N of them in tensors, arrays or lists.

        Raises:
            ControlError, CameraError: another number of actions, or some that mean nothing.
        """
        decoded, channels = self._decoded(actions), self.actions.controls.channels
        if "prompt" not in channels:
            return decoded
        vector = torch.as_tensor(decoded.vector, device=self.device).clone()
        vector[:, channels["prompt"]] = self._prompts[:, None]
        return replace(decoded, vector=vector)

    def _decoded(self, actions: Any) -> ControlBatch:
        """The controls of ``actions``, without prompts."""
        if isinstance(actions, Tensor) and actions.device.type != "cpu":
            if not isinstance(self.actions, DictActions):
                return ControlBatch(self.unchecked(actions))
            actions = actions.cpu()
        numbers = self._numbers(actions)
        if numbers is not None:
            return ControlBatch(self._table[numbers])
        bounded = self._bounded_numbers(actions)
        if bounded is not None:
            return ControlBatch(self._unchecked_numbers(bounded))
        rows = _rows(actions)
        if len(rows) != self.count:
            raise ControlError(f"there must be an action for each of {self.count} episodes", len(rows))
        return self._checked([self.actions.decode(row) for row in rows])

    def unchecked(self, actions: Tensor) -> Tensor:
        """The control vectors, float32 [N, M], of tensors that are not checked; without prompts."""
        if len(actions) != self.count:
            raise ControlError(f"there must be an action for each of {self.count} episodes", len(actions))
        if self.actions.kind == "discrete":
            return self._table[actions.long().clamp(0, len(self._table) - 1)]
        keys, space = len(self.actions.controls.keys), self.actions.controls
        if space.action is not None and self.actions.kind == "continuous":
            return self._unchecked_numbers(actions)
        shape = (self.count, keys + int(self.actions.kind == "box" and space.yaw))
        if actions.shape != shape:
            raise ControlError(f"actions must have shape {shape}", tuple(actions.shape))
        vector = torch.zeros(self.count, space.size, device=actions.device)
        if self.actions.kind == "box":
            values = actions.float().nan_to_num(0.0, 0.0, 0.0)
            vector[:, :keys] = (values[:, :keys] > 0).float()
            if space.yaw:
                vector[:, keys] = values[:, -1].clamp(-1, 1) * MAX_YAW
        else:
            vector[:, :keys] = (actions != 0).float()
        return vector

    def _unchecked_numbers(self, actions: Tensor) -> Tensor:
        """The control vectors of continuous actions."""
        low, high = (bound.to(actions.device) for bound in self._bounds)
        shape = (self.count, len(low))
        if actions.shape != shape:
            raise ControlError(f"actions must have shape {shape}", tuple(actions.shape))
        vector = torch.zeros(self.count, self.actions.controls.size, device=actions.device)
        columns = self.actions.controls.channels["action"]
        vector[:, columns.start] = 1
        numbers = actions.float().nan_to_num(0.0, 0.0, 0.0)
        vector[:, columns.start + 1 : columns.stop] = torch.minimum(torch.maximum(numbers, low), high)
        return vector

    def _numbers(self, actions: Any) -> Tensor | None:
        """Discrete actions on the host that are all allowed; None: they must be looked at one by one."""
        if self.actions.kind != "discrete" or self.device.type != "cpu":
            return None
        numbers = np.asarray(actions)
        if numbers.shape != (self.count,) or numbers.dtype.kind not in "iu":
            return None
        if numbers.min() < 0 or numbers.max() >= len(self._table):
            return None
        return torch.from_numpy(numbers.astype(np.int64))

    def _bounded_numbers(self, actions: Any) -> Tensor | None:
        """Continuous actions on the host that are all allowed; None: they must be looked at one by one."""
        if self.actions.kind != "continuous" or self.device.type != "cpu":
            return None
        numbers = np.asarray(actions.detach() if isinstance(actions, Tensor) else actions)
        if numbers.shape != (self.count, len(self._bounds[0])) or numbers.dtype.kind not in "fiu":
            return None
        rounded, (low, high) = torch.from_numpy(numbers.astype(np.float32)), self._bounds
        return rounded if bool(((rounded >= low) & (rounded <= high)).all()) else None

    def _checked(self, controls: list[Control]) -> ControlBatch:
        space = self.actions.controls
        vector = np.stack([space.vector(control) for control in controls]).astype(np.float32)
        given = np.array([control.pose is not None for control in controls])
        if not given.any():
            return ControlBatch(vector)
        poses = np.stack([np.eye(4) if control.pose is None else control.pose for control in controls])
        return ControlBatch(vector, poses, given)


def _rows(actions: Any) -> list[Any]:
    """Batched actions, in tensors or arrays, as a list of NumPy ones."""
    if isinstance(actions, Mapping):
        columns = {name: _rows(column) for name, column in actions.items() if column is not None}
        lengths = {len(column) for column in columns.values()}
        if len(lengths) > 1:
            raise ControlError("all entries of a batch of actions must be equally long", sorted(lengths))
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return list(np.asarray(actions.detach().cpu() if isinstance(actions, Tensor) else actions))
