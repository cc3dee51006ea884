"""A recipe for worlds in which things move, from a dataset to a world that plays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import stir
from tests.training.rooms import write_walks
from worldsim.checkpoint import WorldConfig, save_world
from worldsim.controls import Control
from worldsim.data.clips import ClipStore
from worldsim.engine.world import load
from worldsim.model.recurrent import RecurrentGenerator
from worldsim.networks import Networks
from worldsim.training.latent_dynamics import LatentDynamicsRecipe
from worldsim.training.latent_dynamics_objective import LatentDynamicsObjective, WindowDraw
from worldsim.training.outcome_features import OutcomeFeatures, _imagined_runs
from worldsim.training.outcome_objective import OutcomeObjective
from worldsim.training.run import main
from worldsim.training.sequences import Sequences
from worldsim.training.starts import choose_starts

TINY = LatentDynamicsRecipe(
    channels=8, vae_width=8, vae_depth=1, width=16, head_width=16, vae_batch=4, batch=4, length=9, heads=2,
    agent_memory=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_walks(tmp_path_factory.mktemp("walks"), {1: 60, 3: 40, 20: 40}, poses=False)


@pytest.mark.slow
@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("memory", ["lstm", "attention"])
def test_both_stages_learn_and_the_world_plays(data: Path, tmp_path: Path, vector: bool, memory: str) -> None:
    clips = ClipStore(data)
    recipe = replace(TINY, vector=vector, memory=memory)  # type: ignore[arg-type]
    torch.manual_seed(0)
    networks = Networks(recipe.plan(clips.spec, None), clips.spec).train()
    for stage in recipe.stages(networks, clips, warm=False):
        weights = [weight for group in stage.param_groups for weight in group.parameters]
        optimizer = torch.optim.Adam(weights, 3e-3)
        if stage.on_start is not None:
            stage.on_start()
        losses = []
        for step in range(20):
            loss, logs = stage.objective(np.random.default_rng(step), step / 20)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert all(np.isfinite(float(value)) for value in logs.values())
        assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert (networks.state_dict()["tokenizer.std"] != 1).any()
    config = WorldConfig(name="walks", source=clips.spec, networks=networks.config)
    starts = choose_starts(ClipStore(data, split="held_out"))
    save_world(tmp_path / "walks", config, networks, starts, "# walks\n")
    session = load(tmp_path / "walks", device="cpu", dtype=torch.float32).engine(slots=3).open(seed=3)
    twin = session.fork()[0]
    steps = [[one.step(Control({"forward"})) for _ in range(4)] for one in (session, twin)]
    for mine, other in zip(*steps, strict=True):
        assert (mine.frame == other.frame).all()
        assert mine.terminated == other.terminated
    assert (steps[0][0].frame != steps[0][3].frame).any()


@pytest.mark.parametrize("imagined", [0.0, 0.5])
@pytest.mark.parametrize("agent_memory", [True, False])
def test_reward_and_end_learn_over_features_that_are_computed_once(
    data: Path, agent_memory: bool, imagined: float
) -> None:
    clips = ClipStore(data)
    recipe = replace(TINY, agent_memory=agent_memory, outcome_batch=50, imagined_outcomes=imagined)
    networks = Networks(recipe.plan(clips.spec, None), clips.spec).train()
    outcome = recipe.stages(networks, clips, warm=False)[-1]
    assert outcome.on_start is not None
    assert outcome.on_start() is outcome.on_start()
    weights = [weight for group in outcome.param_groups for weight in group.parameters]
    optimizer, losses = torch.optim.Adam(weights, 3e-3), []
    for step in range(40):
        loss, _ = outcome.objective(np.random.default_rng(step), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    generator = networks.generator
    assert isinstance(generator, RecurrentGenerator)
    learnt = [weight for weight in generator.parameters() if weight.grad is not None]
    remembered = [] if generator.agent_memory is None else list(generator.agent_memory.parameters())
    assert {id(weight) for weight in learnt} == {
        id(weight) for weight in (*generator.agent_in.parameters(), *remembered)
    }


def test_a_world_that_is_trained_further_keeps_what_policies_read(data: Path) -> None:
    """Reward and end alone learn then, and a memory that the world did not have before."""
    clips = ClipStore(data)
    networks = Networks(TINY.plan(clips.spec, None), clips.spec)
    generator = networks.generator
    assert isinstance(generator, RecurrentGenerator)
    memory = generator.agent_memory
    assert memory is not None

    def learnt(warm: bool) -> set[int]:
        (group,) = TINY.stages(networks, clips, warm=warm)[-1].param_groups
        return {id(weight) for weight in group.parameters}

    heads, features, remembered = (
        {id(weight) for weight in part.parameters()}
        for part in (networks.heads.outcome, generator.agent_in, memory)
    )
    assert learnt(warm=False) == heads | features | remembered
    assert learnt(warm=True) == heads | remembered
    torch.nn.init.normal_(memory.out.weight)
    assert learnt(warm=True) == heads


def test_reward_and_end_are_learnt_for_some_epochs_alone(data: Path) -> None:
    """More of them would teach the recorded ends by heart."""
    clips = ClipStore(data)
    recipe = replace(TINY, outcome_batch=50)
    outcome = recipe.stages(Networks(recipe.plan(clips.spec, None), clips.spec), clips, warm=False)[-1]
    steps = 0
    assert outcome.should_end is not None
    while outcome.should_end() is None:
        outcome.objective(np.random.default_rng(steps), 0.0)
        steps += 1
    assert 3 * len(clips) < 50 * steps < 5 * len(clips) + 50


def test_features_are_the_same_by_kernels_and_without(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = ClipStore(data)
    networks = Networks(TINY.plan(clips.spec, None), clips.spec).eval()
    stir(networks, scale=0.2)
    found = []
    for supported in (True, False):
        monkeypatch.setattr(RecurrentGenerator, "supports_kernels", supported)
        sequences = Sequences(clips, networks.device)
        dynamics = LatentDynamicsObjective(networks, sequences, WindowDraw())
        torch.manual_seed(0)
        found.append(OutcomeObjective(networks, sequences, dynamics, batch=45).start().recorded.float())
    assert found[0].std() > 0.01
    torch.testing.assert_close(*found, atol=0.02, rtol=0.05)


def feature_encoder(data: Path, memory: str) -> OutcomeFeatures:
    """An encoder of features, of a generator whose latents are the same each time."""
    clips = ClipStore(data)
    recipe = replace(TINY, memory=memory)  # type: ignore[arg-type]
    networks = Networks(recipe.plan(clips.spec, None), clips.spec).eval()
    stir(networks, scale=0.2)
    sequences = Sequences(clips, networks.device)
    dynamics = LatentDynamicsObjective(networks, sequences, WindowDraw())
    torch.manual_seed(0)
    shape = networks.tokenizer.latent_spec.shape

    def sample(frame: torch.Tensor) -> torch.Tensor:
        return frame[..., None, None].float().expand(*frame.shape, *shape).sin()

    dynamics.latents.sample = sample  # type: ignore[method-assign]
    return OutcomeFeatures(networks, sequences, dynamics)


def test_clips_of_long_episodes_are_encoded_few_at_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = feature_encoder(data, "attention")
    together = encoder.encode(imagined=False).recorded
    monkeypatch.setattr("worldsim.training.outcome_features._TOKENS", 1)
    assert [len(group) for group in encoder._groups(encoder._together())] == [1] * len(encoder.lengths)
    torch.testing.assert_close(encoder.encode(imagined=False).recorded, together)


@pytest.mark.parametrize("memory", ["lstm", "attention"])
def test_imagined_pasts_leave_the_recorded_one_at_some_arrival(data: Path, memory: str) -> None:
    """Features are those of recorded frames until the first imagined one, and differ after it."""
    encoder = feature_encoder(data, memory)
    features = encoder.encode(imagined=True)
    assert features.imagined is not None
    lone = encoder.encode(imagined=False)
    assert lone.imagined is None
    torch.testing.assert_close(lone.recorded, features.recorded)
    change = (features.imagined - features.recorded).float().abs().amax((1, 2))
    same = change < 0.03
    assert same[~features.is_imagined].all()
    assert not same[features.is_imagined].all()
    for first, length in zip(encoder.firsts, encoder.lengths, strict=True):
        dreamt = features.is_imagined[first : first + length].nonzero()[:, 0]
        assert len(dreamt) > 0
        assert dreamt[0] >= 2, "the first frame is recorded"
        assert (dreamt.diff() == 1).all()
        assert not same[first + dreamt[0]], "one imagined frame changes what follows"


def test_runs_of_imagined_frames_are_short() -> None:
    torch.manual_seed(0)
    valid = torch.arange(4000) < torch.tensor([[4000], [100]])
    own = _imagined_runs(valid)
    assert not own[:, 0].any()
    assert not own[~valid].any()
    assert 0.15 < own[0].float().mean() < 0.4
    changes = own[0].int().diff()
    lengths = (changes == -1).nonzero()[:200, 0] - (changes == 1).nonzero()[:200, 0]
    assert 2 < lengths.float().mean() < 5


def test_a_step_of_whole_episodes_has_all_arrivals_in_turn(data: Path) -> None:
    clips = ClipStore(data)
    networks = Networks(TINY.plan(clips.spec, None), clips.spec)
    sequences = Sequences(clips, networks.device)
    dynamics = LatentDynamicsObjective(networks, sequences, WindowDraw())
    objective = OutcomeObjective(networks, sequences, dynamics, batch=45)
    seen = [objective.draw_episodes(np.random.default_rng(seed)) for seed in range(60)]
    assert set(np.concatenate(seen)) == set(range(len(clips.episodes)))
    lengths = np.array([episode.length for episode in clips.episodes])
    assert all(lengths[some].sum() <= 45 + lengths.max() for some in seen)


def test_a_world_without_a_memory_gets_one_when_it_is_trained_further(data: Path, tmp_path: Path) -> None:
    clips = ClipStore(data)
    networks = Networks(replace(TINY, agent_memory=False).plan(clips.spec, None), clips.spec)
    config = WorldConfig(name="walks", source=clips.spec, networks=networks.config)
    starts = choose_starts(ClipStore(data, split="held_out"))
    save_world(tmp_path / "walks", config, networks, starts, "# walks\n")
    words = ["walks", "--data", str(data), "--recipe", "latent-dynamics", "--init", str(tmp_path / "walks")]
    words += ["--stages", "outcome", "--minutes", "0.01", "--out", str(tmp_path / "run")]
    words += ["--set", "agent_memory=true"]
    assert main(words) == 0
    made = load(tmp_path / "run/walks", device="cpu", dtype=torch.float32)
    assert made.networks.config.generator.agent_memory
    assert made.networks.generator.agent_memory is not None
    for name, weight in networks.state_dict().items():
        if name.startswith("generator.blocks"):
            torch.testing.assert_close(made.networks.state_dict()[name], weight, atol=1e-2, rtol=1e-2)


def test_the_weight_of_ends_is_taken_out_at_play(data: Path) -> None:
    clips = ClipStore(data)
    networks = Networks(TINY.plan(clips.spec, None), clips.spec)
    agent = torch.randn(5, networks.generator.width)
    learnt, played = (
        networks.heads.outcome_logits(agent, None)[1],
        networks.heads.predict_outcome(agent, None)[1],
    )
    torch.testing.assert_close(played - learnt, torch.full((5,), float(np.log(10))))


@pytest.mark.parametrize("size", [(60, 80), (96, 96), (84, 84), (64, 64), (210, 160)])
def test_any_frame_size_has_few_tokens_and_little_padding(data: Path, size: tuple[int, int]) -> None:
    config = LatentDynamicsRecipe(vector=False).plan(ClipStore(data).spec.at_size(size), None).tokenizer
    tokenizer = config.build(size, 1, None)
    frame = torch.rand(1, 3, *size)
    assert tokenizer.reconstruct(tokenizer.posterior(frame)[0]).shape == frame.shape
    assert tokenizer.latent_spec.tokens <= 30
    block = config.patch * config.pool
    padded = np.prod([-(-side // block) * block for side in size])
    assert padded <= 1.2 * size[0] * size[1]
