"""Steps of remote sessions, read from replies."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from worldsim.bridge.wire.protocol import CODECS, Code, Message, read_array
from worldsim.errors import BridgeError, DependencyError, install, nearest

__all__ = ["RemoteStep", "checked_codec", "checked_reply", "read_step", "read_steps"]


@dataclass(frozen=True, slots=True, eq=False)
class RemoteStep:
    """Remote counterpart of ``worldsim.engine.step.Step``; arrays are read-only."""

    seq: int
    """Number of steps, observed frames and rewinds taken."""
    index: int
    """Number of the frame; 0 is the first of the frames that the session began with."""
    frame: np.ndarray | None
    """uint8 [H, W, 3]; None with the codecs "latent" and "none"."""
    latent: np.ndarray | None
    """float32 [N, C] with the codec "latent", else None."""
    pose: np.ndarray | None
    """Camera-to-world, float64 [4, 4], metres; None where the world has no poses."""
    pose_given: bool
    reward: float
    """Reward of this frame, as the world imagines the source's."""
    terminated: bool
    """True if the episode ends with this frame, as the world imagines it."""
    uncertainty: float | None
    """Uncertainty in [0, 1]; None in a world that cannot tell it."""
    denoising_steps: int
    """Denoising passes spent on it, K; 0 where the frame was given."""
    known: bool = True
    """True if the world knows what is visible from the pose; also if the server is too old to tell."""
    surprise: float | None = None
    """Bits of information in the frame; None in a world that knows no chances of bits."""


def checked_codec(codec: str) -> str:
    """Return ``codec``, checked before any request: a step that cannot be read has been taken all the same.

    Raises:
        BridgeError: an unknown codec. DependencyError: "jpeg", and no Pillow is installed.
    """
    if codec not in CODECS:
        raise BridgeError("a codec must be known", codec, nearest(codec, CODECS))
    if codec == "jpeg" and importlib.util.find_spec("PIL") is None:
        remedy = install(package="pillow") + ", or ask for raw ones"
        raise DependencyError("JPEG frames need Pillow", None, remedy)
    return codec


@contextlib.contextmanager
def checked_reply(op: str) -> Iterator[None]:
    """Convert errors of reading a reply to a ``BridgeError``.

    Raises:
        BridgeError: ``INTERNAL``, entries are missing or of another kind.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
        rule, value = f"a reply to {op} must be complete", f"{type(error).__name__}: {error}"[:200]
        raise BridgeError(rule, value, "use a server of the same version", code=Code.INTERNAL) from error


def read_step(reply: Message) -> RemoteStep:
    """Read the step of a reply about one session.

    Raises:
        BridgeError: entries that are missing or of another kind.
    """
    with checked_reply(str(reply.header.get("op"))):
        step, payloads = reply.header["step"], reply.payloads
        frame = step.get("frame")
        if frame is None:
            return _step(step)
        if "codec" in frame:
            return _step(step, frame=_decode_jpeg(payloads[frame["part"]]))
        array = read_array(frame, payloads)
        return _step(step, frame=array) if array.dtype == np.uint8 else _step(step, latent=array)


def read_steps(
    steps: Sequence[Mapping[str, Any]],
    payloads: Sequence[Any],
    codec: str,
    shape: Sequence[int],
) -> list[RemoteStep]:
    """Read the steps of a ``step_many``, whose frames are concatenated in the first payload.

    Args:
        steps: of the items that succeeded.
        payloads: of the reply.
        codec: that was asked for.
        shape: of one frame, decoded.
    """
    if codec == "none" or not steps:
        return [_step(step) for step in steps]
    if codec == "jpeg":
        ends = np.cumsum([0, *(step["bytes"] for step in steps)]).tolist()
        pictures = [payloads[0][a:b] for a, b in pairwise(ends)]
        return [_step(step, frame=_decode_jpeg(one)) for step, one in zip(steps, pictures, strict=True)]
    name, dtype = ("latent", "f4") if codec == "latent" else ("frame", "u1")
    entry = {"dtype": dtype, "shape": [len(steps), *shape], "part": 0}
    arrays = read_array(entry, payloads)
    return [_step(step, **{name: array}) for step, array in zip(steps, arrays, strict=True)]


def _step(
    step: Mapping[str, Any], frame: np.ndarray | None = None, latent: np.ndarray | None = None
) -> RemoteStep:
    return RemoteStep(
        seq=step["seq"],
        index=step["index"],
        frame=frame,
        latent=latent,
        pose=_pose(step["pose"]),
        pose_given=step["pose_given"],
        reward=float(step["reward"]),
        terminated=step["terminated"],
        uncertainty=None if step["uncertainty"] is None else float(step["uncertainty"]),
        denoising_steps=step["denoising_steps"],
        known=step.get("known", True),
        surprise=None if step.get("surprise") is None else float(step["surprise"]),
    )


def _pose(numbers: Sequence[float] | None) -> np.ndarray | None:
    if numbers is None:
        return None
    pose = np.array(numbers, np.float64).reshape(4, 4)
    pose.flags.writeable = False
    return pose


def _decode_jpeg(jpeg: Any) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
