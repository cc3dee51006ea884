"""The wire under load, beside the engine alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import lively_world
from worldsim.bench.wire import serving, time_wire
from worldsim.engine.world import load
from worldsim.errors import BridgeError

pytest.importorskip("zmq")


@pytest.mark.slow
def test_every_client_gets_frames(tmp_path: Path) -> None:
    folder = lively_world(tmp_path, "tiny")
    timing = time_wire(load(folder, "cpu", torch.bfloat16), str(folder), clients=3, seconds=0.5)
    assert timing.clients == 3
    assert timing.wire_fps > 0
    assert timing.ratio == timing.wire_fps / timing.engine_fps
    assert 0 < timing.p50_ms <= timing.p99_ms


@pytest.mark.slow
def test_a_server_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    with pytest.raises(BridgeError, match="no-such-world"), serving("no-such-world", tmp_path, 1):
        pass
