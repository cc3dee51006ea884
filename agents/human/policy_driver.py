"""The policy that steers in the window: the file that is asked for, or the one in the world's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from worldsim.agents.agent import Agent
from worldsim.agents.human.player import DRIVERS, POLICY_DRIVER
from worldsim.errors import CheckpointError, ConfigError, WorldsimError

if TYPE_CHECKING:
    from worldsim.engine.world import World

__all__ = ["find_agent_policy", "policy_maker"]


def find_agent_policy(agent: str | None, world: str) -> Path | None:
    """The file of a policy for the window.

    Args:
        agent: "dream", a policy's file, or the name of another driver.
        world: name or folder of the world.

    Returns:
        the file; for another driver that of the world's own policy, or None where the world has none.

    Raises:
        ConfigError: ``agent`` is neither a name nor a file.
        CheckpointError: "dream" in a world without a policy.
    """
    from worldsim.agents.dreamer.policy import find_policy  # torch from here on

    if agent == POLICY_DRIVER:
        return find_policy(world)
    if agent is None or agent in DRIVERS:
        try:
            return find_policy(world)
        except CheckpointError:
            return None
    if not Path(agent).is_file():
        names = ", ".join((*DRIVERS, POLICY_DRIVER))
        rule = f"an agent must be one of {names}, or the file of a policy"
        raise ConfigError(rule, agent, "train one with `worldsim dream-train`")
    return Path(agent)


def policy_maker(world: World, path: Path | None, *, required: bool) -> Callable[[], Agent] | None:
    """Return a maker of agents that play the policy in ``path``; None without one.

    Raises:
        CheckpointError, ConfigError: the policy is ``required``, and damaged or of another world.
    """
    if path is None:
        return None
    from worldsim.agents.dreamer.batch_agents import check_policy
    from worldsim.agents.dreamer.policy import load_policy
    from worldsim.agents.dreamer.policy_agent import PolicyAgent

    try:
        policy = load_policy(path)
        check_policy(world, policy)
    except WorldsimError:
        if required:
            raise
        return None
    return lambda: PolicyAgent(world, policy)
