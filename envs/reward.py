"""Reward functions: reward and end of each step, by the model itself or by a user's rules."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from worldsim.errors import ConfigError

if TYPE_CHECKING:
    from worldsim.engine.batch_step import BatchStep
    from worldsim.engine.step import Step

__all__ = ["BatchedRewardFn", "RewardFn", "RewardFns", "StatefulRewardFn"]


class RewardFn(Protocol):
    """``(step) -> (reward, terminated)``, in place of what the model imagines of both.

    It may read all of the step: its frame, its pose, and the model's own ``step.reward`` and
    ``step.terminated``.
    """

    def __call__(self, step: Step) -> tuple[float, bool]:
        """Return the reward for arriving at this frame, finite, and whether it ends the episode."""


class StatefulRewardFn(RewardFn, Protocol):
    """A reward function with a memory; each episode of a vector has its own copy."""

    def reset(self, step: Step) -> None:
        """Begin an episode with its first frame."""


@dataclass(frozen=True, slots=True)
class BatchedRewardFn:
    """A reward function of a whole vector at once; its values need not leave the device.

    make_vec(..., reward_fn=BatchedRewardFn(lambda steps: (-steps.uncertainty, steps.terminated)))
    """

    function: Callable[[BatchStep], tuple[Tensor, Tensor]]
    """From all episodes' steps to rewards float [N] and whether each is over, bool [N], on their device."""

    def __call__(self, steps: BatchStep) -> tuple[Tensor, Tensor]:
        """Rewards float32 [N] and ends bool [N].

        Raises:
            ConfigError: the function returned something else.
        """
        result: Any = self.function(steps)
        shape = steps.reward.shape
        if not (
            isinstance(result, tuple)
            and len(result) == 2
            and all(isinstance(part, Tensor) and part.shape == shape for part in result)
            and result[1].dtype == torch.bool
        ):
            rule = f"a batched reward_fn must return two tensors of shape {tuple(shape)}, the second bool"
            raise ConfigError(rule, result, "return (rewards, terminated)")
        return result[0].float(), result[1]


class RewardFns:
    """One reward function for each of ``slots`` episodes side by side.

    Args:
        reward_fn: one of

            * a function of a step: all episodes share it;
            * an object with ``reset(step)``: each slot has a deep copy of its own, reset with its episodes;
            * a class, or anything that is called without arguments, that makes one of the above: called once
              for each slot, or for each episode where what it makes has no ``reset``;
            * None: the model's own reward and end.
        slots: number of episodes.

    Raises:
        ConfigError: ``reward_fn`` can't be called.
    """

    def __init__(self, reward_fn: Any, slots: int) -> None:
        if reward_fn is not None and not callable(reward_fn):
            rule, remedy = "a reward_fn must be callable", "pass a function (step) -> (reward, terminated)"
            raise ConfigError(rule, reward_fn, remedy)
        self.imagined = reward_fn is None
        """True where the model's own reward and end hold."""
        self._make = _maker(_imagined if reward_fn is None else reward_fn)
        self.of: list[RewardFn | None] = [None] * slots
        """The function of each slot's newest episode; None before the first."""

    def begin(self, slot: int, step: Step) -> None:
        """Begin an episode with ``step``, the frame before the first control."""
        reward_fn = self.of[slot]
        if reward_fn is None or not hasattr(reward_fn, "reset"):
            reward_fn = self.of[slot] = self._make()
        if hasattr(reward_fn, "reset"):
            reward_fn.reset(step)

    def evaluate(self, slot: int, step: Step) -> tuple[float, bool]:
        """Reward and end of ``step`` in a slot.

        Raises:
            ConfigError: the function returned something other than a finite number and a truth value.
        """
        reward_fn = self.of[slot]
        assert reward_fn is not None, "the episode has begun"
        result: Any = reward_fn(step)
        try:
            reward, terminated = float(result[0]), bool(result[1])
            is_pair = len(result) == 2
        except (TypeError, ValueError, LookupError):
            is_pair = False
        if not is_pair or not math.isfinite(reward):
            rule = "a reward_fn must return a finite reward and whether the episode is over"
            raise ConfigError(rule, result, "return (reward, terminated)")
        return reward, terminated


def _imagined(step: Step) -> tuple[float, bool]:
    return step.reward, step.terminated


def _maker(reward_fn: Any) -> Callable[[], RewardFn]:
    """A function that makes a slot's reward function."""
    if _is_factory(reward_fn):
        return _checked(reward_fn)
    return (lambda: deepcopy(reward_fn)) if hasattr(reward_fn, "reset") else (lambda: reward_fn)


def _checked(factory: Callable[[], Any]) -> Callable[[], RewardFn]:
    def make() -> RewardFn:
        reward_fn: Any = factory()
        if not callable(reward_fn):
            rule = "a factory of reward functions must return a callable"
            raise ConfigError(rule, reward_fn, "return a function (step) -> (reward, terminated)")
        return reward_fn

    return make


def _is_factory(reward_fn: Any) -> bool:
    """True if ``reward_fn`` is to be called without a step."""
    made = reward_fn.func if isinstance(reward_fn, functools.partial) else reward_fn
    if inspect.isclass(made):
        return True
    try:
        signature = inspect.signature(reward_fn)
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    return not _takes(signature, None) and _takes(signature)


def _takes(signature: inspect.Signature, *arguments: Any) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True
