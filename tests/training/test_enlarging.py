"""A trained world as one of larger frames."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.tiny import stir
from tests.training.rooms import write_walks
from worldsim.cli import main
from worldsim.data.clips import ClipStore
from worldsim.engine.world import load
from worldsim.errors import ConfigError
from worldsim.networks import Networks
from worldsim.pixels import to_model
from worldsim.tokenizer.vae import VaeTokenizer
from worldsim.training import trainer as trainer_module
from worldsim.training.enlarging import enlarged
from worldsim.training.latent_dynamics import LatentDynamicsRecipe
from worldsim.training.recipes import recipe_of

TINY = LatentDynamicsRecipe(
    channels=8, vae_width=8, vae_depth=1, width=16, head_width=16, vae_batch=4, batch=4, length=9, heads=2
)
SMALL, LARGE = (30, 40), (60, 80)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_walks(tmp_path_factory.mktemp("walks"), {1: 60, 3: 40, 20: 40}, poses=False)


def small_networks(data: Path, vector: bool = True) -> Networks:
    clips = ClipStore(data, SMALL)
    torch.manual_seed(0)
    networks = Networks(replace(TINY, vector=vector).plan(clips.spec, None), clips.spec).eval()
    stir(networks, scale=0.2)
    return networks


@pytest.mark.parametrize("vector", [True, False])
def test_a_larger_world_has_the_same_latents_and_pictures(data: Path, vector: bool) -> None:
    networks, clips = small_networks(data, vector), ClipStore(data)
    large = enlarged(networks, ClipStore(data, SMALL).spec, clips.spec).eval()
    one, other = networks.tokenizer, large.tokenizer
    assert isinstance(one, VaeTokenizer)
    assert isinstance(other, VaeTokenizer)
    assert other.size == LARGE
    assert other.latent_spec == one.latent_spec
    frames = to_model(clips.frames[:4], torch.device("cpu"))
    with torch.no_grad():
        mean, log_variance = other.posterior(frames)
        expected = one.posterior(F.avg_pool2d(frames, 2))
        torch.testing.assert_close((mean, log_variance), expected, atol=1e-5, rtol=1e-5)
        shown = F.interpolate(one.reconstruct(mean), scale_factor=2.0, mode="nearest")
        torch.testing.assert_close(other.reconstruct(mean), shown, atol=1e-5, rtol=1e-5)
    for name, weight in networks.generator.named_parameters():
        assert torch.equal(weight, dict(large.generator.named_parameters())[name])
    assert torch.equal(other.std, one.std)


def test_a_decoder_learns_alone(data: Path) -> None:
    clips = ClipStore(data)
    large = enlarged(small_networks(data), ClipStore(data, SMALL).spec, clips.spec).train()
    before = {name: part.clone() for name, part in large.state_dict().items()}
    (stage, *_) = replace(TINY, keep_latents=True).stages(large, clips, warm=True)
    weights = [weight for group in stage.param_groups for weight in group.parameters]
    optimizer, losses = torch.optim.Adam(weights, 3e-3), []
    for step in range(30):
        loss, _ = stage.objective(np.random.default_rng(step), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    moved = {name for name, part in large.state_dict().items() if not torch.equal(part, before[name])}
    parts = ("from_latent", "unpool", "decoder", "pixels_out")
    assert moved
    assert all(name.startswith(tuple(f"tokenizer.{part}" for part in parts)) for name in moved)


@pytest.mark.slow
def test_a_small_world_is_trained_further_on_larger_frames(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "matmul_peak", lambda device: 1e12)
    fields = {field.name: getattr(TINY, field.name) for field in dataclasses.fields(TINY)}
    plain = LatentDynamicsRecipe()
    sizes = [f"--set={name}={value}" for name, value in fields.items() if value != getattr(plain, name)]
    common = ["--recipe", "latent-dynamics", "--minutes", "0.02", "--threads", "1"]
    words = ["train", "toy", "--data", str(data), *common, *sizes]
    assert main([*words, "--size", "30x40", "--out", str(tmp_path / "small")]) == 0
    given = ["--init", str(tmp_path / "small" / "toy"), "--stages", "tokenizer", "--set", "keep_latents=true"]
    assert main([*words, *given, "--out", str(tmp_path / "large")]) == 0
    worlds = [load(tmp_path / name / "toy", "cpu", torch.float32) for name in ("small", "large")]
    frames = [world.engine(1).open(0, 0).step().frame for world in worlds]
    assert [frame.shape[:2] for frame in frames] == [SMALL, LARGE]


def test_frames_that_are_no_whole_multiple_are_an_error(data: Path) -> None:
    networks, spec = small_networks(data), ClipStore(data, SMALL).spec
    for size in ((15, 20), (60, 40), (45, 60)):
        with pytest.raises(ConfigError, match="of one that divides it"):
            enlarged(networks, spec, replace(spec, size=size))


def test_latents_can_only_be_kept_where_there_are_some(data: Path) -> None:
    clips = ClipStore(data, SMALL)
    with pytest.raises(ConfigError, match="--init"):
        replace(TINY, keep_latents=True).stages(small_networks(data), clips, warm=False)


def test_other_tokenizers_do_not_grow(data: Path) -> None:
    clips = ClipStore(data, SMALL)
    config = recipe_of("next-scale").plan(clips.spec, None)
    with pytest.raises(ConfigError, match="the tokenizer vae"):
        enlarged(Networks(config, clips.spec), clips.spec, ClipStore(data).spec)
