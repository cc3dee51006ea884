"""Learning to dream: tokenizer, generator and heads together.

The tokenizer learns on its own unrolled past, the generator by diffusion forcing on the latents made there.

Shapes: B clips, T frames, N tokens, C latent channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.data.clips import ClipStore
from worldsim.model.generator import Prediction
from worldsim.model.heads import two_hot
from worldsim.networks import Networks
from worldsim.sampling.flow import advance, mix
from worldsim.tokenizer.protocol import Past
from worldsim.training.batch import Batch
from worldsim.training.motion_objective import doubt_loss
from worldsim.training.stage import Logs, Objective


@dataclass(frozen=True, slots=True)
class Unrolled:
    """What the tokenizer made of a clip."""

    loss: Tensor
    """What the pictures lack."""
    latents: Tensor
    """[B, T, N, C], without gradient"""
    views: Tensor
    """[B, T, N, V], without gradient"""
    squared: Tensor
    """Mean squared error per frame [T]"""


_THRIFT = 0.01
"""Weight of the latents' mean square: what tells nothing returns to 0 and not into the tails of tanh."""


def picture_loss(made: Tensor, true: Tensor) -> Tensor:
    """L1 + MSE + L1 of the image gradients (what blur loses first); frames [B, 3, H, W]."""
    error = made - true
    across, down = error.diff(dim=-1), error.diff(dim=-2)
    return error.abs().mean() + error.square().mean() + across.abs().mean() + down.abs().mean()


def unroll(
    networks: Networks, batch: Batch, rng: np.random.Generator, drop: float = 0.3, noise: float = 0.1
) -> Unrolled:
    """Encode and decode a clip frame by frame, each on top of the frames decoded before.

    In a share ``drop`` of the clips' frames the decoder gets no latent: it learns to do what can be done
    without, and the latent to hold only what cannot. ``noise`` on the rest leaves room for the errors of the
    generator.
    """
    tokenizer = networks.tokenizer
    past = tokenizer.blank(len(batch.frames), networks.device)
    losses, squares, latents, views = [], [], [], []
    for t in range(batch.frames.shape[1]):
        view = tokenizer.view(past, batch.motion(t)).detach()
        true = batch.frames[:, t]
        latent = tokenizer.encode(true, view)
        keep = torch.from_numpy(rng.random((len(true), 1, 1)) >= drop).to(latent)
        shaken = (latent + noise * _normal(rng, latent)) * keep
        made = tokenizer.decode(shaken, view)
        losses.append(picture_loss(made, true) + _THRIFT * latent.square().mean())
        squares.append((made.detach().clamp(-1, 1) - true).square().mean())
        latents.append(latent.detach())
        views.append(view.tokens)
        past = Past(made.detach().clamp(-1, 1), view.reach)
    return Unrolled(
        loss=torch.stack(losses).mean(),
        latents=torch.stack(latents, 1),
        views=torch.stack(views, 1),
        squared=torch.stack(squares),
    )


@dataclass(frozen=True, slots=True)
class Levels:
    """What each frame of a clip is asked for; all [B, T]."""

    level: Tensor
    """How clean the latent is that the generator gets, 0 noise to 1 clean."""
    size: Tensor
    """How far the denoising step goes."""
    is_context: Tensor
    """Whether the frame is clean and nothing is asked of it."""
    known: Tensor
    """Whether the generator is told the control."""
    shortcut: bool
    """Whether steps are larger than the smallest, learnt from two of half the size."""


def draw_levels(rng: np.random.Generator, like: Tensor, is_past_clean: bool = False) -> Levels:
    """Independent levels for every frame of ``like`` [B, T, ...]; one time in four for a shortcut step.

    Where ``is_past_clean``, all frames but the last are context.
    """
    frames = like.shape[:2]

    def put(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(array, np.float32)).to(like)

    shortcut = bool(rng.random() < 0.25)
    size = put(rng.choice([0.25, 0.5, 1.0] if shortcut else [0.125], frames))
    level = put(rng.random(frames))
    level = torch.floor(level / size) * size if shortcut else level
    is_context = put(rng.random(frames)) < 0.4
    if is_past_clean:
        is_context = torch.arange(frames[1], device=like.device).expand(frames) < frames[1] - 1
    level = torch.where(is_context, torch.ones_like(level), level)
    known = torch.from_numpy(rng.random(frames) >= 0.1).to(like.device)
    return Levels(level, size, is_context, known, shortcut)


def forcing_loss(
    networks: Networks, batch: Batch, unrolled: Unrolled, drawn: Levels, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Diffusion forcing with shortcut steps. Returns the loss and the agent [B, T, D].

    Errors are of what the generator predicts: of clean latents, those of frames that are nearly clean weigh
    more (Dreamer 4's ramp); of velocities all weigh the same.
    """
    clean = unrolled.latents
    noisy = mix(clean, _normal(rng, clean), drawn.level)

    def predict(latent: Tensor, level: Tensor, size: Tensor) -> Prediction:
        return networks.generator(latent, level, size, unrolled.views, batch.control, known=drawn.known)

    target = clean
    if drawn.shortcut:
        with torch.no_grad():
            two = _two_half_steps(lambda *step: predict(*step).clean, noisy, drawn)
        target = torch.where(drawn.is_context[..., None, None], clean, two)
    made = predict(noisy, drawn.level, drawn.size)
    weight = ~drawn.is_context * torch.ones_like(drawn.level)
    error = (made.clean - target).square().mean((-1, -2))
    if networks.config.generator.prediction == "velocity":
        error = error / (1 - drawn.level).clamp(min=0.02).square()
    else:
        weight = weight * (0.9 * drawn.level + 0.1)
    return (error * weight).sum() / weight.sum().clamp(min=1e-3), made.agent


def _two_half_steps(
    predict: Callable[[Tensor, Tensor, Tensor], Tensor], noisy: Tensor, drawn: Levels
) -> Tensor:
    """The clean latent [B, T, N, C] that one whole step must predict to arrive where two half steps do."""
    level, half = drawn.level, drawn.size / 2
    middle = advance(noisy, predict(noisy, level, half), level, half)
    end = advance(middle, predict(middle, level + half, half), level + half, half)
    share = ((1 - level) / drawn.size)[..., None, None]
    return noisy + (end - noisy) * share


def heads_loss(networks: Networks, batch: Batch, agent: Tensor) -> Tensor:
    """Reward, continuation and motion, read from the agent [B, T, D]; ends, which are rare, weigh ten times.

    0 with a place: there the motion stage teaches the heads, which ask the place and not the agent.
    """
    if networks.config.heads.surroundings:
        return agent.new_zeros(())
    reward, going_on = networks.heads.judge(agent.flatten(0, 1), None)
    ends = batch.ends.flatten().float()
    loss = -(two_hot(batch.rewards.flatten()) * reward.log_softmax(-1)).sum(-1).mean()
    loss = loss + F.binary_cross_entropy_with_logits(going_on, 1 - ends, weight=1 + 9 * ends)
    return loss + _motion_loss(networks, batch, agent) if networks.has_poses else loss


def _motion_loss(networks: Networks, batch: Batch, agent: Tensor) -> Tensor:
    """Smooth L1 error of each frame's twist, from the agent [B, T, D] of the frame before."""
    assert networks.heads.motion is not None
    assert batch.planar is not None
    past, scale = networks.config.heads.twists, batch.twist.new_tensor(networks.config.twist_scale)
    moves = (
        F.pad(torch.cat([batch.vector, batch.twist], -1), (0, 0, past, 0))
        .unfold(1, past + 1, 1)[:, 1:]
        .transpose(-1, -2)
    )
    moves = moves.flatten(0, 1)  # of B (T - 1) steps, each with those before it [.., past + 1, M]
    controls, twists = moves[..., :-6], moves[..., -6:]
    state, height = agent[:, :-1].float().flatten(0, 1), batch.planar[:, :-1, 2].flatten()
    step = networks.heads.move(state, None, controls, twists[:, :-1] * scale, height)
    turn = networks.heads.motion.turns(controls, twists[:, :-1] * scale)
    moved = torch.cat([step.twist[:, :3], turn], 1) / scale.clamp(min=1e-6)
    error = (moved - twists[:, -1]).masked_fill(scale == 0, 0)
    doubt = doubt_loss(step.slip, *((error * scale)[:, part].norm(dim=1) for part in (slice(3), slice(3, 6))))
    return F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1) + 0.1 * doubt


def dream_objective(
    networks: Networks, clips: ClipStore, batch: int, length: int, noise: float = 0.1
) -> Objective:
    """Tokenizer, generator and heads together: the generator learns the latents that play will need.

    The first half of the stage takes clips of three frames, the second of ``length``: short unrolls teach
    more a minute, long ones are what play needs. Without ``noise`` the past is as clean as in play that
    makes no errors.
    """

    def objective(rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        frames = min(3, length) if progress < 0.5 else length
        data = Batch.of(clips.sample(batch, frames, rng, ends=0.1), networks)
        unrolled = unroll(networks, data, rng, noise=noise)
        drawn = draw_levels(rng, unrolled.latents, is_past_clean=noise == 0)
        forcing, agent = forcing_loss(networks, data, unrolled, drawn, rng)
        heads = heads_loss(networks, data, agent)
        psnr = -10 * torch.log10(unrolled.squared / 4)
        logs = {
            "picture": unrolled.loss.item(),
            "forcing": forcing.item(),
            "heads": heads.item(),
            "psnr_first": psnr[0].item(),
            "psnr_last": psnr[-1].item(),
        }
        return unrolled.loss + forcing + 0.1 * heads, logs

    return objective


def _normal(rng: np.random.Generator, like: Tensor) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(like.shape), np.float32)).to(like)
