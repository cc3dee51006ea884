"""Two clocks: the model's ticks in units, the player's in frames.

A unit of one frame answers each control at once. A unit of several frames, F, is imagined under the controls
that are known ahead, or under the one that is held; its frames lie in ``WorldState.pending`` and are shown
one by one. Where a control is another than was foreseen, what was not shown is discarded: a new unit begins.
A unit is committed to the generator when the next one begins, and only what was shown: the last frame shown
replaces those that were not.

Shapes: B worlds, F frames of a unit, N tokens of a unit, C latent channels, M control vector.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.model.heads import expected_reward
from worldsim.networks import Networks
from worldsim.sampling import se3
from worldsim.sampling.control_batch import ControlBatch, ControlTensors
from worldsim.sampling.imagine import (
    LATENT_DRAW,
    Imagined,
    ended,
    imagine_unit,
    normals,
    observe_unit,
    prior_of,
)
from worldsim.sampling.motion import CameraMotion, move_cameras
from worldsim.sampling.uncertainty import frame_uncertainty
from worldsim.sampling.upload import upload
from worldsim.sampling.world_state import WorldState, empty_state
from worldsim.tokenizer.protocol import MotionCondition, PreviousFrame, Prior

_EMITTED = ("latent", "frame", "reward", "continue_prob", "terminated", "uncertainty", "known")


def init_state(
    networks: Networks, frames: Tensor, poses: np.ndarray, seeds: np.ndarray, context: int | None = None
) -> WorldState:
    """State after a first given frame [B, 3, H, W] seen from ``poses`` [B, 4, 4]; ``seeds`` are int [B]."""
    return observe_first_frame(networks, frames, poses, seeds, context)[0]


def observe_first_frame(
    networks: Networks, frames: Tensor, poses: np.ndarray, seeds: np.ndarray, context: int | None = None
) -> tuple[WorldState, Imagined]:
    """As ``init_state``, and what taking the frame in gave."""
    batch = len(frames)
    state = empty_state(networks, batch, context)
    state.poses = upload(poses.astype(np.float64), networks.device)  # a copy: the state is written to
    state.seeds = upload(seeds.astype(np.uint64).view(np.int64), networks.device)
    still = torch.zeros(batch, networks.control_size, device=networks.device)
    everywhere = torch.ones(batch, dtype=torch.bool, device=networks.device)
    return state, observe_frame(networks, state, frames, ControlBatch(still, state.poses, everywhere))


def imagine_frame(
    networks: Networks, state: WorldState, controls: ControlBatch, denoising_steps: int, decode: bool = True
) -> Imagined:
    """The next frame of every world, from its pending unit or a new one; updates ``state`` in place.

    Without ``decode`` a unit of one frame is decoded only if the next one is made on top of it.
    """
    tensors = controls.to(networks.device)
    if networks.unit.frames == 1:
        return imagine_unit(networks, state, tensors, denoising_steps, decode)
    fresh = (~_matches_pending(state, tensors)).nonzero()[:, 0]
    if len(fresh):
        part = state.over(fresh)
        _commit_pending(networks, part)
        _imagine_pending(networks, part, _plan_controls(networks, _rows(tensors, fresh)), denoising_steps)
        state.merge(fresh, part)
    return _emit_frame(networks, state)


def observe_frame(networks: Networks, state: WorldState, frames: Tensor, controls: ControlBatch) -> Imagined:
    """Take given ``frames`` [B, 3, H, W] as the next ones; consecutive ones fill a unit."""
    tensors = controls.to(networks.device)
    if networks.unit.frames == 1:
        return observe_unit(networks, state, frames, tensors)
    pending, length = state.pending, networks.unit.frames
    is_open = pending["observed"] & (pending["shown"] < length) & (pending["shown"] > 0)
    for slot in range(length):
        chosen = (is_open & (pending["shown"] == slot)) if slot else ~is_open
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            part = state.over(rows)
            if slot == 0:
                _commit_pending(networks, part)
            _observe_pending(networks, part, slot, frames[rows], _rows(tensors, rows))
            state.merge(rows, part)
    return _emit_frame(networks, state)


def _matches_pending(state: WorldState, controls: ControlTensors) -> Tensor:
    """The worlds whose pending unit was imagined under the control that came, bool [B]."""
    pending = state.pending
    shown, length = pending["shown"], pending["latent"].shape[1]
    slot = shown.clamp(max=length - 1)
    same = (_frame_at(pending["vector"], slot) == controls.vector).all(-1)
    posed = _frame_at(pending["pose_mask"], slot)
    if controls.pose_mask is None or controls.poses is None:
        same &= ~posed
    else:
        alike = (_frame_at(pending["poses"], slot) == controls.poses).flatten(1).all(-1)
        same &= (posed == controls.pose_mask) & (alike | ~controls.pose_mask)
    return same & (shown > 0) & (shown < length) & ~pending["observed"]


def _plan_controls(networks: Networks, controls: ControlTensors) -> list[ControlTensors]:
    """The control of each frame of a unit: those known ahead, the last of which is held."""
    length, plan = networks.unit.frames, []
    held = ControlTensors(controls.vector)
    for slot in range(length):
        if slot == 0:
            plan.append(replace(controls, ahead=None))
        elif controls.ahead is not None and slot < controls.ahead.vector.shape[1]:
            held = ControlTensors(controls.ahead.vector[:, slot])
            posed = controls.ahead.poses is not None and controls.ahead.pose_mask is not None
            poses = controls.ahead.poses[:, slot] if posed and controls.ahead.poses is not None else None
            given = (
                controls.ahead.pose_mask[:, slot] if posed and controls.ahead.pose_mask is not None else None
            )
            plan.append(ControlTensors(held.vector, poses, given))
        else:
            plan.append(held)
    return plan


def _imagine_pending(
    networks: Networks, state: WorldState, plan: list[ControlTensors], denoising_steps: int
) -> None:
    """Imagine a unit and let it be pending; none of its frames is shown."""
    pending, base, before = state.pending, state.previous, state.poses
    motions, ahead = [], replace(state)
    pending |= {"base_frame": base.frame, "base_depth": base.depth, "base_pose": before}
    for slot, controls in enumerate(plan):
        motion = move_cameras(networks, ahead, controls)
        prior = _prior_from_base(networks, state, motion)
        _store_motion(pending, slot, motion, prior.tokens, controls.pose_mask)
        ahead = _with_motion(networks, ahead, motion)
        motions.append(motion)
    prepared = _prepare_pending(networks, state, denoising_steps)
    drawn = networks.sampler.draw(
        networks.generator, prepared, _noise(networks, state, motions), denoising_steps
    )
    latent = networks.frame_latents(drawn)
    pending["latent"] = latent.float().unflatten(1, (len(plan), -1))
    # The generator's state takes the unit when it is over; a copy says now what the heads read.
    copy, tokens = state.generator.pick(slice(None)), networks.unit_tokens(latent)
    agent = networks.generator.commit(copy, prepared, tokens, True)
    _decode_pending(networks, state, motions, agent)
    pending["shown"] = torch.zeros_like(pending["shown"])
    pending["observed"] = torch.zeros_like(pending["observed"])


def _decode_pending(
    networks: Networks, state: WorldState, motions: list[CameraMotion], agent: Tensor | None
) -> None:
    """The frames of a unit, one on top of the other, and what the heads say of each."""
    pending, ahead = state.pending, replace(state)
    if agent is not None and networks.uses_agent_token:
        state.agent = agent.float()
    for slot, motion in enumerate(motions):
        prior = prior_of(networks, ahead, motion)
        frame = networks.decode_frame(pending["latent"][:, slot], prior, slot).clamp_(-1, 1)
        _store_frame(networks, state, slot, frame, prior, motion)
        ahead.previous = PreviousFrame(frame, prior.depth)


def _observe_pending(
    networks: Networks, state: WorldState, slot: int, frames: Tensor, controls: ControlTensors
) -> None:
    """Put given frames into a slot of an observed unit; the next to be shown is this one."""
    pending = state.pending
    if slot == 0:
        pending |= {
            "base_frame": state.previous.frame,
            "base_depth": state.previous.depth,
            "base_pose": state.poses,
        }
    motion = move_cameras(networks, state, controls)
    prior = prior_of(networks, state, motion)
    _store_motion(pending, slot, motion, _prior_from_base(networks, state, motion).tokens, controls.pose_mask)
    _set_frame(pending, "frame", slot, frames)
    if networks.clip_tokenizer is None:  # else the latent is that of all frames so far
        _set_frame(pending, "latent", slot, networks.tokenizer.encode(frames, prior).float())
    pending["shown"] = torch.full_like(pending["shown"], slot + 1)
    pending["observed"] = torch.ones_like(pending["observed"])
    latent = _fill_unshown(networks, state)
    prepared = _prepare_pending(networks, state, 0)
    agent = networks.generator.commit(state.generator.pick(slice(None)), prepared, latent, True)
    if agent is not None and networks.uses_agent_token:
        state.agent = agent.float()
    pending["shown"] = torch.full_like(pending["shown"], slot)
    _store_frame(networks, state, slot, frames, prior, motion)


def _commit_pending(networks: Networks, state: WorldState) -> None:
    """Tell the generator of the pending unit, as far as it was shown."""
    rows = (state.pending["shown"] > 0).nonzero()[:, 0]
    if not len(rows):
        return
    part = state.over(rows)
    latent = _fill_unshown(networks, part)
    prepared = _prepare_pending(networks, part, 0)
    agent = networks.generator.commit(part.generator, prepared, latent, networks.uses_agent_token)
    if agent is not None and networks.uses_agent_token:
        part.agent = agent.float()
    part.pending |= {"shown": torch.zeros_like(rows), "units": part.generator.units.clone()}
    state.merge(rows, part)


def _fill_unshown(networks: Networks, state: WorldState) -> Tensor:
    """The pending unit's tokens [B, N, C]; its last shown frame stands in for those that were not.

    A latent of several frames is that of the frames so filled in, unless all were imagined and shown.
    """
    pending = state.pending
    length = networks.unit.frames
    slots = torch.arange(length, device=pending["shown"].device)
    last = torch.minimum(slots, pending["shown"][:, None] - 1).clamp(min=0)
    for name in ("latent", "tokens", "vector", "twist"):
        part = pending[name]
        pending[name] = part[torch.arange(len(part), device=last.device)[:, None], last]
    if (clips := networks.clip_tokenizer) is not None:
        is_whole = (pending["shown"] >= length) & ~pending["observed"]
        if not is_whole.all():
            shown = pending["frame"][torch.arange(len(last), device=last.device)[:, None], last]
            again = networks.frame_latents(clips.encode_clip(shown)).float().unflatten(1, (length, -1))
            pending["latent"] = torch.where(is_whole[:, None, None, None], pending["latent"], again)
    return networks.unit_tokens(pending["latent"].flatten(1, 2))


def _prepare_pending(networks: Networks, state: WorldState, denoising_steps: int) -> Any:
    pending = state.pending
    condition = networks.condition(pending["vector"], pending["twist"]).flatten(1)
    tokens = networks.unit_tokens(pending["tokens"].flatten(1, 2))
    return networks.generator.prepare(state.generator, tokens, condition, denoising_steps)


def _noise(networks: Networks, state: WorldState, motions: list[CameraMotion]) -> Tensor:
    """Noise of a unit [B, N, C], scaled frame by frame."""
    drawn = normals(state, LATENT_DRAW, (networks.unit.tokens, networks.tokenizer.latent_spec.channels))
    scale = (
        torch.stack([networks.noise_scale(motion.twist) for motion in motions], 1)
        * state.temperature[:, None]
    )
    return drawn * scale[:, networks.frame_of][..., None]


def _prior_from_base(networks: Networks, state: WorldState, motion: CameraMotion) -> Prior:
    """The prior of a frame of the unit, from the frame before the unit: what the generator can know of it."""
    pending = state.pending
    back = motion.to_previous
    if back is not None:
        back = se3.relative(pending["base_pose"], motion.poses).float()
    previous = PreviousFrame(pending["base_frame"], pending["base_depth"])
    return networks.tokenizer.prior(
        previous, MotionCondition(networks.condition(motion.vector, motion.twist), motion.planar, back)
    )


def _store_motion(
    pending: dict[str, Tensor], slot: int, motion: CameraMotion, tokens: Tensor, given: Tensor | None
) -> None:
    """Write down how the camera gets to a frame of the unit."""
    posed = torch.zeros_like(pending["pose_mask"][:, slot]) if given is None else given
    values = {"tokens": tokens, "vector": motion.vector, "twist": motion.twist, "poses": motion.poses}
    for name, value in {**values, "pose_uncertainty": motion.pose_uncertainty, "pose_mask": posed}.items():
        _set_frame(pending, name, slot, value)


def _store_frame(
    networks: Networks, state: WorldState, slot: int, frame: Tensor, prior: Prior, motion: CameraMotion
) -> None:
    """Write down a frame of the unit and what the heads say of it."""
    pending = state.pending
    reward, continue_logit = networks.predict_outcome(state.agent, motion.planar)
    arrived = replace(state, indices=state.indices + slot + 1)
    given = pending["pose_mask"][:, slot]
    known = networks.in_territory(motion.poses, motion.twist, given)
    values = {
        "frame": frame,
        "depth": prior.depth,
        "reward": expected_reward(reward),
        "continue_prob": continue_logit.sigmoid(),
        "terminated": ended(networks, arrived, continue_logit),
        "uncertainty": frame_uncertainty(
            frame,
            prior,
            motion.pose_uncertainty if networks.has_poses else None,
            networks.config.typical_contrast,
        ).masked_fill(~known, 1.0),
        "known": known,
    }
    for name, value in values.items():
        _set_frame(pending, name, slot, value)


def _with_motion(networks: Networks, state: WorldState, motion: CameraMotion) -> WorldState:
    """``state`` with its camera where ``motion`` leads."""
    step = torch.cat([motion.twist, networks.steering(motion.vector)], -1)[:, None]
    history = torch.cat([state.motion_history[:, 1:], step], 1)
    return replace(
        state, motion_history=history, pose_uncertainty=motion.pose_uncertainty, poses=motion.poses
    )


def _emit_frame(networks: Networks, state: WorldState) -> Imagined:
    """Show the next frame of every pending unit."""
    pending, slot = state.pending, state.pending["shown"]
    now = {
        name: _frame_at(part, slot) for name, part in pending.items() if part.ndim > 1 and "base" not in name
    }
    posed, planar, back = networks.has_poses, None, None
    if posed:
        planar, back = se3.planar(now["poses"]), se3.relative(state.poses, now["poses"]).float()
    motion = CameraMotion(now["vector"], now["twist"], now["pose_uncertainty"], now["poses"], planar, back)
    prior = prior_of(networks, state, motion)
    moved = _with_motion(networks, state, motion)
    state.motion_history, state.pose_uncertainty, state.poses = (
        moved.motion_history,
        moved.pose_uncertainty,
        moved.poses,
    )
    state.previous = PreviousFrame(now["frame"], now["depth"])
    state.indices = state.indices + 1
    state.pending = {**pending, "shown": slot + 1}
    return Imagined(prior=prior, **{name: now[name] for name in _EMITTED})


def _frame_at(part: Tensor, slot: Tensor) -> Tensor:
    """Frame ``slot`` [B] of each world from ``part`` [B, F, ...]."""
    return part[torch.arange(len(part), device=part.device), slot]


def _set_frame(pending: dict[str, Tensor], name: str, slot: int, value: Tensor) -> None:
    """Overwrite a frame of the unit, in a tensor of its own: the old one may be shared."""
    part = pending[name].clone()
    part[:, slot] = value.to(part.dtype)
    pending[name] = part


def _rows(controls: ControlTensors, rows: Tensor) -> ControlTensors:
    some = lambda part: None if part is None else part[rows]  # noqa: E731
    ahead = None if controls.ahead is None else _rows(controls.ahead, rows)
    return ControlTensors(controls.vector[rows], some(controls.poses), some(controls.pose_mask), ahead)
