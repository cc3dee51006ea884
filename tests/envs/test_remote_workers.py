"""Workers in processes of their own that share one server's engine."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from tests.bridge.server_process import serving
from worldsim.bridge.client import Client
from worldsim.engine.world import load
from worldsim.envs.remote import RemoteEnv
from worldsim.envs.vector import ImaginedVectorEnv

pytest.importorskip("stable_baselines3")
from stable_baselines3.common.vec_env import SubprocVecEnv


@pytest.mark.slow
def test_two_workers_of_sb3_share_an_engine(tiny: Path, tmp_path: Path) -> None:
    local = ImaginedVectorEnv(2, world=load(tiny, device="cpu", dtype=torch.float32), denoising_steps=1)
    with serving(tiny, f"ipc://{tmp_path}/s", "--slots", "2", "--denoising-steps", "1") as server:
        envs = SubprocVecEnv([partial(RemoteEnv, server.address, timeout=120)] * 2)
        with Client(server.address, timeout=60) as client:
            envs.seed(3)
            assert_array_equal(envs.reset(), local.reset(seed=3)[0])
            for actions in np.array([[1, 0], [5, 1], [1, 7]]):
                frames, rewards, _, _ = envs.step(actions)
                expected = local.step(actions)
                assert_array_equal(frames, expected[0])
                assert_array_equal(rewards, expected[1])
            assert client.info()["sessions"] == 2
            envs.close()
            assert client.info()["sessions"] == 0
