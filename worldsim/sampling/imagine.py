"""One frame of an imagined world: ``imagine_unit``. The engine, training and evaluation all call it.

Shapes: B worlds, N tokens, C latent channels, H x W frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from worldsim.kernels import library
from worldsim.kernels import noise as noise_kernel
from worldsim.model.heads import expected_reward
from worldsim.networks import Networks
from worldsim.sampling import philox
from worldsim.sampling.control_batch import ControlBatch
from worldsim.sampling.motion import CameraMotion, move_cameras
from worldsim.sampling.noise import normal_batch
from worldsim.sampling.protocol import Chances
from worldsim.sampling.uncertainty import frame_uncertainty
from worldsim.sampling.world_state import WorldState
from worldsim.tokenizer.protocol import MotionCondition, PreviousFrame, Prior

LATENT_DRAW, END_DRAW = 0, 1
"""Numbers of the draws of a frame."""


@dataclass(frozen=True, slots=True)
class Imagined:
    """A new frame."""

    frame: Tensor
    """[B, 3, H, W] in [-1, 1]."""
    reward: Tensor
    """[B]"""
    continue_prob: Tensor
    """Probability that the episode goes on [B]."""
    terminated: Tensor
    """The episode ended here, bool [B]: drawn where ends are left to chance, else more likely than not."""
    uncertainty: Tensor
    """Uncertainty of the frame, float32 [B] in [0, 1]; see ``frame_uncertainty``. 1 where not ``known``."""
    known: Tensor
    """True where the camera's pose is within the world's territory, bool [B]."""
    latent: Tensor
    """[B, N, C]"""
    prior: Prior
    """The start that the frame was decoded from."""
    surprise: Tensor | None = None
    """Minus the binary logarithm of the latent's probability, float32 [B]; None where it is not known."""


def imagine_unit(
    networks: Networks,
    state: WorldState,
    controls: ControlBatch,
    denoising_steps: int,
    decode: bool = True,
) -> Imagined:
    """Imagine the next frame of every world in ``denoising_steps`` passes and update ``state`` in place.

    Of a unit of one frame; ``sampling.clock`` knows longer ones, too.

    Without ``decode`` the frame is made only if the next one is made on top of it; otherwise it is blank.
    """
    tensors = controls.to(networks.device)
    motion = move_cameras(networks, state, tensors)
    prior = prior_of(networks, state, motion)
    known = networks.unit_tokens(prior.tokens)
    prepared = networks.generator.prepare(state.generator, known, prior.condition, denoising_steps)
    noise = _noise(networks, state, motion)
    tokens = networks.sampler.draw(networks.generator, prepared, noise, denoising_steps)
    chances = networks.chances(prepared, tokens)
    latent = networks.frame_latents(tokens)
    if decode or networks.tokenizer.uses_previous_frame:
        frame = networks.tokenizer.decode(latent, prior).clamp_(-1, 1)
    else:
        frame = state.previous.frame
    return _commit(networks, state, prepared, frame, latent, prior, motion, tensors.pose_mask, chances)


def observe_unit(networks: Networks, state: WorldState, frames: Tensor, controls: ControlBatch) -> Imagined:
    """Take a given frame [B, 3, H, W] as the next one of every world and update ``state`` in place.

    Where chances are known it has a surprise, and no doubt: it is not imagined.
    """
    tensors = controls.to(networks.device)
    motion = move_cameras(networks, state, tensors)
    prior = prior_of(networks, state, motion)
    latent = networks.tokenizer.encode(frames, prior)
    known = networks.unit_tokens(prior.tokens)
    prepared = networks.generator.prepare(state.generator, known, prior.condition, 0)
    chances = networks.chances(prepared, networks.unit_tokens(latent))
    if chances is not None:
        chances = replace(chances, doubt=torch.zeros_like(chances.doubt))
    return _commit(networks, state, prepared, frames, latent, prior, motion, tensors.pose_mask, chances)


def _noise(networks: Networks, state: WorldState, motion: CameraMotion) -> Tensor:
    """Standard normals of every world, float32 [B, N, C], scaled by how much is left to chance."""
    drawn = normals(state, LATENT_DRAW, (networks.unit.tokens, networks.tokenizer.latent_spec.channels))
    return drawn * (networks.noise_scale(motion.twist) * state.temperature)[:, None, None]


def normals(state: WorldState, draw: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normals float32 [B, *shape]; those of every ``draw`` of a frame are independent."""
    seeds, indices = state.seeds, state.indices
    if seeds.device.type != "cpu":
        return philox.normal_rows(seeds, indices, draw, shape)
    if library.accepts():
        return noise_kernel.normal_rows(seeds, indices, draw, shape)
    # NumPy is faster than as many tensors
    return torch.from_numpy(normal_batch(seeds.numpy(), indices.numpy(), draw, shape))


def prior_of(networks: Networks, state: WorldState, motion: CameraMotion) -> Prior:
    """The prior of the frame that ``motion`` leads to."""
    condition = networks.condition(motion.vector, motion.twist)
    return networks.tokenizer.prior(
        state.previous, MotionCondition(condition, motion.planar, motion.to_previous)
    )


def _commit(
    networks: Networks,
    state: WorldState,
    prepared: Any,
    frame: Tensor,
    latent: Tensor,
    prior: Prior,
    motion: CameraMotion,
    given: Tensor | None,
    chances: Chances | None,
) -> Imagined:
    """Take ``frame`` for the last one and the camera's step for done."""
    tokens = networks.unit_tokens(latent)
    agent = networks.generator.commit(state.generator, prepared, tokens, networks.uses_agent_token)
    if agent is not None and networks.uses_agent_token:
        state.agent = agent.float()
    state.previous = PreviousFrame(frame, prior.depth)
    step = torch.cat([motion.twist, networks.steering(motion.vector)], -1)[:, None]
    state.motion_history = torch.cat([state.motion_history[:, 1:], step], 1)
    state.pose_uncertainty, state.poses, state.indices = (
        motion.pose_uncertainty,
        motion.poses,
        state.indices + 1,
    )
    reward, continue_logit = networks.predict_outcome(state.agent, motion.planar)
    terminated = ended(networks, state, continue_logit)
    known = networks.in_territory(motion.poses, motion.twist, given)
    uncertainty = frame_uncertainty(
        frame,
        prior,
        motion.pose_uncertainty if networks.has_poses else None,
        networks.config.typical_contrast,
        None if chances is None else chances.doubt,
    ).masked_fill(~known, 1.0)
    return Imagined(
        frame,
        expected_reward(reward),
        continue_logit.sigmoid(),
        terminated,
        uncertainty,
        known,
        latent,
        prior,
        None if chances is None else chances.surprise,
    )


def ended(networks: Networks, state: WorldState, continue_logit: Tensor) -> Tensor:
    """Ends of episodes, bool [B], from the logits of going on [B].

    A rare event is likely in no single frame: it must be drawn. Logits are divided by the temperature, so
    that at 0 an end comes only where it is more likely than not.
    """
    if not networks.config.sample_ends:
        return continue_logit < 0
    chance = (-continue_logit / state.temperature.clamp(min=1e-6)).sigmoid()
    drawn = normals(state, END_DRAW, (1, 1))[:, 0, 0]
    return torch.special.ndtr(drawn) < chance
