"""Adversarial and perceptual losses: each network learns from its own loss alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.rooms import write_walks
from tests.training.test_next_scale import TINY
from worldsim.data.clips import ClipStore
from worldsim.networks import Networks
from worldsim.training.adversarial import AdversarialLoss, AdversarialWeights, Discriminator
from worldsim.training.stage import Stage
from worldsim.training.trainer import Trainer

BOTH = AdversarialWeights(adversarial=0.5, perceptual=0.5)


def frames(count: int = 4, size: tuple[int, int] = (12, 20), seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Decoded frames with gradients, true ones, and those before."""
    made, true, before = torch.rand(3, count, 3, *size, generator=torch.manual_seed(seed)) * 2 - 1
    return made.requires_grad_(), true, before


def gradients(loss: Tensor, made: Tensor, critic: Discriminator) -> tuple[Tensor, Tensor]:
    """Gradients of a loss: those of decoded frames [B, 3, H, W], and those of the discriminator [P]."""
    found = torch.autograd.grad(loss, [made, *critic.parameters()], allow_unused=True)
    mine = torch.zeros_like(made) if found[0] is None else found[0]
    return mine, torch.cat([grad.flatten() for grad in found[1:] if grad is not None])


def test_what_teaches_the_tokenizer_teaches_the_discriminator_nothing() -> None:
    torch.manual_seed(0)
    critic = Discriminator(8)
    made, true, before = frames()
    found = [gradients(AdversarialLoss(critic, w)(made, true, before, 1.0)[0], made, critic)
             for w in (BOTH, replace(BOTH, adversarial=0.0), AdversarialWeights())]  # fmt: skip
    for other in found[1:]:
        torch.testing.assert_close(found[0][1], other[1], atol=1e-4, rtol=1e-3)
    assert found[0][0].abs().max() > 0
    assert (found[0][0] - found[1][0]).abs().max() > 0, "both losses teach the tokenizer"
    assert found[2][0].abs().max() == 0


def test_the_weights_come_slowly() -> None:
    critic = Discriminator(8)
    made, true, before = frames()
    loss = AdversarialLoss(critic, BOTH)
    none, half, whole = (gradients(loss(made, true, before, s)[0], made, critic)[0] for s in (0.0, 0.5, 1.0))
    assert none.abs().max() == 0
    torch.testing.assert_close(2 * half, whole)


def test_a_frame_that_is_the_true_one_has_no_perceptual_loss() -> None:
    made, true, before = frames()
    loss = AdversarialLoss(Discriminator(8), BOTH)
    assert loss(true.clone(), true, before, 1.0)[1]["perceptual"] == 0
    assert float(loss(made, true, before, 1.0)[1]["perceptual"]) > 0.1


def test_a_discriminator_tells_blurred_frames() -> None:
    torch.manual_seed(0)
    critic = Discriminator(8)
    loss = AdversarialLoss(critic, BOTH)
    optimizer = torch.optim.Adam(critic.parameters(), 1e-3)
    for step in range(60):
        _, true, before = frames(8, seed=step)
        made = torch.nn.functional.avg_pool2d(true, 3, 1, 1)
        total, logs = loss(made, true, before, 0.0)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert float(logs["critic"]) < 0.5, "2 is chance"
    assert critic.real_mean > critic.made_mean, "LeCAM knows both classes"


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (60, 80)])
def test_frames_of_any_size_are_judged(size: tuple[int, int]) -> None:
    made, true, before = frames(2, size)
    total, _ = AdversarialLoss(Discriminator(8), BOTH)(made, true, before, 1.0)
    assert torch.isfinite(total)


@pytest.mark.slow
def test_a_tokenizer_learns_beside_its_discriminator_and_goes_on(tmp_path: Path) -> None:
    clips = ClipStore(write_walks(tmp_path / "walks", {1: 60, 3: 40, 20: 40}, poses=False))
    recipe = replace(TINY, adversarial=0.01, perceptual=0.1)

    def planned() -> tuple[Networks, Stage]:
        networks = Networks(recipe.plan(clips.spec, None), clips.spec).train()
        return networks, recipe.stages(networks, clips, warm=False)[0]

    networks, stage = planned()
    critic = stage.companions
    assert isinstance(critic, Discriminator)
    before = [weight.clone() for weight in critic.parameters()]
    early, _ = stage.objective(np.random.default_rng(0), 0.1)
    early.backward()
    assert all(weight.grad is None for weight in critic.parameters()), "frames are decoded alone at first"
    _, logs = stage.objective(np.random.default_rng(0), 0.5)
    assert {"critic", "perceptual", "psnr"} <= set(logs)
    (tmp_path / "run").mkdir()
    trainer = Trainer(networks, [stage], tmp_path / "run", minutes=2 / 60, seed=0)
    trainer.run()
    assert any((a != b).any() for a, b in zip(before, critic.parameters(), strict=True))
    again, other = planned()
    Trainer(again, [other], tmp_path / "run", minutes=2 / 60, seed=0).resume()
    assert isinstance(other.companions, Discriminator)
    for kept, found in zip(critic.state_dict().values(), other.companions.state_dict().values(), strict=True):
        assert torch.equal(kept, found)
    plain = replace(TINY).stages(networks, clips, warm=False)[0]
    assert plain.companions is None
