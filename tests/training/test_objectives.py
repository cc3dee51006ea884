"""Each objective: a finite loss, gradients where they belong and nowhere else."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import stir
from worldsim import camera
from worldsim.data.clips import ClipStore
from worldsim.networks import Networks
from worldsim.sampling.flow import sample_flow_times
from worldsim.sampling.uncertainty import frame_contrast
from worldsim.tokenizer.protocol import PreviousFrame
from worldsim.training.batch import TrainingBatch
from worldsim.training.losses import reconstruction_loss
from worldsim.training.motion_objective import integrate
from worldsim.training.recipes import Recipe
from worldsim.training.stage import Stage
from worldsim.training.world_model_objective import unroll

ENCODER = (
    "block_to_latent", "residual_in", "pixels_in", "encoder", "downsample", "token_encoder", "to_latent",
)  # fmt: skip
"""Parts of a tokenizer that only encode."""


def build(recipe: Recipe, clips: ClipStore, seed: int = 0) -> Networks:
    torch.manual_seed(seed)
    networks = Networks(recipe.plan(clips.spec, clips.poses), clips.spec)
    stir(networks, scale=0.05)
    return networks


def planned(networks: Networks, recipe: Recipe, clips: ClipStore) -> dict[str, Stage]:
    return {stage.name: stage for stage in recipe.stages(networks, clips, warm=False)}


def gradients(networks: Networks, stage: Stage, draws: int = 4) -> set[str]:
    """Names of the weights that get a gradient from some of ``draws`` losses."""
    networks.requires_grad_(True)
    networks.zero_grad(set_to_none=True)
    if stage.on_start is not None:
        stage.on_start()
    for seed in range(draws):
        loss, logs = stage.objective(np.random.default_rng(seed), 0.5)
        assert math.isfinite(loss.item())
        assert all(math.isfinite(value) for value in logs.values())
        loss.backward()
    reached = {name: w.grad for name, w in networks.named_parameters() if w.grad is not None}
    assert all(grad.isfinite().all() for grad in reached.values())
    return {name for name, grad in reached.items() if grad.any()}


def names_of(networks: Networks, stage: Stage) -> set[str]:
    """Names of the weights that a stage trains."""
    names = {id(weight): name for name, weight in networks.named_parameters()}
    return {names[id(weight)] for group in stage.param_groups for weight in group.parameters}


def decoders(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[1] not in ENCODER}


@pytest.mark.slow
def test_with_a_scene_each_stage_teaches_its_own(recipe: Recipe, clips: ClipStore) -> None:
    networks = build(recipe, clips)
    stages = planned(networks, recipe, clips)
    assert list(stages) == ["scene", "motion", "world_model", "self_rollout"]
    everything = {name for name, _ in networks.named_parameters()}
    taught = {name: names_of(networks, stage) for name, stage in stages.items()}
    assert taught["scene"] == {name for name in everything if name.startswith("tokenizer.scene.")}
    assert taught["motion"] == {name for name in everything if name.startswith("heads.")}
    assert taught["world_model"] == everything - taught["scene"] - taught["motion"]
    assert taught["self_rollout"] < taught["world_model"]
    for name, draws in (("scene", 1), ("motion", 1), ("world_model", 4)):
        assert gradients(networks, stages[name], draws) == taught[name], name
    assert gradients(networks, stages["self_rollout"], draws=1) == decoders(taught["self_rollout"])


@pytest.mark.parametrize("tokenizer", ["history", "frame"])
@pytest.mark.parametrize("poses", [True, False])
def test_without_a_scene_the_world_model_stage_teaches_motion_too(
    recipe: Recipe,
    moving_data: Path,
    poseless_data: Path,
    tokenizer: str,
    poses: bool,
) -> None:
    recipe = dataclasses.replace(recipe, tokenizer=tokenizer)
    clips = ClipStore(moving_data if poses else poseless_data)
    networks = build(recipe, clips)
    stages = planned(networks, recipe, clips)
    assert list(stages) == ["world_model", "self_rollout"]
    everything = {name for name, _ in networks.named_parameters()}
    assert any(name.startswith("heads.motion.") for name in everything) == poses
    unseen = {"generator.prior_in.weight"} if tokenizer == "frame" else set()  # its priors are blank
    assert gradients(networks, stages["world_model"]) == everything - unseen
    rollout = stages["self_rollout"]
    assert gradients(networks, rollout, draws=1) == decoders(names_of(networks, rollout))


def test_at_last_the_motion_stage_teaches_uncertainty_alone(recipe: Recipe, clips: ClipStore) -> None:
    networks = build(recipe, clips)
    stage = planned(networks, recipe, clips)["motion"]
    before = {name: weight.clone() for name, weight in networks.named_parameters()}
    optimizer = torch.optim.AdamW([w for group in stage.param_groups for w in group.parameters], lr=1e-2)
    for step in range(2):
        loss, logs = stage.objective(np.random.default_rng(step), 0.9)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    assert set(logs) == {"metres", "pose_uncertainty", "rollout_length"}
    changed = {name for name, weight in networks.named_parameters() if (weight != before[name]).any()}
    assert changed == {name for name in before if name.startswith("heads.motion.error.")}


def test_a_warm_start_keeps_the_scene(recipe: Recipe, clips: ClipStore) -> None:
    networks = build(recipe, clips)
    assert all(stage.on_start is None for stage in recipe.stages(networks, clips, warm=True))
    assert planned(networks, recipe, clips)["scene"].on_start is not None


@pytest.mark.slow
def test_the_same_chance_gives_the_same_loss(recipe: Recipe, clips: ClipStore) -> None:
    networks = build(recipe, clips)
    for stage in planned(networks, recipe, clips).values():
        losses = [stage.objective(np.random.default_rng(seed), 0.5)[0].item() for seed in (1, 1, 2)]
        assert losses[0] == losses[1] != losses[2]


def losses_of(networks: Networks, stage: Stage) -> list[float]:
    """Losses of twelve steps, taken as the trainer takes them."""
    optimizer = torch.optim.Adam([w for group in stage.param_groups for w in group.parameters], lr=1e-2)
    losses = []
    for step in range(12):
        optimizer.zero_grad()
        loss, _ = stage.objective(np.random.default_rng(step), 0.1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("name", ["motion", "world_model"])
def test_a_few_steps_descend(recipe: Recipe, clips: ClipStore, name: str) -> None:
    networks = build(recipe, clips)
    losses = losses_of(networks, planned(networks, recipe, clips)[name])
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_a_batch_is_its_clip(recipe: Recipe, clips: ClipStore) -> None:
    networks = build(recipe, clips)
    clip = clips.sample(2, 5, np.random.default_rng(0))
    batch = TrainingBatch.of(clip, networks)
    assert batch.frames.shape == (2, 5, 3, 60, 80)
    np.testing.assert_array_equal(batch.condition[..., :-6], clip.controls)
    assert not batch.condition[:, 0, -6:].any()
    assert batch.planar is not None
    assert batch.to_previous is not None
    motion = batch.motion(3)
    assert clip.poses is not None
    back = np.linalg.inv(clip.poses[:, 2]) @ clip.poses[:, 3]
    np.testing.assert_allclose(motion.to_previous, back, atol=1e-5)
    torch.testing.assert_close(motion.condition, batch.condition[:, 3])


def test_unrolling_gives_latents_and_views_without_gradient(recipe: Recipe, clips: ClipStore) -> None:
    networks = build(recipe, clips)
    batch = TrainingBatch.of(clips.sample(2, 4, np.random.default_rng(0)), networks)
    unrolled = unroll(networks, batch, np.random.default_rng(0))
    assert unrolled.latents.shape == (2, 4, *networks.tokenizer.latent_spec.shape)
    assert unrolled.prior_tokens.shape == (2, 4, networks.unit.tokens, networks.tokenizer.prior_channels)
    assert unrolled.squared.shape == (4,)
    assert unrolled.loss.requires_grad
    assert not unrolled.latents.requires_grad
    assert not unrolled.prior_tokens.requires_grad


def test_levels_are_those_of_the_step_s_grid() -> None:
    like, kinds = torch.zeros(64, 8, 3), set()
    for seed in range(8):
        drawn = sample_flow_times(np.random.default_rng(seed), like)
        kinds.add(drawn.shortcut)
        assert drawn.t.shape == drawn.dt.shape == drawn.control_mask.shape == (64, 8)
        assert (drawn.t[drawn.is_context] == 1).all()
        t, size = drawn.t[~drawn.is_context], drawn.dt[~drawn.is_context]
        assert (t >= 0).all()
        assert (t + size * drawn.shortcut <= 1).all()
        assert 0.3 < drawn.is_context.float().mean() < 0.5
        assert 0.8 < drawn.control_mask.float().mean() < 1
        if drawn.shortcut:
            assert set(drawn.dt.unique().tolist()) <= {0.25, 0.5, 1.0}
            assert torch.equal((t / size).round(), t / size)
    assert kinds == {True, False}


def test_noisier_times_keep_context_and_steps() -> None:
    for seed in range(8):
        drawn = sample_flow_times(np.random.default_rng(seed), torch.zeros(3, 5, 2))
        noisier = drawn.noisier()
        assert (noisier.t[drawn.is_context] == 1).all()
        assert torch.equal(noisier.dt, drawn.dt)
        assert torch.equal(noisier.t, drawn.t if drawn.shortcut else drawn.t**2)


def test_with_a_clean_past_only_the_last_frame_is_asked_for() -> None:
    for seed in range(4):
        drawn = sample_flow_times(np.random.default_rng(seed), torch.zeros(3, 5, 2), is_past_clean=True)
        assert drawn.is_context[:, :-1].all()
        assert not drawn.is_context[:, -1].any()
        assert (drawn.t[:, :-1] == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"prediction": "velocity"}, {"conditioning": "pose"}, {"context_noise": 0.0}]
)
def test_a_changed_recipe_still_descends(recipe: Recipe, clips: ClipStore, change: dict[str, object]) -> None:
    recipe = dataclasses.replace(recipe, **change)  # type: ignore[arg-type]
    networks = build(recipe, clips)
    losses = losses_of(networks, planned(networks, recipe, clips)["world_model"])
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_a_world_that_hears_no_keys_is_conditioned_on_motion_alone(recipe: Recipe, clips: ClipStore) -> None:
    networks = build(dataclasses.replace(recipe, conditioning="pose"), clips)
    batch = TrainingBatch.of(clips.sample(2, 4, np.random.default_rng(0)), networks)
    assert batch.vector.any()
    assert not batch.condition[..., :-6].any()
    torch.testing.assert_close(batch.condition[..., -6:], batch.twist)


def test_a_world_conditioned_on_keys_alone_has_no_poses(recipe: Recipe, clips: ClipStore) -> None:
    networks = build(dataclasses.replace(recipe, conditioning="keys"), clips)
    assert not networks.has_poses
    batch = TrainingBatch.of(clips.sample(2, 4, np.random.default_rng(0)), networks)
    assert batch.planar is None
    assert not batch.twist.any()


def test_the_reconstruction_loss_asks_for_sharp_edges() -> None:
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 1
    blurred = edge.clone()
    blurred[..., 3], blurred[..., 4] = 0.3, 0.7
    assert reconstruction_loss(edge, edge) == 0
    for line in (edge[..., 4:5], edge[..., :1, :]):  # one pixel wide or high
        assert 0 < reconstruction_loss(line, torch.zeros_like(line)) < float("inf")
        assert frame_contrast(line).tolist() == [0.0] * len(line)
    flat = edge + (blurred - edge).abs().mean()  # as wrong on average, but as sharp
    assert reconstruction_loss(blurred, edge) > reconstruction_loss(flat, edge) > 0


def test_integration_is_the_camera_s_own_motion() -> None:
    rng = np.random.default_rng(0)
    planar = rng.uniform(-2, 2, (20, 4))
    twists = np.zeros((20, 6))
    twists[:, [0, 2, 4]] = rng.uniform(-1.5, 1.5, (20, 3))
    true = camera.planar(camera.from_planar(*planar.T) @ camera.exp(twists))
    walked = integrate(torch.from_numpy(planar), torch.from_numpy(twists)).numpy()
    np.testing.assert_allclose(walked[:, :3], true[:, :3], atol=1e-9)
    np.testing.assert_allclose(np.exp(1j * walked[:, 3]), np.exp(1j * true[:, 3]), atol=1e-9)


@pytest.mark.slow
def test_the_world_model_stage_teaches_the_flow_prior(recipe: Recipe, poseless_data: Path) -> None:
    clips = ClipStore(poseless_data)
    networks = build(recipe, clips)
    assert networks.config.tokenizer.flow_prior
    stage = planned(networks, recipe, clips)["world_model"]
    assert isinstance(networks.tokenizer, torch.nn.Module)
    weights = {id(weight) for group in stage.param_groups for weight in group.parameters}
    flow = [
        weight for name, weight in networks.tokenizer.named_parameters() if name.startswith("flow_prior.")
    ]
    assert flow
    assert {id(weight) for weight in flow} <= weights
    optimizer, rng = torch.optim.Adam(networks.tokenizer.parameters(), 3e-3), np.random.default_rng(0)
    for _ in range(100):
        batch = TrainingBatch.of(clips.sample(2, 3, rng), networks)
        optimizer.zero_grad()
        unroll(networks, batch, rng).loss.backward()
        optimizer.step()
    batch = TrainingBatch.of(clips.sample(8, 2, rng), networks)
    before, after = batch.frames[:, 0], batch.frames[:, 1]
    with torch.no_grad():
        prior = networks.tokenizer.prior(
            PreviousFrame(before, torch.zeros_like(before[:, 0])), batch.motion(1)
        )
    assert (prior.warped_rgb - after).abs().mean() < 0.8 * (before - after).abs().mean()
