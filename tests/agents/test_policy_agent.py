"""A policy of the dream in the window: which file, which keys, what it remembers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import worldsim
from tests.tiny_moving import SPEC, moving_world
from worldsim.agents.dreamer.batch_agents import PolicyBatchAgent
from worldsim.agents.dreamer.policy import LatentPolicy, PolicyMetadata, save_policy, ship_policy
from worldsim.agents.dreamer.policy_agent import PolicyAgent
from worldsim.agents.human import play
from worldsim.agents.human.player import POLICY_DRIVER, WorldPlayer
from worldsim.agents.human.policy_driver import find_agent_policy, policy_maker
from worldsim.agents.human.reference_run import ReferenceRun
from worldsim.controls import Control
from worldsim.errors import CheckpointError, ConfigError, DependencyError, install

METADATA = PolicyMetadata(world="take-cover", features=6 + 256, actions=3, hold=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with a policy."""
    parent = tmp_path_factory.mktemp("worlds")
    save_policy(parent / "mine.safetensors", stirred(), METADATA)
    ship_policy(moving_world(parent), parent / "mine.safetensors")
    return parent / "take-cover"


@pytest.fixture(scope="module")
def world(folder: Path) -> worldsim.World:
    return worldsim.load(folder, device="cpu")


def stirred() -> LatentPolicy:
    torch.manual_seed(0)
    policy = LatentPolicy(METADATA)
    torch.nn.init.normal_(policy.actor.weight, std=3.0)
    return policy.eval()


def no_engine(spec: object) -> ReferenceRun:
    raise DependencyError("Doom is played by vizdoom", None, install("doom"))


def test_it_acts_as_in_the_real_game(world: worldsim.World) -> None:
    """A session's frames, shown as if they were a game's: the same keys."""
    session, agent, space = world.engine(1).open(seed=3), PolicyAgent(world, stirred()), SPEC.control_space
    other, rng = PolicyBatchAgent(world, stirred(), 1), np.random.default_rng(5)
    first, frame = int(np.random.default_rng(5).integers(2**31)), session.frame
    other.reset([0], [first], frame[None])
    for _ in range(5):
        control, expected = agent(session, space, rng), other.act()
        assert control == space.from_discrete(int(expected[0]))
        other.observe(session.step(control).frame[None], expected)


def test_it_begins_anew_where_time_jumps(world: worldsim.World) -> None:
    session, space = world.engine(1, rewind_frames=8).open(seed=3), SPEC.control_space
    agent, fresh = PolicyAgent(world, stirred()), PolicyAgent(world, stirred())
    rngs = [np.random.default_rng(7) for _ in range(2)]
    for _ in range(3):
        session.step(agent(session, space, rngs[0]))
    session.rewind(2)
    rngs[1].integers(2**31)
    assert agent(session, space, rngs[0]) == fresh(session, space, rngs[1])


def test_the_hand_over_reaches_it(world: worldsim.World, folder: Path) -> None:
    make = policy_maker(world, str(folder), None)
    player = WorldPlayer(world, world.engine(slots=4, denoising_steps=1), make_policy=make)
    drivers = []
    for _ in range(4):
        player.do("driver")
        drivers.append(player.driver)
    assert drivers == ["scripted", "random", POLICY_DRIVER, "human"]
    for _ in range(3):
        player.do("driver")
    assert isinstance(player.branch.agent, PolicyAgent)
    assert player.notices[-1].text == "Dream's policy steers"
    assert player.tick(Control())


def test_it_walks_without_a_window(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(play, "open_reference", no_engine)
    line = [str(folder), "--headless", "--json", "--frames", "4", "--device", "cpu"]
    assert play.main([*line, "--agent", "dream"]) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 4
    file = folder.parent / "mine.safetensors"
    assert play.main([*line, "--agent", str(file), "--out-prefix", "own"]) == 0
    assert (tmp_path / "own.png").exists()
    capsys.readouterr()
    refused = {"nobody": "must be one of human, scripted, random, dream", "play.png": "dream-train"}
    for agent, told in refused.items():
        assert play.main([*line, "--agent", agent]) == 2
        assert told in capsys.readouterr().err


def test_worlds_without_a_policy(world: worldsim.World, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no policy is shipped with doom-maze"):
        find_agent_policy("dream", "doom-maze")
    assert find_agent_policy("random", "doom-maze") is None
    assert policy_maker(world, "doom-maze", None) is None
    other = tmp_path / "other.safetensors"
    metadata = PolicyMetadata(world="other", features=9, actions=3)
    save_policy(other, LatentPolicy(metadata), metadata)
    with pytest.raises(ConfigError, match="reads 262 features"):
        policy_maker(world, "doom-maze", other)
