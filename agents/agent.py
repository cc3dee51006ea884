"""Agent: a function from what it sees of a world to a control."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from worldsim.agents.random import RandomAgent
from worldsim.agents.scripted import ScriptedAgent
from worldsim.controls import Control, ControlSpace
from worldsim.errors import ConfigError


class AgentView(Protocol):
    """The part of a session that an agent sees. An engine's ``Step`` and a ``Session`` have these attributes.

    ``frame`` is uint8 [H, W, 3] RGB; ``pose`` is the imagined camera-to-world matrix, float64 [4, 4] in
    metres, or None where a world has no poses; ``index`` counts the session's frames.
    """

    @property
    def frame(self) -> np.ndarray: ...

    @property
    def pose(self) -> np.ndarray | None: ...

    @property
    def index(self) -> int: ...


class Agent(Protocol):
    """Acts on what it sees. ``reset`` forgets everything that was seen so far."""

    name: str

    def __call__(self, view: AgentView, space: ControlSpace, rng: np.random.Generator) -> Control: ...

    def reset(self) -> None: ...


AGENTS = ("scripted", "random")
"""Agents of every world; a world may have a policy of its own besides, ``agents.dreamer.policy_agent``."""


def make_agent(name: str) -> Agent:
    """A fresh agent by its name, one of ``AGENTS``. Raises ConfigError for any other name."""
    if name == "scripted":
        return ScriptedAgent()
    if name == "random":
        return RandomAgent()
    raise ConfigError("an agent's name is one of " + ", ".join(AGENTS), name, "choose one of these")
