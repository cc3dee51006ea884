from __future__ import annotations

import subprocess
import sys

import gymnasium

import worldsim  # noqa: F401  # registers the ids
from worldsim.envs.registry import IDS, register


def test_importing_worldsim_registers_the_ids_and_no_torch() -> None:
    code = (
        "import sys, worldsim, gymnasium\n"
        "assert 'torch' not in sys.modules\n"
        "print(gymnasium.spec('DoomMaze-v0').max_episode_steps)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "1050"


def test_registering_twice_changes_nothing() -> None:
    before = {entry.id: gymnasium.spec(entry.id) for entry in IDS}
    register()
    assert before == {entry.id: gymnasium.spec(entry.id) for entry in IDS}


def test_worldsim_does_without_gymnasium() -> None:
    code = "import sys; sys.modules['gymnasium'] = None; import worldsim; print(worldsim.__version__)"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
