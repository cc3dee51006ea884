"""Objective of the world model stage: tokenizer, generator and heads together.

The tokenizer is trained on its own unrolled past, the generator by its sampler's loss on its latents.

Shapes: B clips, T frames, N tokens, C latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.data.clips import ClipStore
from worldsim.model.heads import two_hot
from worldsim.networks import Networks
from worldsim.sampling.protocol import LatentClip
from worldsim.tokenizer.protocol import PreviousFrame
from worldsim.training.batch import TrainingBatch
from worldsim.training.losses import LATENT_L2, reconstruction_loss, warp_loss
from worldsim.training.motion_loss import motion_loss
from worldsim.training.stage import Logs, Objective

WARP_WEIGHT = 0.2
"""Weight of the photometric loss of a learnt warp; the reconstruction trains it, too."""


@dataclass(frozen=True, slots=True)
class Unrolled:
    """A clip, encoded and decoded frame by frame."""

    loss: Tensor
    """Reconstruction loss."""
    latents: Tensor
    """[B, T, N, C], without gradient"""
    prior_tokens: Tensor
    """[B, T, N, V], without gradient"""
    squared: Tensor
    """Mean squared error per frame [T]"""


def unroll(
    networks: Networks, batch: TrainingBatch, rng: np.random.Generator, drop: float = 0.3, noise: float = 0.1
) -> Unrolled:
    """Encode and decode a clip frame by frame, each on top of the frames decoded before.

    In a share ``drop`` of the frames the decoder gets no latent, so that the latent holds only what the prior
    does not. ``noise`` on the rest makes the decoder robust to errors of the generator.
    """
    tokenizer = networks.tokenizer
    previous = base = tokenizer.blank(len(batch.frames), networks.device)
    losses, squares, latents, tokens, back = [], [], [], [], None
    for t in range(batch.frames.shape[1]):
        prior = tokenizer.prior(previous, batch.motion(t))
        # The generator's prior comes from the frame before the unit, the last one known at inference.
        first = t % networks.unit.frames == 0
        base, motion = previous if first else base, batch.motion(t)
        back = (
            motion.to_previous
            if first or back is None or motion.to_previous is None
            else back @ motion.to_previous
        )
        known = prior if first else tokenizer.prior(base, replace(motion, to_previous=back)).detach()
        true = batch.frames[:, t]
        latent = tokenizer.encode(true, prior)
        keep = torch.from_numpy(rng.random((len(true), 1, 1)) >= drop).to(latent)
        noised = (latent + noise * _normal(rng, latent)) * keep
        made = tokenizer.decode(noised, prior)
        losses.append(reconstruction_loss(made, true) + LATENT_L2 * latent.square().mean())
        if prior.warped_rgb.requires_grad and t > 0:  # a learnt warp; before the first frame nothing is seen
            losses[-1] = losses[-1] + WARP_WEIGHT * warp_loss(prior.warped_rgb, prior.warp_confidence, true)
        squares.append((made.detach().clamp(-1, 1) - true).square().mean())
        latents.append(latent.detach())
        tokens.append(known.tokens.detach())
        previous = PreviousFrame(made.detach().clamp(-1, 1), prior.depth)
    return Unrolled(
        loss=torch.stack(losses).mean(),
        latents=torch.stack(latents, 1),
        prior_tokens=torch.stack(tokens, 1),
        squared=torch.stack(squares),
    )


def group_by_unit(frames: Tensor, length: int) -> Tensor:
    """Group tensors of frames [B, T, ..., C] by units of ``length`` frames.

    Tokens [B, T, N, C] become [B, T / F, F N, C]; a frame's single vector [B, T, C] becomes [B, T / F, F C].
    """
    return frames.unflatten(1, (-1, length)).flatten(2, 3)


def heads_loss(networks: Networks, batch: TrainingBatch, agent: Tensor) -> Tensor:
    """Return the loss of reward and continuation from the agent [B, T / F, D] and the scene, and of motion.

    Ends, which are rare, have ten times the weight. With a static scene the motion stage trains motion, and
    also reward and continuation if they do not use the agent token.
    """
    if not networks.uses_agent_token:
        return agent.new_zeros(())
    planar = None if batch.planar is None else batch.planar.flatten(0, 1)
    frames = networks.unit.frames
    reward, continue_prob = networks.predict_outcome(agent.repeat_interleave(frames, 1).flatten(0, 1), planar)
    ends = batch.ends.flatten().float()
    loss = -(two_hot(batch.rewards.flatten()) * reward.log_softmax(-1)).sum(-1).mean()
    loss = loss + F.binary_cross_entropy_with_logits(continue_prob, 1 - ends, weight=1 + 9 * ends)
    moves = networks.has_poses and networks.scene is None
    # A frame's camera motion is predicted from the previous unit: its own is not there yet.
    before = F.pad(agent, (0, 0, 1, 0)).repeat_interleave(frames, 1)[:, 1 : batch.frames.shape[1] + 1]
    if not moves:
        return loss
    assert batch.planar is not None
    return loss + motion_loss(networks, batch.vector, batch.twist, batch.planar, before)


def world_model_objective(
    networks: Networks, clips: ClipStore, batch: int, length: int, noise: float = 0.1
) -> Objective:
    """Return the objective of tokenizer, generator and heads.

    The first half of the stage takes clips of three frames, the second of ``length``: short unrolls train
    faster, long ones match inference. Without ``noise`` the past is clean (teacher forcing).
    """

    def objective(rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        unit = networks.unit.frames
        frames = min(3 * unit, length) if progress < 0.5 else length
        frames = max(frames // unit, 1) * unit
        data = TrainingBatch.of(clips.sample(batch, frames, rng, ends=0.1), networks, rng)
        unrolled = unroll(networks, data, rng, noise=noise)
        parts = (unrolled.latents, unrolled.prior_tokens, data.condition)
        latents, tokens, condition = (group_by_unit(part, unit) for part in parts)
        latents, tokens = networks.unit_tokens(latents), networks.unit_tokens(tokens)
        clip = LatentClip(latents, tokens, condition, is_past_clean=noise == 0)
        drawn = networks.sampler.loss(networks.generator, clip, rng)
        heads = heads_loss(networks, data, drawn.agent)
        psnr = -10 * torch.log10(unrolled.squared / 4)
        logs = {
            "reconstruction": unrolled.loss.item(),
            **drawn.logs,
            "heads": heads.item(),
            "psnr_first": psnr[0].item(),
            "psnr_last": psnr[-1].item(),
        }
        return unrolled.loss + drawn.loss + 0.1 * heads, logs

    return objective


def _normal(rng: np.random.Generator, like: Tensor) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(like.shape), np.float32)).to(like)
