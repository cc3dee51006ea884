"""Roll-outs of a generator on itself, as in play, whose newest latents carry a gradient (Self-Forcing).

The functions of play are called: ``imagine_frame``, and through it the sampler, the cache and the commit of
every unit. Only the last denoising pass of each part of a unit is recorded; the past that later units see has
no gradient.

Shapes: B clips, T frames, n tokens of a frame, C latent channels, M control vector, G given frames.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.networks import Networks
from worldsim.sampling.clock import imagine_frame, init_state, observe_frame
from worldsim.sampling.control_batch import ControlBatch
from worldsim.sampling.protocol import Sampler


@dataclass(frozen=True, slots=True)
class SelfRollout:
    """Imagined frames after given ones."""

    latents: Tensor
    """[B, T - G, n, C]; with a gradient where it was asked for."""
    frames: Tensor | None
    """[B, T - G, 3, H, W] in [-1, 1], without a gradient; None where they were not asked for."""


class RecordingGenerator:
    """A generator whose last denoising pass of every part is recorded for the gradient; all else is not."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self._last = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def prepare(self, state: Any, prior_tokens: Tensor, condition: Tensor, denoising_steps: int) -> Any:
        """As of the generator; the modulation has a gradient. The past is a copy: commits write to it."""
        self._last = denoising_steps - 1
        with torch.set_grad_enabled(denoising_steps > 0):
            past = state.pick(slice(None)) if denoising_steps > 0 else state
            return self._generator.prepare(past, prior_tokens, condition, denoising_steps)

    def denoise(self, prepared: Any, noisy: Tensor, index: int) -> Tensor:
        """As of the generator, with a gradient in the last pass."""
        is_last = index == self._last
        with torch.set_grad_enabled(is_last):
            made: Tensor = self._generator.denoise(_for_pass(prepared, is_last), noisy, index)
        return made

    def denoise_part(self, prepared: Any, noisy: Tensor, index: int, part: int) -> Tensor:
        """As of the generator, with a gradient in the last pass."""
        is_last = index == self._last
        with torch.set_grad_enabled(is_last):
            made: Tensor = self._generator.denoise_part(_for_pass(prepared, is_last), noisy, index, part)
        return made

    def settle(self, prepared: Any, latent: Tensor, part: int) -> None:
        """As of the generator, without a gradient."""
        with torch.no_grad():
            self._generator.settle(_for_pass(prepared, False), latent.detach(), part)

    def commit(self, state: Any, prepared: Any, latent: Tensor, needs_agent: bool) -> Tensor | None:
        """As of the generator, without a gradient."""
        with torch.no_grad():
            agent: Tensor | None = self._generator.commit(
                state, _for_pass(prepared, False), latent, needs_agent
            )
        return agent


class RecordingSampler:
    """A sampler that keeps what it draws, with its gradient, and hands it on without."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self.drawn: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def draw(self, generator: Any, prepared: Any, noise: Tensor, denoising_steps: int) -> Tensor:
        """As of the sampler."""
        with torch.enable_grad():
            self.drawn.append(self._sampler.draw(generator, prepared, noise, denoising_steps))
        return self.drawn[-1].detach()


def _for_pass(prepared: Any, is_recorded: bool) -> Any:
    """The shared part of all passes, without its gradient unless a pass is recorded."""
    if is_recorded:
        return prepared
    named = ((field.name, getattr(prepared, field.name)) for field in fields(prepared))
    return replace(prepared, **{name: part.detach() for name, part in named if isinstance(part, Tensor)})


def recording(networks: Networks) -> tuple[Networks, RecordingSampler]:
    """The same networks with a recording generator and sampler, and that sampler."""
    view, sampler = copy.copy(networks), RecordingSampler(networks.sampler)
    modules = dict(networks._modules)
    view.__dict__["_modules"] = modules
    view.__dict__["generator"] = RecordingGenerator(modules.pop("generator"))
    view.sampler = sampler
    return view, sampler


@torch.no_grad()
def roll_out(
    networks: Networks,
    frames: Tensor,
    controls: Tensor,
    denoising_steps: int,
    rng: np.random.Generator,
    *,
    with_gradient: bool,
    with_frames: bool = False,
) -> SelfRollout:
    """Imagine the frames after given ones.

    Args:
        networks: of a world without poses.
        frames: the given ones [B, G, 3, H, W] in [-1, 1]; G is a whole number of units.
        controls: control vectors that lead into each of T frames [B, T, M]; a unit knows its own ahead.
        denoising_steps: K.
        rng: of the seeds.
        with_gradient: record the last pass of every part.
        with_frames: return frames, too.
    """
    view, recorder = recording(networks)
    used = view if with_gradient else networks
    batch, given, unit = len(frames), frames.shape[1], networks.unit.frames
    seeds = rng.integers(0, 2**63, batch).astype(np.uint64)
    state = init_state(used, frames[:, 0], np.tile(np.eye(4), (batch, 1, 1)), seeds)
    for t in range(1, given):
        observe_frame(used, state, frames[:, t], ControlBatch(controls[:, t]))
    latents, shown = [], []
    for t in range(given, controls.shape[1]):
        ahead = ControlBatch(controls[:, t : t + unit]) if t % unit == 0 and unit > 1 else None
        imagined = imagine_frame(
            used, state, ControlBatch(controls[:, t], ahead=ahead), denoising_steps, with_frames
        )
        latents.append(imagined.latent)
        shown.append(imagined.frame)
    made = torch.stack(latents, 1)
    if with_gradient:
        with torch.enable_grad():
            units = torch.stack([networks.frame_latents(drawn) for drawn in recorder.drawn], 1)
            made = units.unflatten(2, (unit, -1)).flatten(1, 2)
    return SelfRollout(made, torch.stack(shown, 1) if with_frames else None)
