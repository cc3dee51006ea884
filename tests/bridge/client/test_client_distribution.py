"""The client's own distribution: it steps a world where neither torch nor the engine is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.bridge.server_process import serving
from tests.source_tree import ROOT
from tests.tiny import lively_world

DISTRIBUTION = ROOT / "clients" / "python"

BLIND = """
import importlib.abc, sys

class Blind(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "gymnasium", "einops", "safetensors", "rich", "msgspec"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
sys.meta_path.insert(0, Blind())
"""

WALK = """
import sys
import numpy as np
import worldsim
from worldsim.bridge.client import Client
from worldsim.controls import Control

with Client(sys.argv[1]) as client:
    session = client.open(seed=7)
    first = session.step(Control({"forward"}))
    twins = session.fork(2)
    steps = client.step_many({twin: Control({"turn_left"}) for twin in twins})
    assert all(step.frame.shape == (*client.world.size, 3) for step in steps.values())
    again = client.restore(session.snapshot())
    assert np.array_equal(again.step(Control()).frame, session.step(Control()).frame)
try:
    worldsim.load("doom-maze")
except worldsim.WorldsimError as error:
    assert "only the client is installed" in str(error)
else:
    raise AssertionError("an engine is installed")
assert "torch" not in sys.modules
print("walked in", worldsim.__file__)
"""


def build_client(folder: Path) -> Path:
    """The client's modules, as its wheel installs them."""
    build = ["egg_info", "--egg-base", str(folder), "build_py", "--build-lib", str(folder / "lib")]
    call = [sys.executable, "setup.py", "--quiet", *build]
    subprocess.run(call, cwd=DISTRIBUTION, check=True, capture_output=True, timeout=120)
    return folder / "lib"


@pytest.mark.slow
def test_it_walks_without_torch_and_engine(tmp_path: Path) -> None:
    lib = build_client(tmp_path)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with serving(
        lively_world(tmp_path), f"ipc://{tmp_path}/s", "--slots", "4", "--denoising-steps", "1"
    ) as server:
        code = f"{BLIND}\nsys.path.insert(0, {str(lib)!r})\n{WALK}"
        call = [sys.executable, "-c", code, server.address]
        done = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"walked in {lib / 'worldsim' / '__init__.py'}"


def test_it_holds_the_client_and_nothing_of_the_engine(tmp_path: Path) -> None:
    lib = build_client(tmp_path)
    found = {path.relative_to(lib).as_posix() for path in lib.rglob("*.py")}
    sources = (ROOT / "worldsim" / "bridge" / "client").glob("*.py")
    client = {f"worldsim/bridge/client/{path.name}" for path in sources}
    base = {f"worldsim/{name}.py" for name in ("__init__", "errors", "controls", "action_box", "camera")}
    wire = {f"worldsim/bridge/{name}.py" for name in ("__init__", "wire/__init__", "wire/protocol")}
    assert found == client | base | wire


@pytest.mark.network
def test_a_new_environment_gets_it_without_torch(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=120)
    scripts = sysconfig.get_path("scripts", "venv", vars={"base": str(tmp_path / "venv")})
    python = str(Path(scripts) / "python")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    install = [python, "-m", "pip", "install", "--quiet", str(DISTRIBUTION)]
    done = subprocess.run(install, env=env, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"no packages to be had: {done.stderr[-200:]}")
    listed = [python, "-m", "pip", "list", "--format", "freeze"]
    packages = subprocess.run(listed, env=env, capture_output=True, text=True, check=True, timeout=60).stdout
    names = {line.partition("==")[0].lower() for line in packages.split()}
    assert names - {"pip", "setuptools"} == {"worldsim-client", "numpy", "pyzmq", "msgpack"}
    with serving(
        lively_world(tmp_path), f"ipc://{tmp_path}/s", "--slots", "4", "--denoising-steps", "1"
    ) as server:
        call = [python, "-c", WALK, server.address]
        walked = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert walked.returncode == 0, walked.stderr
