"""The recipe's protocol: what ``worldsim train`` asks of a recipe."""

from __future__ import annotations

from dataclasses import Field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from worldsim.data.clips import ClipStore
from worldsim.data.spec import SourceSpec
from worldsim.networks import Networks, NetworksConfig
from worldsim.training.stage import Stage


class TrainingRecipe(Protocol):
    """A frozen dataclass, registered as a part of the kind "recipe", whose fields have defaults.

    ``worldsim train --set FIELD=VALUE`` replaces fields.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def plan(self, spec: SourceSpec, poses: np.ndarray | None) -> NetworksConfig:
        """Plan the networks for a source.

        ``poses`` [n, 4, 4] are those of its training frames in recorded order; None without poses.

        Raises:
            ConfigError: the recipe does not fit the source.
        """

    def stages(self, networks: Networks, clips: ClipStore, warm: bool) -> list[Stage]:
        """Plan the training in order. ``warm``: the weights are trained, none is initialised from the data.

        Raises:
            ConfigError: the networks are not of a kind that the recipe can train.
        """


@runtime_checkable
class ExtendsNetworks(Protocol):
    """A recipe that adds parts to the networks of a world that is trained further."""

    def extend(self, config: NetworksConfig) -> NetworksConfig:
        """Return the config of the given networks with what they lack; given weights must fit it."""
