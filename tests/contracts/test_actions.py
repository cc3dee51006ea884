"""Promises of a world that takes continuous actions, whatever parts it is made of."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from tests.contracts.worlds import Parts, latents_of, source, write_world
from tests.engine.walks import assert_same, differ
from tests.tiny import random_like
from worldsim.bridge.client.client import Client
from worldsim.bridge.server.server import Server, ServerOptions
from worldsim.checkpoint import load_world
from worldsim.context import Context
from worldsim.controls import ActionBox, Control
from worldsim.engine import World, load
from worldsim.engine.session import Session
from worldsim.engine.step import Step
from worldsim.envs.imagined import ImaginedEnv
from worldsim.envs.remote import RemoteEnv
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ControlError, EngineError
from worldsim.sampling.protocol import LatentClip

BOX = ActionBox(low=(-1.0, 0.0), high=(1.0, 2.0))
Action = tuple[float, float] | None
SOFT, HARD = (0.25, 0.5), (-1.0, 2.0)
KEYS = ({"forward"}, {"forward"}, {"turn_left"}, (), {"forward"})
PARTS = [
    Parts("frame", "history", "transformer", "flow", prior="scene"),
    Parts("cube", "frame", "transformer", "flow", prior="none"),
    Parts("frame", "vae", "recurrent", "remainder-flow", prior="none"),
]


@pytest.fixture(scope="module", params=PARTS, ids=str)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("actions") / "tiny", request.param, action=BOX)


@pytest.fixture(scope="module")
def world(folder: Path) -> World:
    return load(folder, "cpu", torch.float32)


def walked(session: Session, action: Action, first: int = 0) -> list[Step]:
    return [session.step(Control(keys, action=action)) for keys in KEYS[first:]]


def endless(step: Step) -> tuple[float, bool]:
    """A reward function under which no episode ends."""
    return 0.0, False


def test_frames_follow_the_action(world: World) -> None:
    engine = world.engine(4)
    soft, hard, unknown, again = (walked(engine.open(3, 0), action) for action in (SOFT, HARD, None, SOFT))
    assert_same(soft, again)
    assert differ(soft, hard)
    assert differ(soft, unknown)
    assert differ(hard, unknown)
    as_array = Control(KEYS[0], action=np.array(SOFT, np.float32))
    assert_same([world.engine(1).open(3, 0).step(as_array)], soft[:1])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ((0.5,), "must have 2 numbers; got 1; give action="),
        ((0.5, 2.5), r"number 1 of an action must be in \[0, 2\]; got 2.5; clip it"),
    ],
)
def test_an_action_that_the_world_does_not_take_is_refused(
    world: World, action: tuple[float, ...], message: str
) -> None:
    session = world.engine(1).open(3, 0)
    with pytest.raises(ControlError, match=message):
        session.step(Control(action=action))
    assert session.last.index == 2


def test_rows_do_not_hang_on_their_batch(world: World) -> None:
    engine, actions = world.engine(3), (SOFT, HARD, None)
    together = [engine.open(4, 0) for _ in actions]
    alone = [walked(world.engine(1).open(4, 0), action) for action in actions]
    for t, keys in enumerate(KEYS):
        held = [Control(keys, action=action) for action in actions]
        told = engine.step(dict(zip(together, held, strict=True)))
        assert_same([told[session] for session in together], [steps[t] for steps in alone])


def test_forks_rewinds_and_snapshots_go_on_bit_for_bit(world: World) -> None:
    engine = world.engine(3, rewind_frames=8)
    session = engine.open(3, 0)
    steps = walked(session, HARD)
    session.rewind(4)
    (fork,), twin = session.fork(), engine.restore(session.snapshot())
    for other in (fork, twin, session):
        assert_same(walked(other, HARD, 1), steps[1:])
    fork.rewind(4)
    assert differ(walked(fork, SOFT, 1), steps[1:])


def test_a_chunk_is_imagined_under_its_own_actions(world: World) -> None:
    engine = world.engine(2)
    one, other = engine.open(3, 0), engine.open(3, 0)
    held = [Control({"forward"}, action=action) for action in (SOFT, HARD, HARD, None)]
    chunk = engine.step_chunk({one: held, other: [Control({"forward"}, action=SOFT)] * 4})
    assert differ(chunk[one], chunk[other])


def test_a_session_begins_with_frames_and_their_actions(world: World) -> None:
    context, engine = world.starts[0], world.engine(2)
    controls = [Control({"forward"}, action=HARD)] * len(context.frames)
    spec = world.spec.control_space
    assert spec.rows(controls, 3)[:, spec.channels["action"]].tolist() == [[1.0, *HARD]] * 3
    given = [Context(context.frames, held, context.poses) for held in (controls, spec.rows(controls, 3))]
    one, other = (engine.open(3, start).step(Control(action=SOFT)) for start in given)
    assert_same([one], [other])


def test_a_step_of_training_teaches_the_unknown(folder: Path) -> None:
    networks = load_world(folder).networks.train().requires_grad_(True)
    batch, units, length, rng = 40, 2, networks.unit.frames, np.random.default_rng(0)
    vector = torch.zeros(batch, units * length, networks.control_size)
    vector[..., -3:] = torch.tensor([1.0, *SOFT])
    withheld = networks.conditions.withhold(vector, rng)
    unknown = (withheld[..., -3:] == 0).all(-1).all(-1)
    assert 0 < unknown.sum() < batch / 2
    assert torch.equal(withheld[~unknown], vector[~unknown])
    condition = networks.condition(withheld, torch.zeros(*vector.shape[:2], 6))
    assert condition.shape[-1] == networks.condition_size
    latents = latents_of(networks, batch, units, 0)
    tokens = random_like((*latents.shape[:3], networks.tokenizer.prior_channels), 1)
    clip = LatentClip(latents, tokens, condition.unflatten(1, (units, length)).flatten(2))
    networks.sampler.loss(networks.generator, clip, rng).loss.backward()
    grads = {name: weight.grad for name, weight in networks.conditions.named_parameters()}
    assert set(grads) == {"encoders.action.unknown"}
    assert all(grad is not None and bool((grad != 0).all()) for grad in grads.values())


def test_an_environment_offers_the_box(world: World) -> None:
    env = ImaginedEnv(world)
    assert env.action_space == gymnasium.spaces.Box(np.float32([-1, 0]), np.float32([1, 2]))

    def played(action: object) -> list[np.ndarray]:
        env.reset(seed=3)
        return [env.step(action)[0] for _ in range(3)]

    soft, hard = (played(np.array(action, np.float32)) for action in (SOFT, HARD))
    assert not np.array_equal(soft, hard)
    for action, message in (([0.5], "2 numbers"), ([0.5, np.nan], "finite"), ([0.5, -1.0], "number 1")):
        with pytest.raises(ControlError, match=message):
            env.step(np.array(action, np.float32))
    both = ImaginedEnv(world, actions="dict")
    both.reset(seed=3)
    frame = both.step({"keys": np.zeros(6, np.int8), "action": np.array(SOFT, np.float32)})[0]
    np.testing.assert_array_equal(frame, soft[0])
    assert isinstance(ImaginedEnv(world, actions="discrete").action_space, gymnasium.spaces.Discrete)


@pytest.mark.filterwarnings("ignore:.*symmetric and normalized")
def test_gymnasium_has_nothing_to_complain_about(world: World) -> None:
    env = gymnasium.make("worldsim:WorldsimWorld-v0", world=world, denoising_steps=1)
    check_env(env.unwrapped, skip_render_check=True)


def test_actions_of_many_environments(world: World) -> None:
    envs = ImaginedVectorEnv(2, world=world, reward_fn=endless)
    envs.reset(seed=[3, 3])
    singles = [ImaginedEnv(world, reward_fn=endless) for _ in range(2)]
    for env in singles:
        env.reset(seed=3)
    actions = np.array([SOFT, HARD], np.float32)
    for _ in range(2):
        frames = envs.step(actions)[0].numpy()
        for frame, env, action in zip(frames, singles, actions, strict=True):
            np.testing.assert_array_equal(frame, env.step(action)[0])
    space = world.spec.control_space
    vectors = np.stack([space.vector(Control(action=action)) for action in actions])
    for given in (actions, torch.from_numpy(actions), actions.tolist(), actions.astype(np.float64)):
        np.testing.assert_array_equal(envs._actions.controls(given).vector, vectors)
    np.testing.assert_array_equal(envs._actions.unchecked(torch.from_numpy(actions)), vectors)
    odd = envs._actions.unchecked(torch.tensor([[9.0, -9.0], [np.nan, 0.5]]))
    assert odd[:, -3:].tolist() == [[1, 1, 0], [1, 0, 0.5]]
    with pytest.raises(ControlError, match="number 1"):
        envs.step(np.array([SOFT, (0.5, -1.0)], np.float32))
    with pytest.raises(ControlError, match="shape"):
        envs._actions.unchecked(torch.zeros(2, 3))


def test_actions_travel_over_the_wire_and_through_the_journal(world: World, tmp_path: Path) -> None:
    steps = walked(world.engine(1).open(3, 0), HARD)
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=tmp_path / "state")
    with Server(world.engine(2), options), Client(options.address) as client:
        assert client.world.control_space == source(action=BOX).control_space
        session = client.open(seed=3, start=0)
        np.testing.assert_array_equal(session.step(Control(KEYS[0], action=HARD)).frame, steps[0].frame)
        for step, keys in zip(steps[1:3], KEYS[1:], strict=False):
            frame = client.step_many({session: Control(keys, action=HARD)})[session].frame
            np.testing.assert_array_equal(frame, step.frame)
        with pytest.raises(ControlError, match="2 numbers"):
            session.step(Control(action=[0.5]))
        wide = ActionBox(low=(-9.0, 0.0), high=(9.0, 2.0))
        client.world.control_space.__dict__["action"] = wide  # an older client's bounds
        with pytest.raises(EngineError, match=r"number 0 of an action must be in \[-1, 1\]"):
            session.step(Control(action=(-5.0, 0.5)))
        client.close(keep_sessions=True)
    with Server(world.engine(2), options), Client(options.address, lease=client.lease) as client:
        (session,) = client.sessions
        chunk = session.step_chunk([Control(keys, action=HARD) for keys in KEYS[3:]])
        for step, mine in zip(steps[3:], chunk, strict=True):
            if world.unit_frames == 1:  # a chunk's unit is imagined under its own keys
                np.testing.assert_array_equal(mine.frame, step.frame)


def test_a_served_environment_offers_the_box(world: World, tmp_path: Path) -> None:
    here = ImaginedEnv(world)
    here.reset(seed=3)
    options = ServerOptions(address=f"ipc://{tmp_path}/s")
    with Server(world.engine(2), options):
        env = RemoteEnv(options.address)
        assert env.action_space == here.action_space
        env.reset(seed=3)
        action = np.array(SOFT, np.float32)
        np.testing.assert_array_equal(env.step(action)[0], here.step(action)[0])
        env.close()
