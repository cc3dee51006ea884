"""Recurrent baselines: they learn, are saved, and rollout beside a world."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluation.conftest import RoomCollector
from worldsim.data.clips import Clip
from worldsim.engine.world import World
from worldsim.envs.sources.doom import DOOM_KEYS
from worldsim.errors import CheckpointError, ConfigError
from worldsim.evaluation.baselines import run
from worldsim.evaluation.baselines.baseline import Baseline
from worldsim.evaluation.baselines.network import KINDS, BaselineConfig, BaselineNetwork, Kind
from worldsim.evaluation.idm.model import InverseDynamicsModel
from worldsim.evaluation.suite import EvalConfig, evaluate

CONTROL = len(DOOM_KEYS) + 1


def network(kind: Kind, size: tuple[int, int] = (10, 20)) -> BaselineNetwork:
    torch.manual_seed(0)
    return BaselineNetwork(BaselineConfig(kind=kind, size=size, control=CONTROL, hidden=8))


class Slides:
    """Clips of a bar that goes right while the first key is held."""

    def sample(self, batch: int, length: int, rng: np.random.Generator) -> Clip:
        controls = np.zeros((batch, length, CONTROL), np.float32)
        controls[..., 0] = rng.random((batch, 1)) < 0.5
        at = (rng.integers(0, 20, (batch, 1)) + controls[..., 0].cumsum(1)) % 20
        bar = (np.arange(20) == at[..., None]) * 200
        frames = np.broadcast_to(bar[:, :, None, :, None], (batch, length, 10, 20, 3)).astype(np.uint8)
        flat = np.zeros((batch, length))
        return Clip(frames, controls, None, flat, flat.astype(bool))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_is_read_and_then_its_own(kind: Kind) -> None:
    net = network(kind)
    frames = torch.rand(2, 6, 3, 10, 20) * 2 - 1
    controls = torch.rand(2, 6, CONTROL)
    shown = net(frames, controls, 3)
    assert shown.shape == (2, 5, 3, 10, 20)
    other = frames.clone()
    other[:, 3:] = 0
    assert torch.equal(net(other, controls, 3), shown), "frames that are not given are not read"
    other[:, 2] = 0
    assert not torch.allclose(net(other, controls, 3)[:, 2:], shown[:, 2:])
    mask = torch.arange(6).expand(2, -1) < 3
    assert torch.allclose(net(frames, controls, mask), shown, atol=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(kind: Kind) -> None:
    clips, config = Slides(), network(kind).config

    def error(baseline: Baseline) -> float:
        clip = clips.sample(16, 8, np.random.default_rng(9))
        shown = baseline.rollout(clip.frames, clip.controls, 4)
        return float(np.abs(shown.astype(float) - clip.frames[:, 4:]).mean())

    before = error(Baseline(network(kind), 0))
    learnt = run.train(clips, config, 1, clock=itertools.count().__next__)  # type: ignore[arg-type]
    assert error(learnt) < 0.95 * before


def test_one_that_is_ended_early_keeps_what_it_learnt_and_goes_on(tmp_path: Path) -> None:
    clips, config = Slides(), network("convlstm").config
    told: list[float] = []

    def end(seconds: float, text: str) -> None:
        told.append(seconds)
        if len(told) == 3:
            raise KeyboardInterrupt

    clock = itertools.count(step=6).__next__
    early = run.train(clips, config, 1, clock=clock, on_progress=end)  # type: ignore[arg-type]
    assert told == [6, 12, 18]
    assert early.minutes == pytest.approx(0.5)  # the clock was asked six times
    early.save(tmp_path / "early.safetensors")
    begun = Baseline.load(tmp_path / "early.safetensors")
    weights = {name: weight.clone() for name, weight in begun.network.state_dict().items()}
    later = run.train(clips, config, 0.2, clock=clock, begun=begun)  # type: ignore[arg-type]
    assert later.minutes == pytest.approx(0.7)
    assert all(torch.isfinite(weight).all() for weight in later.network.state_dict().values())
    assert any((weights[name] != weight).any() for name, weight in later.network.state_dict().items())


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    baseline = Baseline(network("predrnn"), 2.0)
    baseline.save(tmp_path / "runs" / "predrnn.safetensors")
    again = Baseline.load(tmp_path / "runs" / "predrnn.safetensors")
    assert (again.name, again.minutes) == ("predrnn", 2.0)
    frames = np.random.default_rng(0).integers(0, 256, (1, 4, 10, 20, 3), dtype=np.uint8)
    controls = np.zeros((1, 7, CONTROL), np.float32)
    rollouts = [it.rollout(frames, controls, 4) for it in (baseline, again)]
    assert rollouts[0].shape == (1, 3, 10, 20, 3)
    assert np.abs(rollouts[0].astype(int) - rollouts[1]).max() <= 2, "float16 on disk"
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="worldsim baseline"):
        Baseline.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_frames_of_any_size_are_foretold(kind: Kind) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 4, 11, 23, 3), dtype=np.uint8)
    baseline = Baseline(network(kind, (11, 23)), 1.0)
    assert baseline.rollout(frames, np.zeros((1, 7, CONTROL), np.float32), 4).shape == (1, 3, 11, 23, 3)


def test_a_baseline_of_another_size_is_refused_before_the_work(world: World) -> None:
    rival = Baseline(network("convlstm", (10, 20)), 1.0)
    config = EvalConfig(trajectories=2, teacher_forced_frames=4, score_every=2, horizon=16)
    collector = RoomCollector(world.spec)
    with pytest.raises(ConfigError, match="frame size and controls"):
        evaluate(world, collector, config, baselines=(rival,))


@pytest.mark.slow
def test_a_world_is_held_against_them(world: World, idm: InverseDynamicsModel) -> None:
    collector = RoomCollector(world.spec)
    rivals = tuple(Baseline(network(kind, (60, 80)), 1.0) for kind in KINDS)
    config = EvalConfig(trajectories=2, teacher_forced_frames=4, score_every=2, horizon=64, batch=2)
    metrics = evaluate(world, collector, config, idm=idm, baselines=rivals, denoising_steps=1).metrics
    for kind in KINDS:
        for horizon in (16, 64):
            theirs, over = (
                metrics[f"{kind}_rollout{horizon}_psnr"],
                metrics[f"rollout{horizon}_psnr_gain_over_{kind}"],
            )
            assert over.value == pytest.approx(metrics[f"rollout{horizon}_psnr"].value - theirs.value)
        assert metrics[f"{kind}_frechet"].upper_reference == pytest.approx(metrics["frechet"].value)
