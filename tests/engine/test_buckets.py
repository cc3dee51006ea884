"""Steps of any number of slots as steps of a few sizes; as graphs they are tested on a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engine.walks import assert_same, control
from worldsim import camera
from worldsim.controls import Control
from worldsim.engine import engine as engine_module
from worldsim.engine.buckets import Buckets
from worldsim.engine.stepper import Stepper
from worldsim.engine.world import World
from worldsim.sampling.control_batch import ControlBatch
from worldsim.sampling.world_state import empty_state


@pytest.fixture
def padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines fill batches up, on this CPU too."""
    monkeypatch.setattr(engine_module, "wants_buckets", lambda device: True)


def buckets(world: World, slots: int) -> Buckets:
    return Buckets(Stepper(world.networks, empty_state(world.networks, slots + 1)))


@pytest.mark.parametrize(
    ("slots", "sizes"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (100, [1, 2, 4, 8, 16, 32, 64, 100])],
)
def test_sizes(world: World, slots: int, sizes: list[int]) -> None:
    made = buckets(world, slots)
    assert made.sizes == sizes
    for count in range(1, slots + 1):
        size = made.size_of(count)
        assert size in sizes
        assert count <= size <= min(2 * count - (count > 1), slots) or size == slots


def test_every_size_is_made_ready(world: World) -> None:
    made = buckets(world, 5)
    made.warm(1)
    assert sorted(made._steppers) == [(size, 1, True, False) for size in (1, 2, 4, 5)]


@pytest.mark.parametrize("count", [1, 3, 5])
def test_spare_rows_change_nothing(half: World, padded: None, count: int) -> None:
    """In bfloat16 nothing rounds otherwise in another batch: bit for bit."""
    own, other = half.engine(6, denoising_steps=2), half.engine(6, denoising_steps=2)
    other._buckets = None
    walks = []
    for engine in (own, other):
        sessions = [engine.open(seed, seed % 2) for seed in range(6)]
        chosen = sessions[6 - count :]
        told = []
        for t in range(3):
            held = {session: control(t + i) for i, session in enumerate(chosen)}
            if t == 1:
                held[chosen[0]] = Control(pose=camera.from_planar(2.2, 1.9, 1.3, 0.4))
            told += engine.step(held).values()
        chosen[0].rewind(2)
        told.append(chosen[0].step(control(7)))
        told += engine.step(dict.fromkeys(sessions, Control())).values()
        walks.append(told)
    assert_same(*walks)
    assert all(np.array_equal(a.latent, b.latent) for a, b in zip(*walks, strict=True))


def test_float32_is_as_close_as_its_last_bits(world: World) -> None:
    """Two worlds of three slots, padded to three rows or alone."""
    rows, vector = np.array([2, 0]), np.zeros((2, world.spec.control_space.size), np.float32)
    alone = [
        buckets(world, 3).step(rows[i : i + 1], ControlBatch(vector[i : i + 1]), 1, True).rows()[0]
        for i in (0, 1)
    ]
    both = buckets(world, 3).step(rows, ControlBatch(vector), 1, True).rows()
    for one, other in zip(alone, both, strict=True):
        assert one.latent is not None
        np.testing.assert_allclose(one.latent, other.latent, atol=1e-4)


def test_latents_alone(world: World, padded: None) -> None:
    engine = world.engine(2, denoising_steps=1)
    session = engine.open(0, 0)
    step = engine.step({session: Control()}, frames=False)[session]
    assert step.frame.size == 0
    assert step.latent is not None
    assert session.step().frame.size
