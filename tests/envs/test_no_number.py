"""Worlds without poses give no uncertainty, and unknown poses are told, in environments too."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from tests.bridge.server_process import serving
from tests.tiny import lively_world
from worldsim import camera
from worldsim.agents.human.branch import Branch
from worldsim.bridge.client import Client
from worldsim.engine.world import World, load
from worldsim.envs.imagined import ImaginedEnv
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_world(tmp_path_factory.mktemp("w"), "poseless", tokenizer="frame", poses=False)


@pytest.fixture(scope="module")
def poseless(folder: Path) -> World:
    return load(folder, "cpu", torch.float32)


def test_an_environment_says_none(poseless: World) -> None:
    env = ImaginedEnv(poseless, denoising_steps=1)
    _, info = env.reset(seed=0)
    assert info["uncertainty"] is None
    *_, info = env.step(1)
    assert info["uncertainty"] is None
    assert "pose" not in info
    check_env(ImaginedEnv(poseless, denoising_steps=1), skip_render_check=True)


def test_a_vector_says_nan(poseless: World) -> None:
    envs = ImaginedVectorEnv(2, world=poseless, denoising_steps=1)
    assert envs.reset(seed=0)[1]["uncertainty"].isnan().all()
    assert envs.step([0, 1])[4]["uncertainty"].isnan().all()


def test_a_limit_that_nothing_can_pass_is_refused(poseless: World) -> None:
    with pytest.raises(ConfigError, match="max_uncertainty needs a world with poses"):
        ImaginedEnv(poseless, max_uncertainty=0.5)
    with pytest.raises(ConfigError, match="max_uncertainty needs a world with poses"):
        ImaginedVectorEnv(2, world=poseless, max_uncertainty=0.5)


@pytest.mark.slow
def test_the_wire_says_none(folder: Path, tmp_path: Path) -> None:
    with serving(folder, f"ipc://{tmp_path}/s", "--slots", "4", "--denoising-steps", "1") as server:
        with Client(server.address) as client:
            session = client.open(seed=1)
            assert session.last.uncertainty is None
            assert session.step("forward").uncertainty is None
            assert client.step_many({session: None})[session].uncertainty is None
        envs = gymnasium.make_vec("worldsim:WorldsimRemote-v0", num_envs=2, address=server.address)
        assert np.isnan(envs.reset(seed=0)[1]["uncertainty"]).all()
        envs.close()


@pytest.mark.slow
def test_the_wire_says_what_is_not_known(tmp_path: Path) -> None:
    world = lively_world(tmp_path)
    with (
        serving(world, f"ipc://{tmp_path}/s", "--slots", "4", "--denoising-steps", "1") as server,
        Client(server.address) as client,
    ):
        session = client.open(seed=1, start=0)
        assert session.last.known
        step = session.step(camera.from_planar(100, 100, 1.3, 0))
        assert (step.known, step.uncertainty) == (False, 1.0)
        assert session.step(camera.from_planar(2, 2, 1.3, 0)).known


def test_a_vector_tells_what_is_not_known(tiny_loaded: World) -> None:
    envs = ImaginedVectorEnv(
        2, world=tiny_loaded, denoising_steps=1, actions="dict", autoreset_mode="Disabled"
    )
    _, info = envs.reset(seed=0)
    assert info["known"].tolist() == [True, True]
    poses = np.stack([camera.from_planar(2, 2, 1.3, 0), camera.from_planar(-50, 2, 1.3, 0)])
    *_, info = envs.step({"keys": np.zeros((2, 6), np.int8), "pose": poses})
    assert info["known"].tolist() == [True, False]
    assert info["uncertainty"][1] == 1


def test_the_window_has_no_number(poseless: World) -> None:
    session = poseless.engine(1, denoising_steps=1).open(seed=0, start=0)
    branch = Branch.begin(session, None, 0)  # type: ignore[arg-type]
    assert branch.trajectory.uncertainties == [None]
