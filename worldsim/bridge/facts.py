"""What a server tells about its world, and which controls that world takes."""

from __future__ import annotations

from typing import Any

import worldsim
from worldsim import camera
from worldsim.bridge.protocol import CODECS, Limits
from worldsim.bridge.requests import OPERATIONS
from worldsim.controls import Control
from worldsim.engine.engine import Engine
from worldsim.errors import ControlError

__all__ = ["check_control", "facts_of"]

_LOOK = 1000.0


def facts_of(engine: Engine, limits: Limits) -> dict[str, Any]:
    """The unchanging part of what ``hello`` answers."""
    world = engine.world
    spec = world.spec
    space, intrinsics = spec.control_space, spec.intrinsics
    numbers = intrinsics and [intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy]
    # The first frame of a start has no latent, so its size is asked of the networks.
    tokens = list(world.networks.tokenizer.latent_spec.shape)
    return {
        "world": world.name,
        "digest": world.digest,
        "size": list(spec.size),
        "fps": spec.fps,
        "keys": list(space.keys),
        "combos": [list(combo) for combo in space.combos],
        "look": space.look,
        "pose": space.pose,
        "intrinsics": numbers,
        "starts": len(world.starts),
        "steps": engine.steps,
        "context": engine.context,
        "codecs": list(CODECS),
        "ops": list(OPERATIONS),
        "latent": tokens,
        "limits": limits.to_dict(),
        "server": worldsim.__version__,
    }


def check_control(engine: Engine, control: Control) -> None:
    """Refuse a control that the engine would refuse.

    Raises:
        WorldsimError: it does not fit the world.
    """
    engine.world.spec.control_space.validate(control)
    if abs(control.look) > _LOOK:
        raise ControlError(f"a look must be within {_LOOK:g} radians", control.look)
    if control.pose is not None:
        camera.check_pose(control.pose)
