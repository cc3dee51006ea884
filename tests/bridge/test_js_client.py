"""The JavaScript client, written from docs/protocol.md alone, against a server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bridge.server_process import serving
from tests.contracts.worlds import Parts, write_world
from tests.source_tree import ROOT
from tests.tiny import lively_world
from worldsim.bridge.auth.keys import add_client
from worldsim.controls import ActionBox

_REFUSED = """
import { readFileSync } from "node:fs";
import zmq from "zeromq";
import { ServerConnection } from "./connection.mjs";

const { publicKey, secretKey } = zmq.curveKeyPair();
const server = readFileSync(process.env.SERVER_KEY, "utf8").trim();
const keys = { server, public: publicKey, secret: secretKey };
const connection = new ServerConnection(process.env.WORLDSIM_ADDRESS, { keys, timeout: 60000 });
const codes = [];
for (let i = 0; i < 2; i++) {
  await connection.request({ op: "hello" }).catch(({ code }) => codes.push(code));
}
console.log(codes.join());
connection.close();
"""
needs_node = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="needs node and npm"
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the client with its packages."""
    source, folder = ROOT / "clients" / "js", tmp_path_factory.mktemp("client") / "js"
    shutil.copytree(source, folder, ignore=lambda *_: ["node_modules"])
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    made = subprocess.run(install, cwd=folder, timeout=300, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no packages to be had: {made.stderr[-200:]}")
    return folder


def steered_world(folder: Path) -> Path:
    """A world with continuous actions."""
    parts = Parts("frame", "history", "transformer", "flow", prior="scene")
    return write_world(folder / "steered", parts, action=ActionBox(low=(-1.0, 0.0), high=(1.0, 2.0)))


@needs_node
@pytest.mark.network
@pytest.mark.timeout(600)
@pytest.mark.parametrize("make_world", [lively_world, steered_world])
def test_the_javascript_client_steps_a_world(
    tmp_path: Path, client: Path, make_world: Callable[[Path], Path]
) -> None:
    world = make_world(tmp_path)
    with serving(world, f"ipc://{tmp_path}/s", "--slots", "16", "--denoising-steps", "1") as server:
        env = {**os.environ, "WORLDSIM_ADDRESS": server.address}
        done = subprocess.run(
            ["npm", "test"], cwd=client, env=env, timeout=240, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout


@needs_node
@pytest.mark.network
@pytest.mark.timeout(600)
def test_an_unknown_key_is_told_at_once(tmp_path: Path, client: Path) -> None:
    world, keys = lively_world(tmp_path), tmp_path / "keys"
    add_client(keys, "known")
    (client / "refused.mjs").write_text(_REFUSED, encoding="utf-8")
    with serving(world, f"ipc://{tmp_path}/s", "--slots", "2", "--keys", str(keys)) as server:
        env = {**os.environ, "WORLDSIM_ADDRESS": server.address, "SERVER_KEY": str(keys / "server.public")}
        done = subprocess.run(
            ["node", "refused.mjs"], cwd=client, env=env, timeout=50, capture_output=True, text=True
        )
    assert done.stdout.strip() == "PERMISSION_DENIED,PERMISSION_DENIED", done.stdout + done.stderr
