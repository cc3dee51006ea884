"""Regression test of frames: coarse images of short rollouts, kept in golden.json.

To a grey level and not to the bit, for processors round differently.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import lively_world
from worldsim.controls import Control
from worldsim.engine import load

KEPT = Path(__file__).with_name("golden.json")
HELD = (("forward",), ("forward", "turn_left"), (), ("turn_right",), ("strafe_left",))
WORLDS = {"place": ("history", True), "past": ("history", False), "frame": ("frame", True)}


def dreamt(folder: Path, tokenizer: str, poses: bool) -> dict[str, list[list[float]]]:
    """Mean grey levels of 20 x 20 pixels and what is told, of the last of six frames of two sessions."""
    world = load(lively_world(folder, tokenizer=tokenizer, poses=poses), "cpu", torch.float32)
    engine = world.engine(slots=2)
    sessions = [engine.open(seed=seed, start=seed % 2) for seed in (3, 8)]
    for t in range(6):
        engine.step({session: Control(keys=HELD[(t + i) % 5]) for i, session in enumerate(sessions)})
    blocks = [s.frame.reshape(3, 20, 4, 20, 3).mean((1, 3, 4)).ravel().tolist() for s in sessions]
    told = [[s.last.reward, *(() if s.pose is None else s.pose[:3, 3])] for s in sessions]
    return {"grey": blocks, "told": told}


@pytest.mark.parametrize("world", WORLDS)
def test_frames_are_what_they_were(tmp_path: Path, world: str) -> None:
    kept, now = json.loads(KEPT.read_text())[world], dreamt(tmp_path, *WORLDS[world])
    np.testing.assert_allclose(now["grey"], kept["grey"], atol=1)
    np.testing.assert_allclose(now["told"], kept["told"], atol=0.02)
