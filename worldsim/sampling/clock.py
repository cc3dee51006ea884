"""Two clocks: the model's ticks in units, the player's in frames.

A unit of one frame answers each control at once. A unit of several frames, F, is imagined under the controls
that are known ahead, or under the one that is held; its frames lie in ``WorldState.pending`` and are shown
one by one. Where a control is another than was foreseen, what was not shown is discarded: a new unit begins.
The generator is told a unit when the next one begins, and then of what was shown alone: the last frame shown
stands in for those that were not.

Shapes: B worlds, F frames of a unit, N tokens, C latent channels, M keys and look.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.model.heads import expected
from worldsim.networks import Networks
from worldsim.sampling import se3
from worldsim.sampling.drift import drift_of
from worldsim.sampling.imagine import (
    LATENT_DRAW,
    Imagined,
    ended,
    imagine_unit,
    normals,
    observe_unit,
    prior_of,
)
from worldsim.sampling.lead import Controls, Lead
from worldsim.sampling.move import Move, move_cameras
from worldsim.sampling.upload import upload
from worldsim.sampling.world_state import WorldState, blank
from worldsim.tokenizer.protocol import Motion, PreviousFrame, Prior

_SHOWN_ONE_BY_ONE = ("latent", "frame", "reward", "going_on", "terminated", "drift", "known")


def begin(
    networks: Networks, frames: Tensor, poses: np.ndarray, seeds: np.ndarray, context: int | None = None
) -> WorldState:
    """State after a first given frame [B, 3, H, W] seen from ``poses`` [B, 4, 4]; ``seeds`` are int [B]."""
    return first_frame(networks, frames, poses, seeds, context)[0]


def first_frame(
    networks: Networks, frames: Tensor, poses: np.ndarray, seeds: np.ndarray, context: int | None = None
) -> tuple[WorldState, Imagined]:
    """As ``begin``, and what taking the frame in gave."""
    batch = len(frames)
    state = blank(networks, batch, context)
    state.poses = upload(poses.astype(np.float64), networks.device)  # a copy: the state is written to
    state.seeds = upload(seeds.astype(np.uint64).view(np.int64), networks.device)
    still = torch.zeros(batch, networks.control_size, device=networks.device)
    everywhere = torch.ones(batch, dtype=torch.bool, device=networks.device)
    return state, observe_frame(networks, state, frames, Controls(still, state.poses, everywhere))


def next_frame(
    networks: Networks, state: WorldState, controls: Controls, denoising_steps: int, decode: bool = True
) -> Imagined:
    """The next frame of every world, from its pending unit or a new one; updates ``state`` in place.

    Without ``decode`` a unit of one frame is decoded only if the next one is made on top of it.
    """
    lead = controls.on(networks.device)
    if networks.unit.frames == 1:
        return imagine_unit(networks, state, lead, denoising_steps, decode)
    fresh = (~_foreseen(state, lead)).nonzero()[:, 0]
    if len(fresh):
        part = state.over(fresh)
        _settle(networks, part)
        _imagine(networks, part, _planned(networks, _rows(lead, fresh)), denoising_steps)
        state.merge(fresh, part)
    return _show(networks, state)


def observe_frame(networks: Networks, state: WorldState, frames: Tensor, controls: Controls) -> Imagined:
    """Take given ``frames`` [B, 3, H, W] as the next ones; consecutive ones fill a unit."""
    lead = controls.on(networks.device)
    if networks.unit.frames == 1:
        return observe_unit(networks, state, frames, lead)
    pending, length = state.pending, networks.unit.frames
    is_open = pending["observed"] & (pending["shown"] < length) & (pending["shown"] > 0)
    for slot in range(length):
        chosen = (is_open & (pending["shown"] == slot)) if slot else ~is_open
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            part = state.over(rows)
            if slot == 0:
                _settle(networks, part)
            _observe(networks, part, slot, frames[rows], _rows(lead, rows))
            state.merge(rows, part)
    return _show(networks, state)


def _foreseen(state: WorldState, lead: Lead) -> Tensor:
    """The worlds whose pending unit was imagined under the control that came, bool [B]."""
    pending = state.pending
    shown, length = pending["shown"], pending["latent"].shape[1]
    slot = shown.clamp(max=length - 1)
    same = (_slot(pending["vector"], slot) == lead.vector).all(-1)
    posed = _slot(pending["given"], slot)
    if lead.given is None or lead.poses is None:
        same &= ~posed
    else:
        alike = (_slot(pending["poses"], slot) == lead.poses).flatten(1).all(-1)
        same &= (posed == lead.given) & (alike | ~lead.given)
    return same & (shown > 0) & (shown < length) & ~pending["observed"]


def _planned(networks: Networks, lead: Lead) -> list[Lead]:
    """The control of each frame of a unit: those known ahead, the last of which is held."""
    length, plan = networks.unit.frames, []
    held = Lead(lead.vector)
    for slot in range(length):
        if slot == 0:
            plan.append(replace(lead, ahead=None))
        elif lead.ahead is not None and slot < lead.ahead.vector.shape[1]:
            held = Lead(lead.ahead.vector[:, slot])
            posed = lead.ahead.poses is not None and lead.ahead.given is not None
            poses = lead.ahead.poses[:, slot] if posed and lead.ahead.poses is not None else None
            given = lead.ahead.given[:, slot] if posed and lead.ahead.given is not None else None
            plan.append(Lead(held.vector, poses, given))
        else:
            plan.append(held)
    return plan


def _imagine(networks: Networks, state: WorldState, plan: list[Lead], denoising_steps: int) -> None:
    """Imagine a unit and let it be pending; none of its frames is shown."""
    pending, base, before = state.pending, state.previous, state.poses
    moves, ahead = [], replace(state)
    pending |= {"base_frame": base.frame, "base_depth": base.depth, "base_pose": before}
    for slot, lead in enumerate(plan):
        move = move_cameras(networks, ahead, lead)
        prior = _from_base(networks, state, move)
        _note(pending, slot, move, prior.tokens, lead.given)
        ahead = _moved(ahead, move)
        moves.append(move)
    prepared = _prepared(networks, state, denoising_steps)
    latent = networks.sampler.draw(
        networks.generator, prepared, _noise(networks, state, moves), denoising_steps
    )
    length = len(plan)
    pending["latent"] = latent.float().unflatten(1, (length, -1))
    # The generator is told when the unit is over; a copy says now what the heads read.
    agent = networks.generator.commit(state.generator.pick(slice(None)), prepared, latent, True)
    _decode(networks, state, moves, agent)
    pending["shown"] = torch.zeros_like(pending["shown"])
    pending["observed"] = torch.zeros_like(pending["observed"])


def _decode(networks: Networks, state: WorldState, moves: list[Move], agent: Tensor | None) -> None:
    """The frames of a unit, one on top of the other, and what the heads say of each."""
    pending, ahead = state.pending, replace(state)
    if agent is not None and networks.reads_agent:
        state.agent = agent.float()
    for slot, move in enumerate(moves):
        prior = prior_of(networks, ahead, move)
        frame = networks.tokenizer.decode(pending["latent"][:, slot], prior).clamp_(-1, 1)
        _judge(networks, state, slot, frame, prior, move)
        ahead.previous = PreviousFrame(frame, prior.depth)


def _observe(networks: Networks, state: WorldState, slot: int, frames: Tensor, lead: Lead) -> None:
    """Put given frames into a slot of an observed unit; the next to be shown is this one."""
    pending = state.pending
    if slot == 0:
        pending |= {
            "base_frame": state.previous.frame,
            "base_depth": state.previous.depth,
            "base_pose": state.poses,
        }
    move = move_cameras(networks, state, lead)
    prior = prior_of(networks, state, move)
    _note(pending, slot, move, _from_base(networks, state, move).tokens, lead.given)
    _write(pending, "latent", slot, networks.tokenizer.encode(frames, prior).float())
    pending["shown"] = torch.full_like(pending["shown"], slot + 1)
    pending["observed"] = torch.ones_like(pending["observed"])
    latent = _whole(networks, state)
    prepared = _prepared(networks, state, 0)
    agent = networks.generator.commit(state.generator.pick(slice(None)), prepared, latent, True)
    if agent is not None and networks.reads_agent:
        state.agent = agent.float()
    pending["shown"] = torch.full_like(pending["shown"], slot)
    _judge(networks, state, slot, frames, prior, move)


def _settle(networks: Networks, state: WorldState) -> None:
    """Tell the generator of the pending unit, as far as it was shown."""
    rows = (state.pending["shown"] > 0).nonzero()[:, 0]
    if not len(rows):
        return
    part = state.over(rows)
    latent = _whole(networks, part)
    prepared = _prepared(networks, part, 0)
    agent = networks.generator.commit(part.generator, prepared, latent, networks.reads_agent)
    if agent is not None and networks.reads_agent:
        part.agent = agent.float()
    part.pending |= {"shown": torch.zeros_like(rows), "units": part.generator.units.clone()}
    state.merge(rows, part)


def _whole(networks: Networks, state: WorldState) -> Tensor:
    """The latent of the pending unit [B, F N, C]; its last shown frame stands in for those that were not."""
    pending = state.pending
    length = networks.unit.frames
    slots = torch.arange(length, device=pending["shown"].device)
    last = torch.minimum(slots, pending["shown"][:, None] - 1).clamp(min=0)
    for name in ("latent", "tokens", "vector", "twist"):
        part = pending[name]
        pending[name] = part[torch.arange(len(part), device=last.device)[:, None], last]
    return pending["latent"].flatten(1, 2)


def _prepared(networks: Networks, state: WorldState, denoising_steps: int) -> Any:
    pending = state.pending
    condition = networks.condition(pending["vector"], pending["twist"]).flatten(1)
    tokens = pending["tokens"].flatten(1, 2)
    return networks.generator.prepare(state.generator, tokens, condition, denoising_steps)


def _noise(networks: Networks, state: WorldState, moves: list[Move]) -> Tensor:
    """Noise of a unit [B, F N, C], scaled frame by frame."""
    tokens, channels = networks.tokenizer.latent_spec.shape
    drawn = normals(state, LATENT_DRAW, (len(moves) * tokens, channels))
    scale = torch.stack([networks.noise_scale(move.twist) for move in moves], 1) * state.temperature[:, None]
    return drawn * scale.repeat_interleave(tokens, 1)[..., None]


def _from_base(networks: Networks, state: WorldState, move: Move) -> Prior:
    """The prior of a frame of the unit, from the frame before the unit: what the generator can know of it."""
    pending = state.pending
    back = move.back
    if back is not None:
        back = se3.relative(pending["base_pose"], move.poses).float()
    previous = PreviousFrame(pending["base_frame"], pending["base_depth"])
    return networks.tokenizer.prior(
        previous, Motion(networks.condition(move.vector, move.twist), move.planar, back)
    )


def _note(pending: dict[str, Tensor], slot: int, move: Move, tokens: Tensor, given: Tensor | None) -> None:
    """Write down how the camera gets to a frame of the unit."""
    posed = torch.zeros_like(pending["given"][:, slot]) if given is None else given
    values = {"tokens": tokens, "vector": move.vector, "twist": move.twist, "poses": move.poses}
    for name, value in {**values, "doubt": move.doubt, "given": posed}.items():
        _write(pending, name, slot, value)


def _judge(
    networks: Networks, state: WorldState, slot: int, frame: Tensor, prior: Prior, move: Move
) -> None:
    """Write down a frame of the unit and what the heads say of it."""
    pending = state.pending
    reward, going_on = networks.judge(state.agent, move.planar)
    arrived = replace(state, indices=state.indices + slot + 1)
    given = pending["given"][:, slot]
    known = networks.knows(move.poses, move.twist, given)
    values = {
        "frame": frame,
        "depth": prior.depth,
        "reward": expected(reward),
        "going_on": going_on.sigmoid(),
        "terminated": ended(networks, arrived, going_on),
        "drift": drift_of(frame, prior, move.doubt).masked_fill(~known, 1.0),
        "known": known,
    }
    for name, value in values.items():
        _write(pending, name, slot, value)


def _moved(state: WorldState, move: Move) -> WorldState:
    """``state`` with its camera where ``move`` leads."""
    step = torch.cat([move.twist, move.vector], -1)[:, None]
    moves = torch.cat([state.moves[:, 1:], step], 1)
    return replace(state, moves=moves, doubt=move.doubt, poses=move.poses)


def _show(networks: Networks, state: WorldState) -> Imagined:
    """Show the next frame of every pending unit."""
    pending, slot = state.pending, state.pending["shown"]
    now = {name: _slot(part, slot) for name, part in pending.items() if part.ndim > 1 and "base" not in name}
    posed, planar, back = networks.has_poses, None, None
    if posed:
        planar, back = se3.planar(now["poses"]), se3.relative(state.poses, now["poses"]).float()
    move = Move(now["vector"], now["twist"], now["doubt"], now["poses"], planar, back)
    prior = prior_of(networks, state, move)
    moved = _moved(state, move)
    state.moves, state.doubt, state.poses = moved.moves, moved.doubt, moved.poses
    state.previous = PreviousFrame(now["frame"], now["depth"])
    state.indices = state.indices + 1
    state.pending = {**pending, "shown": slot + 1}
    return Imagined(prior=prior, **{name: now[name] for name in _SHOWN_ONE_BY_ONE})


def _slot(part: Tensor, slot: Tensor) -> Tensor:
    """Of ``part`` [B, F, ...] the frame ``slot`` [B] of each world."""
    return part[torch.arange(len(part), device=part.device), slot]


def _write(pending: dict[str, Tensor], name: str, slot: int, value: Tensor) -> None:
    """Overwrite a frame of the unit, in a tensor of its own: the old one may be shared."""
    part = pending[name].clone()
    part[:, slot] = value.to(part.dtype)
    pending[name] = part


def _rows(lead: Lead, rows: Tensor) -> Lead:
    some = lambda part: None if part is None else part[rows]  # noqa: E731
    ahead = None if lead.ahead is None else _rows(lead.ahead, rows)
    return Lead(lead.vector[rows], some(lead.poses), some(lead.given), ahead)
