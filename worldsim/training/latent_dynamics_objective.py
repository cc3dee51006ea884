"""Objective of the dynamics stage: generator, sampler, reward and end over fixed latents.

The tokenizer is trained already; the latents of all frames are encoded once. The generator is trained on
samples of the posterior: its means are smoother than anything that the generator will produce.

Shapes: B windows, T frames, N tokens, C latent channels, M condition, A agent features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.errors import DataError
from worldsim.model.heads import Heads, two_hot
from worldsim.networks import TWIST, Networks
from worldsim.sampling.protocol import LatentClip
from worldsim.tokenizer.protocol import NormalisesLatents, normalises_latents
from worldsim.training.motion_loss import motion_loss
from worldsim.training.sequences import Sequences, Windows
from worldsim.training.stage import Logs
from worldsim.utils.mixed_precision import mixed_precision

_ENCODE_BATCH = {"cuda": 4096}
"""Frames, by device; elsewhere 256, whose activations stay in a CPU's cache."""
_REWARD_WEIGHT = 0.1
_MOTION_WEIGHT = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowDraw:
    """Sizes and shares of the windows that are drawn."""

    batch: int = 16
    length: int = 33
    """Arrivals in each window, T; the first is given."""
    starts: float = 0.1
    """Share of windows that begin an episode."""
    ends: float = 0.1
    """Share of windows drawn around an end."""
    own_past: float = 0.0
    """Share of windows whose past holds samples of the generator, once it has learnt for a while."""


class Latents:
    """Posterior of every frame of a split, in half precision; encoded once, when it is first asked for."""

    def __init__(self, tokenizer: NormalisesLatents, sequences: Sequences) -> None:
        self.tokenizer, self._sequences = tokenizer, sequences
        self._encoded: tuple[Tensor, Tensor] | None = None

    def normalise(self) -> None:
        """Set the tokenizer's statistics by these latents."""
        mean, deviation = (part.float() for part in self._posterior())
        spread = (mean.var(0) + deviation.square().mean(0)).sqrt()
        self.tokenizer.normalise_by(mean.mean(0), spread)

    def sample(self, frame: Tensor) -> Tensor:
        """Normalised samples, float32 [..., N, C], for frames of the numbers ``frame`` [...]."""
        mean, deviation = (part[frame].float() for part in self._posterior())
        raw = mean + deviation * torch.randn_like(mean)
        return (raw - self.tokenizer.mean) / self.tokenizer.std

    def _posterior(self) -> tuple[Tensor, Tensor]:
        """Means and deviations of the raw latents, both half precision [frames, N, C]."""
        if self._encoded is None:
            self._encoded = self._encode()
        return self._encoded

    @torch.no_grad()
    def _encode(self) -> tuple[Tensor, Tensor]:
        count, device = len(self._sequences.frames), self._sequences.frame.device
        shape = (count, *self.tokenizer.latent_spec.shape)
        means, deviations = (torch.empty(shape, dtype=torch.half, device=device) for _ in range(2))
        with mixed_precision(device.type):
            for numbers in torch.arange(count, device=device).split(_ENCODE_BATCH.get(device.type, 256)):
                mean, log_variance = self.tokenizer.posterior(self._sequences.pixels(numbers))
                means[numbers], deviations[numbers] = mean.half(), (log_variance / 2).exp().half()
        return means, deviations


class ArrivalConditions:
    """Conditions that lead into arrivals: keys, and the camera's motion where the networks have poses.

    Args:
        networks: encode them.
        sequences: all arrivals of a split.

    Raises:
        DataError: the networks have poses, and the data have none.
    """

    def __init__(self, networks: Networks, sequences: Sequences) -> None:
        self._networks, self.planar = networks, sequences.planar
        """x, y, z, yaw of each arrival's camera, float32 [A, 4]; None without poses."""
        self._twist: Tensor | None = None
        if not networks.has_poses:
            return
        if sequences.twists is None:
            raise DataError("a world with poses needs data with poses", None, "choose conditioning=keys")
        self._twist = torch.from_numpy(networks.normalise(sequences.twists)).to(sequences.device)

    def twist(self, arrivals: Tensor) -> Tensor:
        """Normalised twists into ``arrivals`` [...], float32 [..., 6]; zeros without poses."""
        if self._twist is None:
            return torch.zeros(*arrivals.shape, TWIST, device=arrivals.device)
        return self._twist[arrivals]

    def __call__(self, vector: Tensor, arrivals: Tensor) -> Tensor:
        """Conditions [..., Q] of control vectors [..., M] into ``arrivals`` [...]."""
        return self._networks.condition(vector, self.twist(arrivals))

    def motion_loss(self, windows: Windows, vector: Tensor, agent: Tensor, known: Tensor) -> Tensor:
        """Loss of the camera's motion into the arrivals of ``windows`` that are ``known``, bool [B, T].

        ``vector`` [B, T, M] are the controls, ``agent`` [B, T, A] the features after each arrival.
        """
        assert self.planar is not None
        planar, twist = self.planar[windows.arrivals], self.twist(windows.arrivals)
        return motion_loss(self._networks, vector, twist, planar, agent, known.float())


class LatentDynamicsObjective:
    """The objective of the generator's stage; see the module's docstring.

    Own samples come in between a quarter and a half of the stage; at once if the generator is trained already
    (``warm``).
    """

    def __init__(
        self, networks: Networks, sequences: Sequences, draw: WindowDraw, warm: bool = False
    ) -> None:
        self._networks, self._sequences, self._draw, self._warm = networks, sequences, draw, warm
        self.latents = Latents(normalises_latents(networks.tokenizer), sequences)
        self.conditions = ArrivalConditions(networks, sequences)

    def start(self) -> None:
        """Normalise the latents; before the stage's first step."""
        self.latents.normalise()

    def __call__(self, rng: np.random.Generator, progress: float) -> tuple[Tensor, Logs]:
        networks, sequences, draw = self._networks, self._sequences, self._draw
        torch.manual_seed(int(rng.integers(2**62)))
        windows = sequences.draw(draw.batch, draw.length, rng, draw.starts, draw.ends)
        ends = sequences.ends[windows.arrivals]
        latents = self.latents.sample(sequences.frame[windows.arrivals])
        vector = networks.conditions.withhold(sequences.controls[windows.arrivals], rng)
        clip = LatentClip(
            latents=latents,
            prior_tokens=latents.new_zeros(*latents.shape[:3], networks.tokenizer.prior_channels),
            condition=self.conditions(vector, windows.arrivals),
            weight=(windows.valid & ~ends).float(),  # an end has no frame of its own
            own_past=draw.own_past * (1.0 if self._warm else min(1.0, max(0.0, 4 * progress - 1))),
        )
        sampled = networks.sampler.loss(networks.generator, clip, rng)
        # Importance weights: the probabilities must not depend on how often windows were drawn.
        weight = windows.valid[:, 1:] * windows.importance[:, None]
        arrivals, agent = windows.arrivals[:, 1:], sampled.agent[:, 1:]
        outcome, outcome_logs = outcome_loss(networks.heads, sequences, arrivals, agent, weight)
        loss, logs = sampled.loss + outcome, {**sampled.logs, **outcome_logs}
        if not networks.has_poses:
            return loss, logs
        motion = self.conditions.motion_loss(windows, vector, sampled.agent, windows.valid & ~ends)
        return loss + _MOTION_WEIGHT * motion, {**logs, "motion_loss": motion.detach()}


def outcome_loss(
    heads: Heads, sequences: Sequences, arrivals: Tensor, agent: Tensor, weight: Tensor
) -> tuple[Tensor, Logs]:
    """Return the loss of reward and end on ``arrivals`` [...], from the agent [..., A], by ``weight`` [...].

    Ends have the weight ``HeadsConfig.end_weight``, which is taken out again at inference.
    """
    reward, continue_prob = heads.outcome_logits(agent, None)
    end, total = sequences.ends[arrivals].float(), weight.sum().clamp(min=1)
    target = two_hot(sequences.rewards[arrivals])
    of_reward = -(target * reward.log_softmax(-1)).sum(-1)
    of_end = F.binary_cross_entropy_with_logits(
        continue_prob, 1 - end, weight=1 + (heads.config.end_weight - 1) * end, reduction="none"
    )
    of_reward, of_end = ((part * weight).sum() / total for part in (of_reward, of_end))
    logs: Logs = {"end_loss": of_end.detach(), "reward_loss": of_reward.detach()}
    return _REWARD_WEIGHT * of_reward + of_end, logs
