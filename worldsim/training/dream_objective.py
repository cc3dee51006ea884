"""Learning to dream: the tokenizer on its own unrolled past, the generator by diffusion forcing on its latents, the heads.

Shapes: B clips, T frames, N tokens, C latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim import camera
from worldsim.data.clips import Clip, ClipStore
from worldsim.model.heads import two_hot
from worldsim.networks import Networks
from worldsim.pixels import to_model
from worldsim.sampling.flow import advance, mix
from worldsim.tokenizer.protocol import Motion, Past, View
from worldsim.training.motion_objective import twists_of
from worldsim.training.stage import Logs, Objective


@dataclass(frozen=True, slots=True)
class Batch:
    """A clip on the device."""

    frames: Tensor
    """[B, T, 3, H, W] in [-1, 1]"""
    control: Tensor
    """Keys, look and twist [B, T, M]"""
    planar: Tensor | None
    """[B, T, 4]"""
    back: Tensor | None
    """[B, T, 4, 4]"""
    rewards: Tensor
    ends: Tensor

    @staticmethod
    def of(clip: Clip, networks: Networks) -> Batch:
        device = networks.device
        put = lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device)  # noqa: E731
        twists = np.zeros((*clip.controls.shape[:2], 6), np.float32)
        planar = back = None
        if clip.poses is not None and networks.has_poses:
            twists = twists_of(networks, clip.poses)
            planar = put(camera.planar(clip.poses)).float()
            before = np.concatenate([clip.poses[:, :1], clip.poses[:, :-1]], 1)
            back = put(camera.relative(before, clip.poses)).float()
        control = put(np.concatenate([clip.controls, twists], -1))
        return Batch(to_model(clip.frames, device), control, planar, back, put(clip.rewards), put(clip.ends))

    def motion(self, t: int) -> Motion:
        at = lambda value: None if value is None else value[:, t]  # noqa: E731
        return Motion(self.control[:, t], at(self.planar), at(self.back))


@dataclass(frozen=True, slots=True)
class Unrolled:
    """What the tokenizer made of a clip."""

    loss: Tensor
    latents: Tensor
    """[B, T, N, C], without gradient"""
    views: Tensor
    """[B, T, N, V], without gradient"""
    squared: Tensor
    """Mean squared error per frame [T]"""


def picture_loss(made: Tensor, true: Tensor) -> Tensor:
    """L1 + MSE + L1 of the image gradients (what blur loses first); frames [B, 3, H, W]."""
    error = made - true
    across, down = error.diff(dim=-1), error.diff(dim=-2)
    return error.abs().mean() + error.square().mean() + across.abs().mean() + down.abs().mean()


def unroll(networks: Networks, batch: Batch, rng: np.random.Generator, drop: float = 0.3, noise: float = 0.1) -> Unrolled:
    """Encode and decode a clip frame by frame, each on top of the frames decoded before.

    In a share ``drop`` of the clips' frames the decoder gets no latent: it learns to do what can be done without, and the
    latent to hold only what cannot. ``noise`` on the rest leaves room for the generator's errors.
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
        losses.append(picture_loss(made, true))
        squares.append((made.detach().clamp(-1, 1) - true).square().mean())
        latents.append(latent.detach())
        views.append(view.tokens)
        past = Past(made.detach().clamp(-1, 1), view.reach)
    return Unrolled(torch.stack(losses).mean(), torch.stack(latents, 1), torch.stack(views, 1), torch.stack(squares))


def forcing_loss(networks: Networks, batch: Batch, unrolled: Unrolled, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Diffusion forcing with x-prediction; one time in four a shortcut step instead. Returns the loss and the agent [B, T, D]."""
    clean = unrolled.latents
    frames = clean.shape[:2]
    put = lambda array: torch.from_numpy(np.asarray(array, np.float32)).to(clean)  # noqa: E731
    shortcut = rng.random() < 0.25
    size = put(rng.choice([0.25, 0.5, 1.0] if shortcut else [0.125], frames))
    level = torch.floor(put(rng.random(frames)) / size) * size if shortcut else put(rng.random(frames))
    is_context = put(rng.random(frames)) < 0.4
    level = torch.where(is_context, torch.ones_like(level), level)
    known = torch.from_numpy(rng.random(frames) >= 0.1).to(clean.device)
    noisy = mix(clean, _normal(rng, clean), level)

    def predict(latent: Tensor, level: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        out = networks.generator(latent, level, size, unrolled.views, batch.control, known=known)
        return out.clean, out.agent

    target = clean
    if shortcut:
        with torch.no_grad():
            half = size / 2
            middle = advance(noisy, predict(noisy, level, half)[0], level, half)
            end = advance(middle, predict(middle, level + half, half)[0], level + half, half)
            share = ((1 - level) / size)[..., None, None]
            target = torch.where(is_context[..., None, None], clean, noisy + (end - noisy) * share)
    made, agent = predict(noisy, level, size)
    weight = (0.9 * level + 0.1) * (~is_context)
    error = (made - target).square().mean((-1, -2))
    return (error * weight).sum() / weight.sum().clamp(min=1e-3), agent


def heads_loss(networks: Networks, batch: Batch, agent: Tensor) -> Tensor:
    """Reward and continuation; ends, which are rare, weigh ten times. Without a place the motion head learns here as well."""
    planar = batch.planar
    around = None
    if planar is not None:
        around = networks.tokenizer.surroundings(planar.flatten(0, 1))
    flat = agent.flatten(0, 1)
    reward, going_on = networks.heads.judge(flat, None if around is None else around.detach())
    ends = batch.ends.flatten().float()
    loss = -(two_hot(batch.rewards.flatten()) * reward.log_softmax(-1)).sum(-1).mean()
    loss = loss + F.binary_cross_entropy_with_logits(going_on, 1 - ends, weight=1 + 9 * ends)
    if networks.has_poses and around is None:
        past = networks.config.heads.twists
        twists = batch.control[..., -6:]
        history = F.pad(twists, (0, 0, past, 0)).unfold(1, past, 1)[:, 1:-1].transpose(-1, -2)
        moved = networks.heads.move(agent[:, :-1].float(), None, batch.control[:, 1:, :-6], history)
        loss = loss + F.smooth_l1_loss(moved, twists[:, 1:], beta=0.1)
    return loss


def dream_objective(networks: Networks, clips: ClipStore, batch: int, length: int) -> Objective:
    """Tokenizer, generator and heads together: the latents that the generator learns are those that play will need."""

    def objective(rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        data = Batch.of(clips.sample(batch, length, rng, ends=0.1), networks)
        unrolled = unroll(networks, data, rng)
        forcing, agent = forcing_loss(networks, data, unrolled, rng)
        heads = heads_loss(networks, data, agent)
        psnr = -10 * torch.log10(unrolled.squared / 4)
        return unrolled.loss + forcing + 0.1 * heads, {
            "picture": unrolled.loss.item(), "forcing": forcing.item(), "heads": heads.item(),
            "psnr_first": psnr[0].item(), "psnr_last": psnr[-1].item(),
        }

    return objective


def _normal(rng: np.random.Generator, like: Tensor) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(like.shape), np.float32)).to(like)


__all__ = ["Batch", "View", "dream_objective", "forcing_loss", "heads_loss", "picture_loss", "unroll"]
