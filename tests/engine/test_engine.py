"""Sessions: opened, stepped, forked, rewound, closed; what they dream depends on nothing but themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.engine.walks import assert_same, differ, given, walk
from worldsim import camera
from worldsim.controls import Control
from worldsim.engine.world import World
from worldsim.errors import EngineError


@pytest.mark.slow
def test_an_open_session_shows_its_last_given_frame(any_world: World) -> None:
    session = any_world.engine(2).open(seed=3, start=1)
    start = any_world.starts[1]
    np.testing.assert_array_equal(session.frame, start.frames[-1])
    assert (session.index, session.start, session.seed) == (len(start.frames) - 1, 1, 3)
    if start.poses is None:
        assert session.pose is None
    else:
        np.testing.assert_array_equal(session.pose, start.poses[-1])
    assert session.last.pose_given == (start.poses is not None)


def test_a_step_answers_with_the_next_frame(any_world: World) -> None:
    session = any_world.engine(2).open()
    before = session.index
    step = session.step(Control({"forward"}))
    assert step.frame.shape == (*any_world.spec.size, 3)
    assert step.frame.dtype == np.uint8
    assert step.index == session.index == before + 1
    assert session.last is step
    assert not step.pose_given
    assert np.isfinite(step.reward)
    assert (step.uncertainty is not None) == any_world.networks.has_poses
    assert 0 <= (step.uncertainty or 0.0) <= 1
    assert isinstance(step.terminated, bool)
    if any_world.spec.has_pose:
        assert step.pose is not None
        camera.check_pose(step.pose)
    else:
        assert step.pose is None


def test_same_seed_and_controls_same_frames(any_world: World) -> None:
    walks = [walk(any_world.engine(2, denoising_steps=1).open(seed=5), 4) for _ in range(2)]
    assert_same(*walks)


def test_a_start_is_as_new_however_often_it_was_walked_from(any_world: World) -> None:
    """Parked too, where a session lies in no slot of its own."""
    engine = any_world.engine(2, offload_bytes=10**8)
    first = walk(engine.open(5, 0), 4)
    walk(engine.open(6, 0), 4)
    walk(engine.open(7, 0).fork()[0], 4)
    assert_same(first, walk(engine.open(5, 0), 4))


def test_another_seed_or_other_controls_other_frames(any_world: World) -> None:
    engine = any_world.engine(8)
    usual = walk(engine.open(5, 0), 3)
    assert differ(usual, walk(engine.open(6, 0), 3))
    assert differ(usual, walk(engine.open(5, 0), 3, first=1))


def test_seeds_choose_starts(world: World) -> None:
    engine = world.engine(1)
    chosen = set()
    for seed in range(10):
        session = engine.open(seed)
        chosen.add(session.start)
        session.close()
    assert chosen == {0, 1}


@pytest.mark.parametrize("seed", [-1, 2**63 + 5, 2**64 - 1, np.int64(7), np.uint8(7)])
def test_any_whole_number_is_a_seed(world: World, seed: int) -> None:
    engine = world.engine(2)
    session = engine.open(seed, np.int64(1))
    twin = engine.restore(session.snapshot())
    assert_same(walk(session, 1), walk(twin, 1))
    assert (twin.seed, twin.start) == (int(seed), 1)


def test_an_explicit_pose_is_obeyed_and_reported(world: World) -> None:
    session = world.engine(1).open()
    pose = camera.from_planar(2.2, 1.9, 1.3, 0.4)
    step = session.step(Control({"backward"}, pose=pose))
    assert step.pose_given
    np.testing.assert_array_equal(step.pose, pose)
    after = session.step(Control({"forward"}))
    assert not after.pose_given
    assert not np.array_equal(after.pose, pose)


def test_given_frames_are_a_start(any_world: World) -> None:
    engine = any_world.engine(2)
    context = given(any_world, frames=4)
    session, twin = engine.open(1, context), engine.open(1, context)
    assert (session.start, session.index) == (None, 3)
    np.testing.assert_array_equal(session.frame, context.frames[-1])
    session.frame[:] = 0  # a session's frame is its own, not the caller's
    assert context.frames[-1].any()
    assert_same(walk(session, 2), walk(twin, 2))


def test_a_single_given_frame_is_enough(any_world: World) -> None:
    session = any_world.engine(1).open(0, given(any_world, frames=1))
    assert session.index == 0
    assert session.last.uncertainty == (0.0 if any_world.networks.has_poses else None)
    assert session.step().index == 1


def test_a_start_longer_than_the_context_is_shortened(any_world: World) -> None:
    session = any_world.engine(1, context=2).open(0, 1)
    assert session.index == 1
    np.testing.assert_array_equal(session.frame, any_world.starts[1].frames[-1])


def test_a_batch_of_sessions_answers_for_each(any_world: World) -> None:
    engine = any_world.engine(4)
    sessions = [engine.open(seed) for seed in range(4)]
    chosen = {sessions[2]: Control({"forward"}), sessions[0]: Control({"turn_left"})}
    steps = engine.step(chosen)
    assert set(steps) == set(chosen)
    assert [session.index for session in sessions] == [3, 2, 3, 2]
    assert engine.step({}) == {}


def test_sessions_left_out_of_a_batch_do_not_move(world: World) -> None:
    engine, twin_engine = world.engine(2), world.engine(2)
    session, other = engine.open(3, 0), engine.open(4, 1)
    twin = twin_engine.open(3, 0)
    walk(other, 3)
    assert_same(walk(session, 2), walk(twin, 2))


def test_forks_go_on_alike_and_then_their_own_ways(any_world: World) -> None:
    engine = any_world.engine(3)
    session = engine.open(3)
    walk(session, 2)
    twin, other = session.fork(2)
    assert (twin.seed, twin.index, twin.start) == (session.seed, session.index, session.start)
    assert engine.free == 0
    assert_same(walk(session, 2), walk(twin, 2))
    assert differ(walk(other, 2, first=2), walk(session, 2))
    assert twin.max_rewind == session.max_rewind - 2 == 4


def test_rewinding_and_the_same_controls_give_the_same_frames(any_world: World) -> None:
    session = any_world.engine(1, denoising_steps=1).open(3)
    steps = walk(session, 6)
    back = session.rewind(4)
    assert_same([back], [steps[1]])
    assert session.last is back
    assert session.max_rewind == 2
    assert_same(walk(session, 4, first=2), steps[2:])
    session.rewind(6)
    assert session.index == 2
    assert session.max_rewind == 0


def test_history_is_as_long_as_asked_for(world: World) -> None:
    session = world.engine(1, rewind_frames=3).open()
    walk(session, 5)
    assert session.max_rewind == 3
    forgetful = world.engine(1, rewind_frames=0).open()
    walk(forgetful, 2)
    assert forgetful.max_rewind == 0


def test_closing_frees_the_slot_once(world: World) -> None:
    engine = world.engine(2)
    session = engine.open()
    assert engine.free == 1
    session.close()
    session.close()
    assert engine.free == 2
    assert session.closed


def test_a_reused_slot_remembers_nothing(world: World) -> None:
    fresh, used = world.engine(1), world.engine(1)
    first = used.open(9, 1)
    walk(first, 5)
    first.close()
    assert_same(walk(used.open(3, 0), 3), walk(fresh.open(3, 0), 3))


def test_dreams_outlast_the_context(any_world: World) -> None:
    session = any_world.engine(1, context=3, denoising_steps=1).open(0, given(any_world))
    steps = walk(session, 8)
    assert steps[-1].index == 10
    session.rewind(8)
    assert_same(walk(session, 8), steps)


def test_the_number_of_passes_can_be_changed_while_running(world: World) -> None:
    engine = world.engine(2, denoising_steps=1)
    few, many = engine.open(3, 0), engine.open(3, 0)
    one = walk(few, 1)
    engine.denoising_steps = 4
    assert engine.denoising_steps == 4
    assert differ(one, walk(many, 1))


def test_a_sessions_temperature_can_be_changed_while_it_runs(any_world: World) -> None:
    engine = any_world.engine(3, rewind_frames=2, offload_bytes=10**8)
    session, born_cold = engine.open(seed=5, start=0), engine.open(seed=5, start=0, temperature=0.0)
    (twin,) = session.fork()
    assert (session.temperature, born_cold.temperature) == (1.0, 0.0)
    engine.offload(session)
    session.temperature = 0.0
    assert (session.temperature, twin.temperature) == (0.0, 1.0)
    control = Control({"forward"})
    assert_same([session.step(control)], [born_cold.step(control)])
    twin.temperature = 0.0
    assert_same([twin.step(control)], [session.last])
    for wrong in (-0.1, 10.5, float("nan")):
        with pytest.raises(EngineError, match="temperature"):
            session.temperature = wrong
    session.close()
    with pytest.raises(EngineError, match="open"):
        session.temperature = 1.0


def test_a_batch_of_any_size_gives_the_frames_of_one_alone(any_world: World) -> None:
    """Bit for bit, in every lane and at every batch size."""
    many = any_world.engine(9, denoising_steps=2)
    sessions = [many.open(seed, seed % 2) for seed in range(9)]
    alone = [any_world.engine(1, denoising_steps=2).open(seed, seed % 2) for seed in range(9)]
    for count in (9, 5, 2, 1, 7):
        held = Control(keys={"forward"}, yaw=0.1 * count)
        together = many.step(dict.fromkeys(sessions[:count], held))
        for session, twin in zip(sessions[:count], alone[:count], strict=True):
            assert_same([together[session]], [twin.step(held)])


def test_more_sessions_than_slots_take_turns(any_world: World) -> None:
    roomy = any_world.engine(5, denoising_steps=1)
    tight = any_world.engine(2, denoising_steps=1, offload_bytes=3 * roomy.session_bytes)
    few, all_ = [tight.open(seed, 0) for seed in range(5)], [roomy.open(seed, 0) for seed in range(5)]
    assert (tight.free, tight.scheduler.offloaded) == (0, 3)
    for _ in range(3):
        turns, once = tight.step(dict.fromkeys(few, Control())), roomy.step(dict.fromkeys(all_, Control()))
        for one, other in zip(few, all_, strict=True):
            assert_same([turns[one]], [once[other]])


def test_forks_with_seeds_of_their_own_dream_apart(world: World) -> None:
    session = world.engine(3, denoising_steps=1).open(3, 0)
    alike, other = session.fork(2, seeds=[3, 4])
    assert other.seed == 4
    first = walk(session, 1)
    assert_same(walk(alike, 1), first)
    assert differ(walk(other, 1), first)


def test_forks_of_a_parked_session_leave_its_chance_alone(world: World) -> None:
    engine = world.engine(1, denoising_steps=1, offload_bytes=3 * world.engine(1).session_bytes)
    session, twin = engine.open(3, 0), engine.open(3, 0)
    engine.offload(session)
    session.fork(1, seeds=[4])
    assert_same(walk(session, 2), walk(twin, 2))


def test_a_step_may_be_asked_for_latents_alone(any_world: World) -> None:
    engine = any_world.engine(2, denoising_steps=1)
    session, twin = engine.open(3, 0), engine.open(3, 0)
    blind = engine.step({session: Control()}, frames=False)[session]
    seen = twin.step()
    assert blind.frame.size == 0
    np.testing.assert_array_equal(blind.latent, seen.latent)
    assert_same(walk(session, 2), walk(twin, 2))


def test_passes_are_dropped_to_keep_to_a_budget(world: World) -> None:
    engine = world.engine(1, denoising_steps=4)
    session = engine.open(3, 0)
    for _ in range(3):  # each number of passes is tried once
        engine.step({session: Control()}, budget=0.0)
    assert engine.step({session: Control()}, budget=0.0)[session].denoising_steps == 1
    assert engine.step({session: Control()}, budget=60.0)[session].denoising_steps == 4
    assert session.step().denoising_steps == 4


@pytest.mark.slow
def test_at_walls_too_nothing_depends_on_who_shares_the_batch(world: World) -> None:
    engine, alone = world.engine(16), world.engine(16)
    many, single = ([of.open(seed) for seed in range(16)] for of in (engine, alone))
    for _ in range(40):  # far enough for some to walk against the edge of their ground
        together = engine.step(
            {session: Control({"forward"}, yaw=0.02 * i) for i, session in enumerate(many)}
        )
        for i, session in enumerate(single):
            assert_same([session.step(Control({"forward"}, yaw=0.02 * i))], [together[many[i]]])
    assert torch.equal(engine._state.motion_history, alone._state.motion_history)
    assert engine._state.motion_history.isfinite().all()
