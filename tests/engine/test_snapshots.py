"""A snapshot holds all that the future depends on, and nothing else passes for one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.walks import assert_same, walk
from tests.tiny import lively_world
from worldsim import camera
from worldsim.checkpoint import load_world, save_world
from worldsim.controls import Control
from worldsim.engine.world import World, load
from worldsim.errors import EngineError


@pytest.mark.parametrize("denoising_steps", [1, 4])
def test_a_restored_session_goes_on_bit_for_bit(any_world: World, denoising_steps: int) -> None:
    engine = any_world.engine(2, denoising_steps=denoising_steps)
    session = engine.open(3)
    walk(session, 5)
    twin = engine.restore(session.snapshot())
    assert_same([twin.last], [session.last])
    assert (twin.seed, twin.start, twin.index) == (session.seed, session.start, session.index)
    assert twin.max_rewind == 0
    assert_same(walk(twin, 8, first=5), walk(session, 8, first=5))
    assert twin.snapshot() == session.snapshot()


def test_it_survives_the_engine_and_the_process(folder: Path, world: World) -> None:
    session = world.engine(1, context=4).open(3)
    walk(session, 5)
    blob = session.snapshot()
    again = load(folder, "cpu", torch.float32).engine(3, context=4)
    again.open(8)
    assert_same(walk(again.restore(blob), 4, first=5), walk(session, 4, first=5))


def test_it_is_a_moment_that_later_steps_do_not_touch(world: World) -> None:
    engine = world.engine(2)
    session = engine.open(3)
    blob = session.snapshot()
    steps = walk(session, 3)
    assert_same(walk(engine.restore(blob), 3), steps)


def test_explicit_poses_are_kept(world: World) -> None:
    engine = world.engine(2)
    session = engine.open()
    session.step(Control(pose=camera.from_planar(1.5, 2.5, 1.3, 0.7)))
    twin = engine.restore(session.snapshot())
    assert twin.last.pose_given
    np.testing.assert_array_equal(twin.pose, session.pose)


def test_it_can_go_on_in_another_number_type(world: World, half: World) -> None:
    session = world.engine(1).open(3)
    walk(session, 3)
    twin = half.engine(1).restore(session.snapshot())
    assert_same([twin.last], [session.last])
    close, true = walk(twin, 1, first=3)[0], walk(session, 1, first=3)[0]
    assert np.abs(close.frame.astype(int) - true.frame).mean() < 8


@pytest.mark.parametrize("where", [0, 40, 500, -1])
def test_a_flipped_bit_is_noticed(world: World, where: int) -> None:
    engine = world.engine(2)
    blob = bytearray(engine.open().snapshot())
    blob[where] ^= 1
    with pytest.raises(EngineError, match="whole"):
        engine.restore(bytes(blob))
    assert engine.free == 1


@pytest.mark.parametrize("cut", [0, 10, 32, 40, -1])
def test_a_cut_snapshot_is_noticed(world: World, cut: int) -> None:
    engine = world.engine(2)
    with pytest.raises(EngineError, match="snapshot"):
        engine.restore(engine.open().snapshot()[:cut])


@pytest.mark.parametrize("body", [b"", b"\x08" + bytes(7) + b"[1, 2]  ", b"\x02" + bytes(7) + b"{}"])
def test_other_bytes_with_a_right_checksum_are_noticed(world: World, body: bytes) -> None:
    with pytest.raises(EngineError, match="snapshot"):
        world.engine(1).restore(hashlib.sha256(body).digest() + body)


@pytest.mark.slow
def test_a_snapshot_of_other_weights_is_refused(tmp_path: Path, world: World) -> None:
    path = lively_world(tmp_path, "other")
    stored = load_world(path)
    with torch.no_grad():
        stored.networks.generator.registers.add_(0.5)
    save_world(path, stored.config, stored.networks, stored.starts, "")
    other = load(path, "cpu", torch.float32)
    assert other.weights_sha256 != world.weights_sha256
    with pytest.raises(EngineError, match="weights"):
        other.engine(1).restore(world.engine(1).open().snapshot())


def test_a_snapshot_of_another_context_is_refused(world: World) -> None:
    engine = world.engine(1, context=3)
    with pytest.raises(EngineError, match=r"engine\(context=6\)"):
        engine.restore(world.engine(1).open().snapshot())
    assert engine.free == 1


def test_a_blob_that_is_too_large_is_refused_before_it_is_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = world.engine(2)
    monkeypatch.setattr(hashlib, "sha256", lambda data: pytest.fail("nothing is summed up"))
    with pytest.raises(EngineError, match="at most"):
        engine.restore(bytes(64 * 2**20))


@pytest.mark.parametrize("blob", [None, "abc", 3])
def test_what_is_no_bytes_is_refused(world: World, blob: object) -> None:
    with pytest.raises(EngineError, match="must be bytes"):
        world.engine(1).restore(blob)  # type: ignore[arg-type]
