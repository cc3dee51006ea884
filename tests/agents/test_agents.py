"""Agents act on what they see, on any control space, and chance comes from the given generator only."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tests.agents.fake_engine import CELL, fake_world
from worldsim.agents.agent import AGENTS, make_agent
from worldsim.controls import ActionBox, Control, ControlSpace
from worldsim.errors import ConfigError

SPACES = {
    "doom": fake_world((6, 8)).spec.control_space,
    "car": ControlSpace(
        keys=("gas", "brake", "left"), yaw=False, pose=False, discrete_actions=((), ("gas",), ("left",))
    ),
    "mouse": ControlSpace(keys=("forward",), yaw=True, pose=False, discrete_actions=((), ("forward",))),
    "nothing": ControlSpace(keys=(), yaw=False, pose=False, discrete_actions=((),)),
    "numbers": ControlSpace(
        keys=(), yaw=False, pose=False, discrete_actions=((),), action=ActionBox(low=(-1.0,), high=(2.0,))
    ),
}


def walk(
    agent: str, frames: int, seed: int = 0, hide_pose: bool = False
) -> tuple[list[Control], set[tuple[int, int]]]:
    """What the agent did in the maze, and the squares that it saw."""
    engine = fake_world((12, 16)).engine()
    session, actor, rng = engine.open(seed=0, start=0), make_agent(agent), np.random.default_rng(seed)
    done, squares = [], set()
    for i in range(frames):
        view = SimpleNamespace(frame=session.frame, pose=None if hide_pose else session.pose, index=i)
        done.append(actor(view, engine.world.spec.control_space, rng))
        session.step(done[-1])
        squares.add((int(session.state.x / CELL), int(session.state.y / CELL)))
    return done, squares


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("pose", [None, np.eye(4)[[2, 0, 1, 3]]])
def test_every_agent_acts_on_every_space(agent: str, space: str, pose: np.ndarray | None) -> None:
    actor, rng = make_agent(agent), np.random.default_rng(1)
    for i in range(60):
        frame = np.full((6, 8, 3), i, np.uint8)
        SPACES[space].validate(actor(SimpleNamespace(frame=frame, pose=pose, index=i), SPACES[space], rng))


@pytest.mark.parametrize("agent", AGENTS)
def test_the_same_chance_gives_the_same_walk(agent: str) -> None:
    assert walk(agent, 80, seed=3) == walk(agent, 80, seed=3)
    assert walk(agent, 80, seed=3) != walk(agent, 80, seed=4)


@pytest.mark.parametrize("hide_pose", [False, True])
def test_the_explorer_gets_around(hide_pose: bool) -> None:
    controls, squares = walk("scripted", 300, hide_pose=hide_pose)
    assert len(squares) >= 8
    assert sum("forward" in control.keys for control in controls) > 100


def test_the_explorer_turns_away_from_what_stops_it() -> None:
    actor, rng, space = make_agent("scripted"), np.random.default_rng(0), SPACES["doom"]
    stuck = SimpleNamespace(
        frame=np.tile(np.uint8([[0, 90]]), (8, 6))[..., None].repeat(3, -1), pose=None, index=0
    )
    moving = [SimpleNamespace(frame=np.roll(stuck.frame, i, 1), pose=None, index=i) for i in range(10)]
    for view in moving:
        actor(view, space, rng)
    keys = frozenset().union(*(actor(stuck, space, rng).keys for _ in range(12)))
    assert keys & {"turn_left", "turn_right"}


def test_reset_forgets_the_walk() -> None:
    actor, space = make_agent("scripted"), SPACES["doom"]
    sights = [SimpleNamespace(frame=np.full((6, 8, 3), i, np.uint8), pose=None, index=i) for i in range(30)]
    walks = []
    for _ in range(2):
        rng = np.random.default_rng(5)
        walks.append([actor(view, space, rng) for view in sights])
        actor.reset()
    assert walks[0] == walks[1]


def test_unknown_agents_are_refused() -> None:
    with pytest.raises(ConfigError, match="scripted, random"):
        make_agent("clever")
