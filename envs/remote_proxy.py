"""Proxy of a served world, for environments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from worldsim.bridge.client import Client, RemoteSession, RemoteStep
from worldsim.context import Context
from worldsim.controls import Control, ControlSpace

__all__ = ["EngineProxy", "SpecProxy", "WorldProxy"]


@dataclass(frozen=True, slots=True)
class SpecProxy:
    """The properties of a source that environments read."""

    size: tuple[int, int]
    """Height and width."""
    fps: float
    control_space: ControlSpace
    has_pose: bool


class EngineProxy:
    """Proxy of the server's engine."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def open(
        self, seed: int = 0, start: int | Context | None = None, temperature: float = 1.0
    ) -> RemoteSession:
        """Begin a session; see ``Client.open``."""
        return self.client.open(seed, start, temperature)

    def step(self, controls: Mapping[RemoteSession, Control]) -> dict[RemoteSession, RemoteStep]:
        """Imagine one frame of every session named; see ``Client.step_many``."""
        return self.client.step_many(controls)


class WorldProxy:
    """Stands for a ``worldsim.World`` in ``ImaginedEnv`` and ``ImaginedVectorEnv``.

    Args:
        client: connected to the server; whoever made it closes it.
    """

    device = "cpu"

    def __init__(self, client: Client) -> None:
        self.client = client
        described = client.world
        self.name = described.name
        has_pose = described.intrinsics is not None or described.control_space.pose
        self.spec = SpecProxy(described.size, described.fps, described.control_space, has_pose)
        self.starts = range(described.starts)
        self.unit_frames = described.unit_frames
        """Frames of the unit that it is served under."""
        self.tells_uncertainty = described.tells_uncertainty

    def engine(self, slots: int, denoising_steps: int, rewind_frames: int) -> EngineProxy:
        """The server's engine, which has its own slots, denoising steps and history."""
        return EngineProxy(self.client)
