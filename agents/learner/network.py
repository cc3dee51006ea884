"""A small network that sees frames, shared by the learners."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["FrameEncoder"]


class FrameEncoder(nn.Module):
    """Frames uint8 or float [B, H, W, 3] in [0, 255], of any size, to features float32 [B, width]."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=3, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((4, 5)),
            nn.Flatten(),
            nn.Linear(32 * 4 * 5, width),
            nn.ReLU(),
        )

    def forward(self, frames: Tensor) -> Tensor:
        features: Tensor = self.layers(frames.movedim(-1, -3).to(torch.float32) / 255 - 0.5)
        return features
