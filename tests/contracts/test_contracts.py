"""What every world keeps to, whatever parts it is made of."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from tests.contracts.worlds import TINY, Parts, latents_of, product_of_parts, source, write_world
from tests.engine.walks import assert_same
from tests.tiny import random_like
from worldsim import registry
from worldsim.bridge.client.client import Client
from worldsim.bridge.server.server import Server, ServerOptions
from worldsim.checkpoint import load_world, save_world
from worldsim.controls import Control
from worldsim.engine import World, load
from worldsim.engine.session import Session
from worldsim.engine.step import Step
from worldsim.envs.imagined import ImaginedEnv
from worldsim.errors import ConfigError
from worldsim.model.next_scale import NextScaleGenerator
from worldsim.model.recurrent import RecurrentGenerator
from worldsim.model.transformer import Transformer
from worldsim.networks import Networks
from worldsim.sampling.protocol import LatentClip
from worldsim.tokenizer.protocol import MotionCondition, PreviousFrame

ALL = product_of_parts()
FITTING = [parts for parts in ALL if parts.fits]
HELD = [Control({"forward"}), Control({"forward"}), Control({"turn_left"}), Control(), Control({"forward"})]


@pytest.fixture(scope="module", params=FITTING, ids=str)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("contracts") / "tiny", request.param)


@pytest.fixture(scope="module")
def world(folder: Path) -> World:
    return load(folder, "cpu", torch.float32)


def walked(session: Session) -> list[Step]:
    return [session.step(control) for control in HELD]


def test_every_registered_part_has_its_sizes() -> None:
    for kind, sizes in TINY.items():
        assert set(registry.names(kind)) == set(sizes), kind
    assert {name for parts in FITTING for name in vars(parts).values()} >= set(TINY["tokenizer"])


@pytest.mark.slow
@pytest.mark.parametrize("parts", [parts for parts in ALL if not parts.fits], ids=str)
def test_a_misfit_is_refused_when_the_config_is_read(parts: Parts) -> None:
    with pytest.raises(ConfigError):
        Networks(parts.config(), source())


@pytest.mark.slow
def test_it_imagines(world: World) -> None:
    session = world.engine(1).open(3, 0)
    steps = walked(session)
    assert [step.index for step in steps] == [3, 4, 5, 6, 7]
    assert all(step.frame.shape == (*world.spec.size, 3) for step in steps)
    assert steps[0].latent is not None
    assert steps[0].latent.shape == world.networks.tokenizer.latent_spec.shape
    assert all(step.latent is not None and np.isfinite(step.latent).all() for step in steps)
    assert np.isfinite([step.reward for step in steps]).all()
    other = world.engine(1).open(4, 0)
    assert any(not np.array_equal(a.frame, b.frame) for a, b in zip(steps, walked(other), strict=True))


def test_what_a_state_carries_is_what_a_clip_shows(folder: Path) -> None:
    """Cached equals uncached: agent features, unit by unit, of latents that are given."""
    networks, (batch, units) = load_world(folder).networks, (2, 3)
    generator, length = networks.generator, networks.unit.frames
    latents = latents_of(networks, batch, units, 0)
    tokens = random_like((*latents.shape[:3], networks.tokenizer.prior_channels), 1)
    condition = random_like((batch, units, length * (networks.control_size + 6)), 2)
    with torch.no_grad():
        state, agents = generator.initial_state(batch), []
        for t in range(units):
            prepared = generator.prepare(state, tokens[:, t], condition[:, t], 0)
            agents.append(generator.commit(state, prepared, latents[:, t], True))
        if isinstance(generator, Transformer):
            ones = torch.ones(batch, units)
            whole = generator(latents, ones, ones, tokens, condition).agent
        elif isinstance(generator, NextScaleGenerator):
            whole = generator.agent(generator.clip(latents, condition, tokens))
        else:
            assert isinstance(generator, RecurrentGenerator)
            features, _ = generator.clip(latents[:, :-1], condition[:, 1:])
            whole, agents = generator.agent_clip(features), agents[1:]
    for t, agent in enumerate(agents):
        assert agent is not None
        torch.testing.assert_close(agent.float(), whole[:, t].float(), atol=1e-4, rtol=1e-4)


def test_priors_with_and_without_a_scene(folder: Path) -> None:
    """The previous frame is warped by a scene or a flow, else left; the same in any batch but for rounding.

    To the bit it is the same in steps of the engine, see ``test_rows_do_not_hang_on_their_batch``.
    """
    tokenizer = load_world(folder).networks.tokenizer
    size, rows = source().size, 3
    config = load_world(folder).config.networks.tokenizer
    condition = random_like((rows, source().control_space.size + 6), 1)
    planar = torch.tensor([[2.0, 2.0, 1.3, 0.1 * row] for row in range(rows)])
    back = torch.eye(4).repeat(rows, 1, 1)
    back[:, 0, 3] = 0.05
    previous = PreviousFrame(random_like((rows, 3, *size), 0).tanh(), torch.ones(rows, *size))
    with torch.no_grad():
        prior = tokenizer.prior(previous, MotionCondition(condition, planar, back))
        again = tokenizer.prior(previous, MotionCondition(condition, planar, back))
        one = torch.tensor([1])
        alone = tokenizer.prior(previous.pick(one), MotionCondition(condition[one], planar[one], back[one]))
    for name in ("scene_rgb", "warped_rgb", "warp_confidence", "warp_grid", "depth", "tokens"):
        assert torch.equal(getattr(prior, name), getattr(again, name)), name
        torch.testing.assert_close(getattr(prior, name)[1:2], getattr(alone, name), atol=1e-4, rtol=1e-4)
    assert prior.warped_rgb.isfinite().all()
    assert ((prior.warp_confidence >= 0) & (prior.warp_confidence <= 1)).all()
    if not tokenizer.uses_previous_frame:
        return
    scene, flow = (getattr(config, name, None) for name in ("scene", "flow_prior"))
    moved = scene is not None or bool(flow)
    assert torch.allclose(prior.warped_rgb, prior.previous_rgb, atol=1e-4) != moved
    assert bool((prior.warp_confidence == 1).all()) != moved
    assert bool(prior.scene_rgb.any()) == (scene is not None)


@pytest.mark.slow
def test_forks_rewinds_and_snapshots_go_on_bit_for_bit(world: World) -> None:
    engine = world.engine(3, rewind_frames=8)
    session = engine.open(3, 0, temperature=0.7)
    steps = walked(session)
    for back in (1, 3, 5):
        session.rewind(back)
        assert_same([session.step(control) for control in HELD[-back:]], steps[-back:])
    session.rewind(4)
    (fork,), twin = session.fork(), engine.restore(session.snapshot())
    for other in (fork, twin, session):
        assert_same([other.step(control) for control in HELD[1:]], steps[1:])


@pytest.mark.slow
def test_rows_do_not_hang_on_their_batch(world: World) -> None:
    engine = world.engine(3)
    together, alone = [engine.open(seed, seed % 2) for seed in (3, 4, 5)], world.engine(1).open(4, 0)
    for t, control in enumerate(HELD):
        others = HELD[t - 1], HELD[t - 2]
        told = engine.step(dict(zip(together, (others[0], control, others[1]), strict=True)))
        assert_same([told[together[1]]], [alone.step(control)])


def test_a_step_of_training_teaches_the_generator(folder: Path) -> None:
    networks = load_world(folder).networks.train().requires_grad_(True)
    batch, units = 2, 3
    latents = latents_of(networks, batch, units, 0)
    tokens = random_like((*latents.shape[:3], networks.tokenizer.prior_channels), 1)
    condition = random_like((batch, units, networks.unit.frames * (networks.control_size + 6)), 2)
    drawn = networks.sampler.loss(
        networks.generator, LatentClip(latents, tokens, condition), np.random.default_rng(0)
    )
    assert drawn.agent.shape == (batch, units, networks.generator.width)
    optimizer = torch.optim.SGD([weight for _, weight in networks.generator.named_parameters()], 1e-2)
    before = [weight.clone() for _, weight in networks.generator.named_parameters()]
    drawn.loss.backward()
    optimizer.step()
    after = [weight for _, weight in networks.generator.named_parameters()]
    assert drawn.loss.isfinite()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(weight.isfinite().all() for weight in after)


def test_gradients_reach_the_tokenizer(folder: Path) -> None:
    networks = load_world(folder).networks.train().requires_grad_(True)
    tokenizer, frame = networks.tokenizer, random_like((2, 3, *source().size), 0).tanh()
    condition = random_like((2, networks.control_size + 6), 1)
    motion = MotionCondition(
        condition, torch.tensor([[2.0, 2.0, 1.3, 0.1]] * 2), torch.eye(4).repeat(2, 1, 1)
    )
    prior = tokenizer.prior(tokenizer.blank(2, torch.device("cpu")), motion)
    made = tokenizer.decode(tokenizer.encode(frame, prior), prior)
    (made - frame).square().mean().backward()
    grads = [weight.grad for name, weight in tokenizer.named_parameters() if not name.startswith("scene.")]
    assert sum(grad is not None and bool(grad.any()) for grad in grads) > len(grads) / 2


def test_it_is_saved_and_loaded(folder: Path, world: World, tmp_path: Path) -> None:
    stored = load_world(folder)
    save_world(tmp_path / "again", stored.config, stored.networks, stored.starts, stored.card)
    again = load(tmp_path / "again", "cpu", torch.float32)
    assert again.config == world.config
    assert_same(walked(again.engine(1).open(3, 0)), walked(world.engine(1).open(3, 0)))


def test_it_is_a_gymnasium_environment(world: World) -> None:
    env = ImaginedEnv(world)
    frame, _ = env.reset(seed=3)
    assert isinstance(env, gymnasium.Env)
    assert env.observation_space.contains(frame)
    for action in (1, 1, 2):
        frame, reward, terminated, truncated, _ = env.step(action)
        assert env.observation_space.contains(frame)
        assert np.isfinite(reward)
        assert not truncated
        if terminated:
            env.reset()
    env.close()


@pytest.mark.slow
def test_it_is_served_over_the_wire(world: World, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/s"
    own = world.engine(2, rewind_frames=8).open(3, 0)
    served = Server(world.engine(2, rewind_frames=8), ServerOptions(address=address, metrics_port=0))
    with served, Client(address) as client:
        session = client.open(seed=3, start=0)
        for control in HELD:
            told, wanted = session.step(control), own.step(control)
            np.testing.assert_array_equal(told.frame, wanted.frame)
            assert told.index == wanted.index
        session.rewind(2)
        own.rewind(2)
        np.testing.assert_array_equal(session.step(HELD[3]).frame, own.step(HELD[3]).frame)


def test_a_chunk_over_the_wire_is_a_local_one(world: World, tmp_path: Path) -> None:
    address, chunk = f"ipc://{tmp_path}/s", HELD[:4]
    own = world.engine(2, rewind_frames=8).open(3, 0)
    served = Server(world.engine(2, rewind_frames=8), ServerOptions(address=address, metrics_port=0))
    with served, Client(address) as client:
        assert client.world.unit_frames == world.unit_frames
        session = client.open(seed=3, start=0)
        told, wanted = session.step_chunk(chunk), own.step_chunk(chunk)
        for one, other in zip(told, wanted, strict=True):
            np.testing.assert_array_equal(one.frame, other.frame)
            assert one.index == other.index
        assert [one.seq for one in told] == [1, 2, 3, 4]
        assert session.seq == 4
        np.testing.assert_array_equal(session.step(HELD[4]).frame, own.step(HELD[4]).frame)
