from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from worldsim.agents.learner import ppo_cleanrl
from worldsim.checkpoint import tiny_world


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A learner's command line for a few frames of a tiny world."""
    world = tiny_world(tmp_path_factory.mktemp("worlds"), name="tiny")
    options = f"--world {world} --timesteps 64 --num-envs 4 --rollout 8 --episode 5 --device cpu"
    return options.split()


def test_cleanrl_runs(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "policy.safetensors"
    assert ppo_cleanrl.main([*command, "--out", str(saved)]) == 0
    assert capsys.readouterr().out.count("iteration") == 2
    assert "actor.weight" in load_file(saved)


def test_sb3_runs(command: list[str], tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    from worldsim.agents.learner import ppo_sb3

    saved = tmp_path / "policy.safetensors"
    assert ppo_sb3.main([*command, "--out", str(saved)]) == 0
    assert "action_net.weight" in load_file(saved)
