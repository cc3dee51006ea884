"""Base of vector environments whose observations, rewards and flags are tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

__all__ = ["TensorVectorEnv"]


class TensorVectorEnv(VectorEnv[Tensor, Any, Tensor], ABC):
    """A vector environment whose tensors lie on one device."""

    device: torch.device
    autoreset_mode: AutoresetMode
    """The mode that is in use."""

    @abstractmethod
    def choose_autoreset(self, mode: AutoresetMode) -> bool:
        """Take ``mode`` if nothing else is chosen yet; True where it is in use now."""
