"""Conditions: the channels of a control vector as the tensor that frames are conditioned on.

Keys, yaw and twist enter as they are: the encoder of tokenizer and generator is theirs. Every further channel
of the control space has an encoder of its own, a registered part of the kind "condition", which also holds
the channel's learnt "unknown".

Shapes: M control vector, K of its channel, E encoded channel, Q condition.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.controls import ControlSpace
from worldsim.errors import ConfigError
from worldsim.registry import config_class

__all__ = ["ConditionConfig", "ConditionEncoder", "Conditions", "default_conditions"]

_AS_THEY_ARE = ("keys", "yaw")


class ConditionEncoder(nn.Module, ABC):
    """Encoder of one channel."""

    size: int
    """Length of the encoded channel, E."""

    @abstractmethod
    def forward(self, columns: Tensor) -> Tensor:
        """The channel's columns [..., K] as float32 [..., E]; columns of 0 as the learnt "unknown"."""


class ConditionConfig(Protocol):
    """The config of a channel's encoder."""

    channel: ClassVar[str]
    """The channel of ``ControlSpace.channels`` that it encodes."""

    @property
    def unknown_rate(self) -> float:
        """Share of training clips in which the channel is unknown, in [0, 1)."""

    def build(self, space: ControlSpace) -> ConditionEncoder:
        """The channel's encoder.

        Raises:
            ConfigError: it does not fit the space.
        """


class Conditions(nn.Module):
    """Encoders of the channels after keys and yaw, by channel.

    Raises:
        ConfigError: a channel without an encoder or with several, or an encoder without a channel.
    """

    def __init__(self, configs: Sequence[ConditionConfig], space: ControlSpace) -> None:
        super().__init__()
        wanted = [name for name in space.channels if name not in _AS_THEY_ARE]
        given = [config.channel for config in configs]
        if sorted(given) != sorted(wanted):
            rule = "each channel of the control space after keys and yaw must have one condition"
            raise ConfigError(rule, given, f"set conditions to those of {wanted}")
        by_channel = {config.channel: config for config in configs}
        self._columns = {name: space.channels[name] for name in wanted}
        self._rates = {name: by_channel[name].unknown_rate for name in wanted}
        self._motion_size = space.motion_size
        built = {name: by_channel[name].build(space) for name in wanted}
        self.encoders = nn.ModuleDict(built)
        self.size = sum(encoder.size for encoder in built.values())
        """Length of all encoded channels together."""

    def forward(self, vector: Tensor, twist: Tensor, use_keys: bool) -> Tensor:
        """Control vectors [..., M] and normalised twists [..., 6] as condition [..., Q].

        Keys and yaw are 0 unless ``use_keys``.
        """
        moved = vector[..., : self._motion_size]
        encoded = [encoder(vector[..., self._columns[name]]) for name, encoder in self.encoders.items()]
        return torch.cat([moved if use_keys else torch.zeros_like(moved), twist, *encoded], -1)

    def withhold(self, vector: Tensor, rng: np.random.Generator) -> Tensor:
        """Control vectors of clips [B, T, M] with each channel made unknown in its share of the clips.

        This trains the learnt "unknown". Nothing is drawn where all channels enter as they are.
        """
        for name, columns in self._columns.items():
            known = torch.from_numpy(rng.random(len(vector)) >= self._rates[name]).to(vector)
            vector = vector.clone()
            vector[..., columns] *= known[:, None, None]
        return vector


def default_conditions(space: ControlSpace) -> tuple[ConditionConfig, ...]:
    """A condition for each channel of ``space`` after keys and yaw: the one registered by the channel's name.

    Raises:
        ConfigError: no condition has that name.
    """
    wanted = [name for name in space.channels if name not in _AS_THEY_ARE]
    return tuple(config_class("condition", name)() for name in wanted)
