"""The JavaScript client, written from docs/protocol.md alone, against a server."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bridge.server_process import serving
from tests.source_tree import ROOT
from tests.tiny import lively_world

needs_node = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="needs node and npm"
)


@needs_node
@pytest.mark.network
@pytest.mark.timeout(600)
def test_the_javascript_client_steps_a_world(tmp_path: Path) -> None:
    client = shutil.copytree(ROOT / "clients" / "js", tmp_path / "js", ignore=lambda *_: ["node_modules"])
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    made = subprocess.run(install, cwd=client, timeout=300, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no packages to be had: {made.stderr[-200:]}")
    world = lively_world(tmp_path)
    with serving(world, f"ipc://{tmp_path}/s", "--slots", "16", "--denoising-steps", "1") as server:
        env = {**os.environ, "WORLDSIM_ADDRESS": server.address}
        done = subprocess.run(
            ["npm", "test"], cwd=client, env=env, timeout=240, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout
