"""Promises of a world that takes prompts, whatever parts it is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.contracts.worlds import Parts, latents_of, source, write_world
from tests.engine.walks import assert_same, differ
from tests.tiny import random_like
from worldsim.bridge.client.client import Client
from worldsim.bridge.server.server import Server, ServerOptions
from worldsim.checkpoint import load_world
from worldsim.controls import Control
from worldsim.engine import World, load
from worldsim.engine.session import Session
from worldsim.engine.step import Step
from worldsim.envs.imagined import ImaginedEnv
from worldsim.envs.vector import ImaginedVectorEnv
from worldsim.errors import ConfigError, ControlError, EngineError
from worldsim.sampling.protocol import LatentClip

PROMPTS = ("rain", "snow")
KEYS = ({"forward"}, {"forward"}, {"turn_left"}, (), {"forward"})
PARTS = [
    Parts("frame", "history", "transformer", "flow", prior="scene"),
    Parts("cube", "frame", "transformer", "flow", prior="none"),
    Parts("frame", "vae", "recurrent", "remainder-flow", prior="none"),
]


@pytest.fixture(scope="module", params=PARTS, ids=str)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("prompts") / "tiny", request.param, PROMPTS)


@pytest.fixture(scope="module")
def world(folder: Path) -> World:
    return load(folder, "cpu", torch.float32)


def walked(session: Session, prompt: str | None, first: int = 0) -> list[Step]:
    return [session.step(Control(keys, prompt=prompt)) for keys in KEYS[first:]]


def endless(step: Step) -> tuple[float, bool]:
    """A reward function under which no episode ends."""
    return 0.0, False


def test_frames_follow_the_prompt(world: World) -> None:
    engine = world.engine(4)
    rain, snow, unknown, again = (
        walked(engine.open(3, 0), prompt) for prompt in ("rain", "snow", None, "rain")
    )
    assert_same(rain, again)
    assert differ(rain, snow)
    assert differ(rain, unknown)
    assert differ(snow, unknown)


def test_a_prompt_takes_effect_at_once(world: World) -> None:
    engine = world.engine(2)
    one, other = engine.open(3, 0), engine.open(3, 0)
    assert_same([one.step(Control(prompt="rain"))], [other.step(Control(prompt="rain"))])
    assert differ([one.step(Control(prompt="rain"))], [other.step(Control(prompt="snow"))])


def test_an_unknown_prompt_is_refused_with_the_known_ones(world: World) -> None:
    session = world.engine(1).open(3, 0)
    with pytest.raises(ControlError, match="got 'sun'; choose from 'rain', 'snow'"):
        session.step(Control(prompt="sun"))
    assert session.last.index == 2


def test_rows_do_not_hang_on_their_batch(world: World) -> None:
    engine, prompts = world.engine(3), ("rain", "snow", None)
    together = [engine.open(4, 0) for _ in prompts]
    alone = [walked(world.engine(1).open(4, 0), prompt) for prompt in prompts]
    for t, keys in enumerate(KEYS):
        held = [Control(keys, prompt=prompt) for prompt in prompts]
        told = engine.step(dict(zip(together, held, strict=True)))
        assert_same([told[session] for session in together], [steps[t] for steps in alone])


def test_forks_rewinds_and_snapshots_go_on_bit_for_bit(world: World) -> None:
    engine = world.engine(3, rewind_frames=8)
    session = engine.open(3, 0)
    steps = walked(session, "snow")
    session.rewind(4)
    (fork,), twin = session.fork(), engine.restore(session.snapshot())
    for other in (fork, twin, session):
        assert_same(walked(other, "snow", 1), steps[1:])
    fork.rewind(4)
    assert differ(walked(fork, "rain", 1), steps[1:])


def test_a_chunk_is_imagined_under_its_own_prompts(world: World) -> None:
    engine = world.engine(2)
    one, other = engine.open(3, 0), engine.open(3, 0)
    held = [Control({"forward"}, prompt=prompt) for prompt in ("rain", "snow", "snow", "rain")]
    chunk = engine.step_chunk({one: held, other: [Control({"forward"}, prompt="rain")] * 4})
    assert differ(chunk[one], chunk[other])


def test_a_step_of_training_teaches_prompts_and_the_unknown(folder: Path) -> None:
    networks = load_world(folder).networks.train().requires_grad_(True)
    batch, units, length, rng = 40, 2, networks.unit.frames, np.random.default_rng(0)
    vector = torch.zeros(batch, units * length, networks.control_size)
    vector[..., -1] = torch.arange(batch)[:, None] % 2 + 1
    withheld = networks.conditions.withhold(vector, rng)
    unknown = (withheld[..., -1] == 0).all(1)
    assert 0 < unknown.sum() < batch / 2
    assert torch.equal(withheld[~unknown], vector[~unknown])
    condition = networks.condition(withheld, torch.zeros(*vector.shape[:2], 6))
    assert condition.shape[-1] == networks.condition_size
    latents = latents_of(networks, batch, units, 0)
    tokens = random_like((*latents.shape[:3], networks.tokenizer.prior_channels), 1)
    clip = LatentClip(latents, tokens, condition.unflatten(1, (units, length)).flatten(2))
    networks.sampler.loss(networks.generator, clip, rng).loss.backward()
    grads = {name: weight.grad for name, weight in networks.conditions.named_parameters()}
    assert set(grads) == {"encoders.prompt.table", "encoders.prompt.unknown"}
    assert all(grad is not None and bool((grad != 0).any(-1).all()) for grad in grads.values())


def test_prompts_of_an_environment(world: World) -> None:
    env = ImaginedEnv(world, prompt="rain")

    def played(**reset: object) -> list[np.ndarray]:
        env.reset(seed=3, **reset)  # type: ignore[arg-type]
        return [env.step(1)[0] for _ in range(3)]

    rain, snow, kept = played(), played(options={"prompt": "snow"}), played()
    unknown = played(options={"prompt": None})
    np.testing.assert_array_equal(snow, kept)
    assert not np.array_equal(rain, snow)
    assert not np.array_equal(unknown, snow)
    with pytest.raises(ControlError, match="choose from 'rain', 'snow'"):
        env.reset(options={"prompt": "sun"})
    with pytest.raises(ControlError, match="choose from 'rain', 'snow'"):
        ImaginedEnv(world, prompt="sun")


def test_prompts_of_many_environments(world: World) -> None:
    seeds, prompts = [3, 3, 3], ("rain", "snow", None)
    envs = ImaginedVectorEnv(3, world=world, prompt=prompts, reward_fn=endless)
    envs.reset(seed=seeds)
    singles = [ImaginedEnv(world, prompt=prompt, reward_fn=endless) for prompt in prompts]
    for env in singles:
        env.reset(seed=3)
    for action in (1, 2):
        frames = envs.step(np.full(3, action))[0].numpy()
        for frame, env in zip(frames, singles, strict=True):
            np.testing.assert_array_equal(frame, env.step(action)[0])
    envs.reset(seed=seeds, options={"prompt": "snow", "reset_mask": np.array([True, False, True])})
    frames = envs.step(np.ones(3, int))[0].numpy()
    np.testing.assert_array_equal(frames[0], frames[2])
    with pytest.raises(ConfigError, match="list of prompts"):
        envs.reset(options={"prompt": ["rain"]})


def test_prompts_travel_over_the_wire_and_through_the_journal(world: World, tmp_path: Path) -> None:
    steps = walked(world.engine(1).open(3, 0), "snow")
    options = ServerOptions(address=f"ipc://{tmp_path}/s", journal=tmp_path / "state")
    with Server(world.engine(2), options), Client(options.address) as client:
        assert client.world.control_space == source(PROMPTS).control_space
        session = client.open(seed=3, start=0)
        for step, keys in zip(steps[:3], KEYS, strict=False):
            frame = client.step_many({session: Control(keys, prompt="snow")})[session].frame
            np.testing.assert_array_equal(frame, step.frame)
        with pytest.raises(ControlError, match="choose from 'rain', 'snow'"):
            session.step(Control(prompt="sun"))
        client.world.control_space.__dict__["prompts"] = ("sun",)  # an older client's table
        with pytest.raises(EngineError, match="choose from 'rain', 'snow'"):
            session.step(Control(prompt="sun"))
        client.close(keep_sessions=True)
    with Server(world.engine(2), options), Client(options.address, lease=client.lease) as client:
        (session,) = client.sessions
        for step, keys in zip(steps[3:], KEYS[3:], strict=True):
            np.testing.assert_array_equal(session.step(Control(keys, prompt="snow")).frame, step.frame)
