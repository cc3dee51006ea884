"""Adversarial and perceptual losses of a tokenizer, by a small network that learns beside it.

The discriminator sees a frame and the true one before it, so that it judges motion, too. The adversarial
loss is the hinge loss on patches (VQGAN, Esser et al. 2021), kept calm by LeCAM (Tseng et al. 2021). The
perceptual loss is the distance of its features (feature matching, Wang et al. 2018): no weights have to be
downloaded.

Shapes: B frames, H x W frame, h x w patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from worldsim.training.stage import Logs

__all__ = ["AdversarialLoss", "AdversarialWeights", "Discriminator"]

_WIDTH = 32
_GROUPS = 8
_KEPT = 0.99
"""Decay of the mean outputs that LeCAM compares with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdversarialWeights:
    """Weights of the losses; 0: left out."""

    adversarial: float = 0.0
    perceptual: float = 0.0
    lecam: float = 0.01
    """Weight, within the discriminator's loss, of outputs that leave the other class's mean."""


class Discriminator(nn.Module):
    """Outputs [B, 1, h, w], high for true frames, and features of each layer; frames [B, 3, H, W]."""

    real_mean: Tensor
    made_mean: Tensor

    def __init__(self, width: int = _WIDTH) -> None:
        super().__init__()
        widths = (6, width, 2 * width, 4 * width)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(wide, wider, 3, stride=2, padding=1),
                nn.GroupNorm(_GROUPS, wider) if number else nn.Identity(),
                nn.LeakyReLU(0.2),
            )
            for number, (wide, wider) in enumerate(pairwise(widths))
        )
        self.last = nn.Conv2d(widths[-1], 1, 3, padding=1)
        self.register_buffer("real_mean", torch.zeros(()))
        self.register_buffer("made_mean", torch.zeros(()))

    def forward(self, frames: Tensor, before: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge ``frames`` that follow ``before``, both in [-1, 1]."""
        features, x = [], torch.cat([frames, before], 1)
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return self.last(x), features


class AdversarialLoss:
    """The losses of a tokenizer and of its discriminator in one step: they share no weight.

    Args:
        discriminator: learns beside the tokenizer; a companion of the stage.
        weights: of the losses.
    """

    def __init__(self, discriminator: Discriminator, weights: AdversarialWeights) -> None:
        self.discriminator, self._weights = discriminator, weights

    def __call__(self, made: Tensor, true: Tensor, before: Tensor, share: float) -> tuple[Tensor, Logs]:
        """Loss of decoded frames against true ones.

        Args:
            made: decoded frames [B, 3, H, W], with their gradients.
            true: the frames themselves.
            before: the true frames before them.
            share: of the weights, in [0, 1]; at 0 the discriminator alone learns.
        """
        real, real_features = self.discriminator(true, before)
        critic = self._critic_loss(real, self.discriminator(made.detach(), before)[0])
        # With fixed weights: what teaches the tokenizer teaches the discriminator nothing.
        fixed = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        judged, features = functional_call(self.discriminator, fixed, (made, before))
        perceptual = _distance(features, real_features)
        taught = self._weights.adversarial * -judged.mean() + self._weights.perceptual * perceptual
        return share * taught + critic, {"critic": critic.detach(), "perceptual": perceptual.detach()}

    def _critic_loss(self, real: Tensor, made: Tensor) -> Tensor:
        """Hinge loss of the discriminator and LeCAM; keeps the mean outputs of both classes."""
        critic = self.discriminator
        hinge = functional.relu(1 - real).mean() + functional.relu(1 + made).mean()
        calm = functional.relu(real - critic.made_mean).square().mean()
        calm = calm + functional.relu(critic.real_mean - made).square().mean()
        with torch.no_grad():
            critic.real_mean.lerp_(real.float().mean(), 1 - _KEPT)
            critic.made_mean.lerp_(made.float().mean(), 1 - _KEPT)
        return hinge + self._weights.lecam * calm


def _distance(made: list[Tensor], true: list[Tensor]) -> Tensor:
    """Mean absolute difference of features, over that of the true ones from zero, of all layers."""
    parts = [
        (mine - theirs.detach()).abs().mean() / (theirs.detach().abs().mean() + 1e-6)
        for mine, theirs in zip(made, true, strict=True)
    ]
    return torch.stack(parts).mean()
