"""World description that a server sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worldsim.controls import ActionBox, ControlSpace
from worldsim.errors import BridgeError

__all__ = ["RemoteWorld"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteWorld:
    """World, limits and server version from the reply to ``hello``."""

    name: str
    weights_sha256: str
    """Hash of the weights; snapshots belong to it."""
    size: tuple[int, int]
    """Height and width of a frame."""
    fps: float
    control_space: ControlSpace
    intrinsics: tuple[float, float, float, float] | None
    """``fx, fy, cx, cy`` in pixels; None for a world without a camera."""
    starts: int
    """Number of starts."""
    denoising_steps: int
    """Denoising passes per frame, K."""
    context: int
    """Frames of context."""
    codecs: tuple[str, ...]
    ops: tuple[str, ...]
    """Operations of its sessions, such as "observe"; empty if the server is too old to list them."""
    unit_frames: int
    """Frames that the world imagines at a time; see ``RemoteSession.step_chunk``."""
    latent: tuple[int, ...]
    """Shape of a frame's latent."""
    tells_uncertainty: bool
    """Steps have an uncertainty."""
    limits: Mapping[str, int]
    ttl: float
    """Seconds of silence after which a lease expires."""
    server_version: str
    """Version of the server."""

    @classmethod
    def read(cls, hello: Mapping[str, Any]) -> RemoteWorld:
        """Read the reply to ``hello``.

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
                prompts=tuple(hello.get("prompts", ())),
                action=_read_box(hello.get("action")),
            ),
            intrinsics=None if hello["intrinsics"] is None else tuple(hello["intrinsics"]),
            starts=hello["starts"],
            denoising_steps=hello["denoising_steps"],
            context=hello["context"],
            codecs=tuple(hello["codecs"]),
            ops=tuple(hello.get("ops", ())),
            unit_frames=hello.get("unit_frames", 1),
            latent=tuple(hello["latent"]),
            tells_uncertainty=hello.get(
                "tells_uncertainty", hello["intrinsics"] is not None or hello["pose"]
            ),
            limits=dict(hello["limits"]),
            ttl=float(hello["ttl_s"]),
            server_version=hello["server"],
        )

    def frame_shape(self, codec: str) -> tuple[int, ...]:
        """Return the shape of a decoded frame."""
        return self.latent if codec == "latent" else (*self.size, 3)

    def frame_bytes(self, codec: str) -> int:
        """Return the largest size of one frame on the wire, in bytes."""
        height, width = self.size
        count = 4 if codec == "latent" else 0 if codec == "none" else 1
        for size in self.latent if codec == "latent" else (height, width, 3):
            count *= size
        return count


def _read_box(entry: Mapping[str, Any] | None) -> ActionBox | None:
    """Return the bounds of the world's continuous actions; None if it takes none."""
    return None if entry is None else ActionBox(low=tuple(entry["low"]), high=tuple(entry["high"]))
