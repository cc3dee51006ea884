"""World description for ``hello``, and validation of controls."""

from __future__ import annotations

from typing import Any

import worldsim
from worldsim import camera
from worldsim.bridge.server.requests import OPERATIONS
from worldsim.bridge.wire.protocol import CODECS, ClientLimits
from worldsim.controls import Control
from worldsim.engine.engine import Engine
from worldsim.errors import ControlError

__all__ = ["check_control", "server_info"]

_MAX_YAW = 1000.0


def server_info(engine: Engine, limits: ClientLimits) -> dict[str, Any]:
    """Return the constant part of the reply to ``hello``."""
    world = engine.world
    spec = world.spec
    space, intrinsics = spec.control_space, spec.intrinsics
    numbers = intrinsics and [intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy]
    # The first frame of a start has no latent, so its size is asked of the networks.
    tokens = list(world.networks.tokenizer.latent_spec.shape)
    return {
        "world": world.name,
        "weights_sha256": world.weights_sha256,
        "size": list(spec.size),
        "fps": spec.fps,
        "keys": list(space.keys),
        "discrete_actions": [list(combo) for combo in space.discrete_actions],
        "yaw": space.yaw,
        "pose": space.pose,
        "prompts": list(space.prompts),
        "action": space.action and {"low": list(space.action.low), "high": list(space.action.high)},
        "intrinsics": numbers,
        "starts": len(world.starts),
        "denoising_steps": engine.denoising_steps,
        "context": engine.context,
        "codecs": list(CODECS),
        "ops": list(OPERATIONS),
        "unit_frames": engine.world.unit_frames,
        "latent": tokens,
        "tells_uncertainty": world.tells_uncertainty,
        "limits": limits.to_dict(),
        "server": worldsim.__version__,
    }


def check_control(engine: Engine, control: Control) -> None:
    """Refuse a control that the engine would refuse.

    Raises:
        WorldsimError: it does not fit the world.
    """
    engine.world.spec.control_space.validate(control)
    if abs(control.yaw) > _MAX_YAW:
        raise ControlError(f"a yaw must be within {_MAX_YAW:g} radians", control.yaw)
    if control.pose is not None:
        camera.check_pose(control.pose)
