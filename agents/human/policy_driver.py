"""The policy that steers in the window: the file that is asked for, or the one in the world's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from worldsim.agents.agent import Agent
from worldsim.agents.human.player import DRIVERS, POLICY_DRIVER
from worldsim.errors import ConfigError, WorldsimError

if TYPE_CHECKING:
    from worldsim.engine.world import World

__all__ = ["find_agent_policy", "policy_maker"]


def find_agent_policy(agent: str | None, world: str) -> Path | None:
    """The file of the policy that is asked for; None where another driver is, or none.

    Args:
        agent: "dream", a policy's file, or the name of another driver.
        world: name or folder of the world.

    Raises:
        ConfigError: ``agent`` is neither a name nor a file.
        CheckpointError: "dream" in a world without a policy.
    """
    if agent is None or agent in DRIVERS:
        return None
    if agent == POLICY_DRIVER:
        from worldsim.agents.dreamer.policy import find_policy  # torch from here on

        return find_policy(world)
    if not Path(agent).is_file():
        names = ", ".join((*DRIVERS, POLICY_DRIVER))
        rule = f"an agent must be one of {names}, or the file of a policy"
        raise ConfigError(rule, agent, "train one with `worldsim dream-train`")
    return Path(agent)


def policy_maker(world: World, folder: str, asked: Path | None) -> Callable[[], Agent] | None:
    """Return a maker of agents that play a policy in ``world``.

    Args:
        world: takes the frames in.
        folder: the world's name or folder, whose own policy is played where none is asked for.
        asked: a policy's file.

    Returns:
        the maker, or None where none is asked for and the world has none that it can play.

    Raises:
        CheckpointError, ConfigError: the policy that is asked for is damaged or of another world.
    """
    from worldsim.agents.dreamer.batch_agents import check_policy
    from worldsim.agents.dreamer.policy import find_policy, load_policy
    from worldsim.agents.dreamer.policy_agent import PolicyAgent

    try:
        policy = load_policy(asked or find_policy(folder))
        check_policy(world, policy)
    except WorldsimError:
        if asked is not None:
            raise
        return None
    return lambda: PolicyAgent(world, policy)
