"""What a server tells of the world that it dreams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worldsim.controls import ControlSpace
from worldsim.errors import BridgeError

__all__ = ["RemoteWorld"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteWorld:
    """The server's side of the ``hello``."""

    name: str
    weights_sha256: str
    """What a snapshot belongs to."""
    size: tuple[int, int]
    """Height and width of a frame."""
    fps: float
    control_space: ControlSpace
    intrinsics: tuple[float, float, float, float] | None
    """``fx, fy, cx, cy`` in pixels; None for a world without a camera."""
    starts: int
    """How many moments of its own it can begin from."""
    denoising_steps: int
    """Denoising passes per frame, K."""
    context: int
    """Frames that it remembers."""
    codecs: tuple[str, ...]
    ops: tuple[str, ...]
    """What can be asked of its sessions, such as "observe"; empty where the server is too old to tell."""
    latent: tuple[int, ...]
    """Shape of a frame's latent."""
    limits: Mapping[str, int]
    ttl: float
    """Seconds of silence after which a lease ends."""
    server_version: str
    """The version of the server's worldsim."""

    @classmethod
    def read(cls, hello: Mapping[str, Any]) -> RemoteWorld:
        """The world of a reply to ``hello``.

        Raises:
            BridgeError: entries that are missing.
        """
        try:
            return cls._read(hello)
        except KeyError as error:
            raise BridgeError(
                "a server must tell of its world", f"no {error}", "update the older side"
            ) from None

    @classmethod
    def _read(cls, hello: Mapping[str, Any]) -> RemoteWorld:
        height, width = hello["size"]
        return cls(
            name=hello["world"],
            weights_sha256=hello["weights_sha256"],
            size=(height, width),
            fps=float(hello["fps"]),
            control_space=ControlSpace(
                keys=tuple(hello["keys"]),
                yaw=hello["yaw"],
                pose=hello["pose"],
                discrete_actions=tuple(tuple(combo) for combo in hello["discrete_actions"]),
            ),
            intrinsics=None if hello["intrinsics"] is None else tuple(hello["intrinsics"]),
            starts=hello["starts"],
            denoising_steps=hello["denoising_steps"],
            context=hello["context"],
            codecs=tuple(hello["codecs"]),
            ops=tuple(hello.get("ops", ())),
            latent=tuple(hello["latent"]),
            limits=dict(hello["limits"]),
            ttl=float(hello["ttl_s"]),
            server_version=hello["server"],
        )

    def frame_shape(self, codec: str) -> tuple[int, ...]:
        """Of one frame as ``codec`` sends it, once it is decoded."""
        return self.latent if codec == "latent" else (*self.size, 3)

    def frame_bytes(self, codec: str) -> int:
        """The most that one frame takes on the wire."""
        height, width = self.size
        count = 4 if codec == "latent" else 0 if codec == "none" else 1
        for size in self.latent if codec == "latent" else (height, width, 3):
            count *= size
        return count
