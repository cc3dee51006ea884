"""Fork, rewind, offloading and snapshots where the memory is a GPU's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engine.walks import assert_same, control, walk
from tests.gpu.test_steps import assert_near
from worldsim.engine.world import World, load

pytestmark = pytest.mark.gpu


def test_forks_see_the_same_future(any_world: World) -> None:
    engine = any_world.engine(2, denoising_steps=2)
    session = engine.open(3, 0)
    walk(session, 5)
    twin = session.fork()[0]
    for t in range(5, 9):
        told = engine.step({session: control(t), twin: control(t)})
        assert_same([told[session]], [told[twin]])


def test_a_fork_with_its_own_chance_goes_its_own_way(any_world: World) -> None:
    engine = any_world.engine(2, denoising_steps=2)
    session = engine.open(3, 0)
    twin = session.fork(seeds=[99])[0]
    told = engine.step({session: control(0), twin: control(0)})
    assert not np.array_equal(told[session].latent, told[twin].latent)


def test_rewound_frames_come_again(any_world: World) -> None:
    session = any_world.engine(1, denoising_steps=2, rewind_frames=8).open(3, 0)
    walk(session, 4)
    steps = walk(session, 5, first=4)
    assert_same([session.rewind(5)], [session.last])
    assert_same(walk(session, 5, first=4), steps)


def test_a_parked_session_goes_on_bit_for_bit(any_world: World) -> None:
    offloaded, kept = (
        any_world.engine(1, denoising_steps=2, offload_bytes=2**30),
        any_world.engine(1, denoising_steps=2),
    )
    session, other = offloaded.open(3, 0), kept.open(3, 0)
    walk(session, 4)
    walk(other, 4)
    walk(offloaded.open(4, 1), 2)  # takes the only slot
    assert session.slot is None
    assert_same(walk(session, 4, first=4), walk(other, 4, first=4))


def test_a_snapshot_goes_on_bit_for_bit(any_world: World) -> None:
    engine = any_world.engine(2, denoising_steps=1)
    session = engine.open(3, 0)
    walk(session, 5)
    twin = engine.restore(session.snapshot())
    assert_same(walk(twin, 4, first=5), walk(session, 4, first=5))


@pytest.mark.parametrize("way", ["there", "back"])
def test_a_snapshot_goes_on_on_another_device(any_folder: Path, device: torch.device, way: str) -> None:
    here, there = (
        load(any_folder, name, torch.float32).engine(1, denoising_steps=2) for name in ("cpu", device)
    )
    old, new = (here, there) if way == "there" else (there, here)
    session = old.open(3, 0)
    walk(session, 5)
    twin = new.restore(session.snapshot())
    assert_same([twin.last], [session.last])
    for one, other in zip(walk(twin, 3, first=5), walk(session, 3, first=5), strict=True):
        assert_near(one, other)


def test_a_real_frame_is_taken_mid_way(world: World) -> None:
    session = world.engine(1, denoising_steps=2).open(3, 0)
    walk(session, 3)
    frame = session.last.frame[::-1].copy()
    step = session.observe(frame, session.last.pose)
    np.testing.assert_array_equal(step.frame, frame)
    assert session.step(control(0)).index == step.index + 1
