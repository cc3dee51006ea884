"""One frame of a dream: poses obeyed or predicted, memory moved on, rows copied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tiny import lively_world
from worldsim import camera
from worldsim.checkpoint import load_world
from worldsim.model.cache import Cache
from worldsim.networks import Networks
from worldsim.sampling import imagine
from worldsim.sampling.clock import init_state
from worldsim.sampling.control_batch import ControlBatch
from worldsim.sampling.imagine import imagine_unit, observe_unit
from worldsim.sampling.world_state import WorldState, empty_state

WORLDS = ("history", "history without poses", "frame", "frame without poses")


@pytest.fixture(scope="module", params=WORLDS)
def networks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Networks:
    folder: Path = tmp_path_factory.mktemp("world")
    tokenizer, _, without = request.param.partition(" ")
    return load_world(lively_world(folder, tokenizer=tokenizer, poses=not without)).networks


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def first(networks: Networks, seeds: tuple[int, ...] = (3, 4, 5)) -> WorldState:
    chance = torch.Generator().manual_seed(0)
    frames = torch.rand((len(seeds), 3, 60, 80), generator=chance) * 2 - 1
    poses = camera.from_planar(2.0, 2.0, 1.3, np.arange(len(seeds)) * 0.5)
    if not networks.has_poses:
        poses = np.tile(np.eye(4), (len(seeds), 1, 1))
    return init_state(networks, frames, poses, np.array(seeds))


def controls(memory: WorldState, given: list[bool] | None = None, *, turn: float = 0.1) -> ControlBatch:
    """Forward is held; where ``given``, an explicit pose ahead."""
    batch = len(memory.seeds)
    vector = np.zeros((batch, 7), np.float32)
    vector[:, 0] = 1
    ahead = camera.compose(memory.poses.numpy(), camera.exp(np.array([0, 0, 0.1, 0, turn, 0])))
    return ControlBatch(vector, ahead, np.array(given or [False] * batch))


def same(a: WorldState, b: WorldState, rows: list[int] | None = None) -> None:
    """All that the future depends on is equal, bit for bit."""
    if rows is not None:
        a, b = a.pick(np.array(rows)), b.pick(np.array(rows))
    for name in ("keys", "values", "written", "index"):
        assert torch.equal(getattr(a.generator, name), getattr(b.generator, name)), name
    for name in ("frame", "depth"):
        assert torch.equal(getattr(a.previous, name), getattr(b.previous, name)), name
    for name in ("agent", "motion_history", "pose_uncertainty", "poses", "seeds", "indices", "temperature"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize("denoising_steps", [1, 2, 4])
def test_a_step_moves_memory_on(networks: Networks, denoising_steps: int) -> None:
    memory = first(networks)
    unit = imagine_unit(networks, memory, controls(memory), denoising_steps)
    assert unit.frame.shape == (3, 3, 60, 80)
    assert unit.frame.abs().max() <= 1
    assert unit.latent.abs().max() <= 1
    assert ((unit.continue_prob >= 0) & (unit.continue_prob <= 1)).all()
    assert ((unit.uncertainty >= 0) & (unit.uncertainty <= 1)).all()
    assert torch.equal(memory.previous.frame, unit.frame)
    assert memory.indices.tolist() == [2, 2, 2]
    assert memory.generator.index.tolist() == [2, 2, 2]
    assert memory.poses.dtype == torch.float64


def test_an_explicit_pose_is_obeyed_exactly(networks: Networks) -> None:
    if not networks.has_poses:
        pytest.skip("without poses")
    memory = first(networks)
    for _ in range(3):
        held = controls(memory, [True, False, True])
        imagine_unit(networks, memory, held, 1)
        np.testing.assert_array_equal(memory.poses[[0, 2]], held.poses[[0, 2]])
        assert np.abs(memory.poses[1].numpy() - held.poses[1]).max() > 1e-6


def test_keys_move_the_camera_by_the_predicted_twist(networks: Networks) -> None:
    if not networks.has_poses:
        pytest.skip("without poses")
    memory = first(networks)
    planar = torch.from_numpy(camera.planar(memory.poses.numpy())).float()
    held = controls(memory)
    vectors = torch.cat([memory.motion_history[..., 6:], torch.from_numpy(held.vector)[:, None]], 1)
    scale = torch.tensor(networks.config.twist_scale)
    twists, around = memory.motion_history[..., :6] * scale, networks.dynamics_features(planar)
    with torch.inference_mode():
        meet = networks.collision_fn(planar)
        step = networks.heads.predict_motion(memory.agent, around, vectors, twists, planar[:, 2], meet)
        twist = step.twist.double().numpy()
        expected = camera.compose(memory.poses.numpy(), camera.exp(twist))
        imagine_unit(networks, memory, held, 2)
    np.testing.assert_allclose(memory.poses, expected, atol=1e-12)
    np.testing.assert_allclose(memory.motion_history[:, -1, :6].numpy(), networks.normalise(twist), atol=1e-6)
    np.testing.assert_array_equal(memory.motion_history[:, -1, 6:].numpy(), held.vector)


def test_keys_do_not_move_the_camera_off_the_ground(tmp_path: Path) -> None:
    networks = load_world(lively_world(tmp_path)).networks
    assert networks.walkable_map is not None
    assert networks.heads.motion is not None
    memory = first(networks)
    networks.walkable_map.visited.zero_()
    spot = memory.poses[:, :2, 3].clone()
    networks.walkable_map.mark_visited(spot)  # nothing but the cells that they stand on
    networks.heads.motion.linear.bias += 0.3
    imagine_unit(networks, memory, controls(memory), 1)
    moved = (memory.poses[:, :2, 3] - spot).norm(dim=1)
    assert ((moved > 0) & (moved < 2 * networks.walkable_map.config.cell)).all()
    twist = memory.motion_history[:, -1, :6].double().numpy() * np.asarray(networks.config.twist_scale)
    assert (np.linalg.norm(twist[:, :3], axis=1) < 0.6).all()  # what is remembered is what was done


def test_without_poses_the_camera_stays_where_it_is(networks: Networks) -> None:
    if networks.has_poses:
        pytest.skip("with poses")
    memory = first(networks)
    imagine_unit(networks, memory, controls(memory), 2)
    np.testing.assert_array_equal(memory.poses, np.tile(np.eye(4), (3, 1, 1)))


def test_observing_takes_the_given_frame_as_it_is(networks: Networks) -> None:
    memory = first(networks)
    given = torch.rand(3, 3, 60, 80) * 2 - 1
    unit = observe_unit(networks, memory, given, controls(memory, [networks.has_poses] * 3))
    assert torch.equal(unit.frame, given)
    assert torch.equal(memory.previous.frame, given)
    assert memory.indices.tolist() == [2, 2, 2]


def test_a_world_begins_at_the_pose_it_is_given(networks: Networks) -> None:
    memory = first(networks)
    assert memory.indices.tolist() == [1, 1, 1]
    assert not memory.motion_history.any()
    if networks.has_poses:
        np.testing.assert_allclose(camera.planar(memory.poses)[:, 3], [0, 0.5, 1.0])


def test_seeds_and_controls_decide(networks: Networks) -> None:
    a, b, c = first(networks), first(networks), first(networks, (3, 9, 5))
    for memory in (a, b, c):
        for _ in range(2):
            imagine_unit(networks, memory, controls(memory), 2)
    same(a, b)
    same(a, c, [0, 2])
    assert not torch.equal(a.previous.frame[1], c.previous.frame[1])
    d = first(networks)
    imagine_unit(networks, d, controls(d), 2)
    vector = controls(d).vector.copy()
    vector[:, 4] = 1
    imagine_unit(networks, d, ControlBatch(vector, d.poses, np.zeros(3, bool)), 2)
    assert not torch.equal(a.generator.keys, d.generator.keys)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Seed and index of all noise that is drawn."""
    found: list[tuple[int, int]] = []

    def record(state: WorldState, number: int, shape: tuple[int, ...]) -> Tensor:
        found.extend(zip(state.seeds.tolist(), state.indices.tolist(), strict=True))
        return draw(state, number, shape)

    draw = imagine.normals
    monkeypatch.setattr(imagine, "normals", record)
    return found


def test_every_frame_has_noise_of_its_own(networks: Networks, drawn: list[tuple[int, int]]) -> None:
    memory = first(networks)
    for _ in range(2):
        imagine_unit(networks, memory, controls(memory), 2)
    assert [seed for seed, _ in drawn] == [3, 4, 5, 3, 4, 5]
    assert [index for _, index in drawn] == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("forward", [0.0, 0.5])
def test_in_a_still_place_nothing_is_left_to_chance_while_one_stands(
    networks: Networks, forward: float
) -> None:
    frames = []
    for seed in (3, 1234):
        memory = first(networks)
        memory.seeds += seed
        asked = camera.compose(memory.poses.numpy(), camera.exp(np.array([0, 0, forward, 0, 0, 0])))
        held = ControlBatch(np.zeros((3, 7), np.float32), asked, np.ones(3, bool))
        frames.append(imagine_unit(networks, memory, held, 2).frame)
    assert torch.equal(*frames) == (networks.config.scale_noise_by_speed and forward == 0)


def test_temperature_scales_what_is_left_to_chance(networks: Networks) -> None:
    frames = {}
    for temperature in (0.0, 1.0, 2.0):
        for seed in (3, 1234):
            memory = first(networks)
            memory.seeds += seed
            memory.temperature *= temperature
            frames[temperature, seed] = imagine_unit(networks, memory, controls(memory, [True] * 3), 2).frame
    assert torch.equal(frames[0.0, 3], frames[0.0, 1234])
    assert not torch.equal(frames[1.0, 3], frames[1.0, 1234])
    assert not torch.equal(frames[1.0, 3], frames[2.0, 3])


def test_rows_can_be_copied_out_and_back_in(networks: Networks) -> None:
    memory = first(networks)
    imagine_unit(networks, memory, controls(memory), 2)
    everything = memory.pick(np.arange(3))
    same(everything, memory)
    copy = memory.pick(np.array([2, 0]))
    imagine_unit(networks, copy, controls(copy), 2)
    same(memory, everything)
    memory.put(np.array([2, 0]), copy)
    same(memory.pick(np.array([2, 0])), copy)
    same(memory, everything, [1])


def test_a_copy_put_in_many_rows_dreams_on_alike(networks: Networks) -> None:
    """Not bit for bit: a matrix product may round a row by its place in the batch."""
    memory = first(networks)
    memory.put(np.arange(3), memory.pick(np.array([1])))
    unit = imagine_unit(networks, memory, controls(memory), 2)
    for row in (0, 2):
        torch.testing.assert_close(unit.frame[row], unit.frame[1], atol=1e-3, rtol=0)
        keys = memory.generator.keys
        torch.testing.assert_close(keys[:, row], keys[:, 1], atol=1e-3, rtol=0)


def test_blank_memory_has_seen_nothing(networks: Networks) -> None:
    memory = empty_state(networks, 2, context=3)
    assert isinstance(memory.generator, Cache)
    assert memory.generator.context == 3
    assert not memory.generator.read()[0].filled.any()
    assert memory.indices.tolist() == [0, 0]
