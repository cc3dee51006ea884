"""Who says what a frame is worth and whether it ends the episode: the world itself, or a user's rules."""

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

__all__ = ["Referee", "Referees", "Together"]


class Referee(Protocol):
    """``(step) -> (reward, terminated)``, in place of what the model imagines of both.

    It may read all of the step: its frame, its pose, and what the model itself says in ``step.reward`` and
    ``step.terminated``. A referee that remembers has ``reset(step)`` as well, which is called with the frame
    that an episode begins with.
    """

    def __call__(self, step: Step) -> tuple[float, bool]:
        """The reward for arriving at this frame, finite, and whether it ends the episode."""


@dataclass(frozen=True, slots=True)
class Together:
    """A referee of a whole vector at once, whose figures need not leave the device.

        make_vec(..., referee=Together(lambda steps: (-steps.drift, steps.terminated)))
    """

    rule: Callable[[BatchStep], tuple[Tensor, Tensor]]
    """From all episodes' steps to rewards float [N] and whether each is over, bool [N], on their device."""

    def __call__(self, steps: BatchStep) -> tuple[Tensor, Tensor]:
        """Rewards float32 [N] and ends bool [N].

        Raises:
            ConfigError: the function returned something else.
        """
        ruling: Any = self.rule(steps)
        shape = steps.reward.shape
        if not (
            isinstance(ruling, tuple)
            and len(ruling) == 2
            and all(isinstance(part, Tensor) and part.shape == shape for part in ruling)
            and ruling[1].dtype == torch.bool
        ):
            rule = f"a referee of a vector must return two tensors of shape {tuple(shape)}, the second bool"
            raise ConfigError(rule, ruling, "return (rewards, terminated)")
        return ruling[0].float(), ruling[1]


class Referees:
    """One referee for each of ``slots`` episodes side by side.

    Args:
        referee: one of

            * a function of a step: all episodes share it;
            * an object with ``reset(step)``: each slot has a deep copy of its own, reset with its episodes;
            * a class, or anything that is called without arguments, that makes one of the above: called once
              for each slot, or for each episode where what it makes has no ``reset``;
            * None: the model's own reward and end.
        slots: number of episodes.

    Raises:
        ConfigError: ``referee`` can't be called.
    """

    def __init__(self, referee: Any, slots: int) -> None:
        if referee is not None and not callable(referee):
            rule, remedy = "a referee must be callable", "pass a function (step) -> (reward, terminated)"
            raise ConfigError(rule, referee, remedy)
        self.imagined = referee is None
        """Whether the model's own reward and end hold."""
        self._appoint = _appointing(_imagined if referee is None else referee)
        self.of: list[Referee | None] = [None] * slots
        """The referee of each slot's newest episode; None before the first."""

    def begin(self, slot: int, step: Step) -> None:
        """An episode begins with ``step``, the frame before the first control."""
        referee = self.of[slot]
        if referee is None or not hasattr(referee, "reset"):
            referee = self.of[slot] = self._appoint()
        if hasattr(referee, "reset"):
            referee.reset(step)

    def rule(self, slot: int, step: Step) -> tuple[float, bool]:
        """What the slot's referee says of ``step``.

        Raises:
            ConfigError: it says something other than a finite number and a truth value.
        """
        referee = self.of[slot]
        assert referee is not None, "the episode has begun"
        ruling: Any = referee(step)
        try:
            reward, terminated = float(ruling[0]), bool(ruling[1])
            is_pair = len(ruling) == 2
        except (TypeError, ValueError, LookupError):
            is_pair = False
        if not is_pair or not math.isfinite(reward):
            rule = "a referee must return a finite reward and whether the episode is over"
            raise ConfigError(rule, ruling, "return (reward, terminated)")
        return reward, terminated


def _imagined(step: Step) -> tuple[float, bool]:
    return step.reward, step.terminated


def _appointing(referee: Any) -> Callable[[], Referee]:
    """How to get a slot's referee."""
    if _makes_referees(referee):
        return _checked(referee)
    return (lambda: deepcopy(referee)) if hasattr(referee, "reset") else (lambda: referee)


def _checked(factory: Callable[[], Any]) -> Callable[[], Referee]:
    def make() -> Referee:
        referee: Any = factory()
        if not callable(referee):
            rule = "what makes a referee must return a callable"
            raise ConfigError(rule, referee, "return a function (step) -> (reward, terminated)")
        return referee

    return make


def _makes_referees(referee: Any) -> bool:
    """Whether ``referee`` is to be called without a step."""
    made = referee.func if isinstance(referee, functools.partial) else referee
    if inspect.isclass(made):
        return True
    try:
        signature = inspect.signature(referee)
    except (TypeError, ValueError):  # a builtin that doesn't tell
        return False
    return not _takes(signature, None) and _takes(signature)


def _takes(signature: inspect.Signature, *arguments: Any) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True
