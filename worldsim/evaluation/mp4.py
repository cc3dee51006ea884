"""Frames to H.264 that browsers show."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import numpy as np

from worldsim.errors import DependencyError, install

__all__ = ["encode"]


def encode(frames: np.ndarray, fps: float, *, height: int = 360, crf: int = 18) -> bytes:
    """``uint8 [T, H, W, 3]`` to an mp4 file: whole-number enlarged to about ``height``, sides even.

    Raises:
        DependencyError: PyAV is missing.
    """
    av = _av()
    scale, file = max(round(height / frames.shape[1] / 2), 1) * 2, io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        options = {"crf": str(crf), "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width = frames.shape[1] * scale, frames.shape[2] * scale
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            large = frame.repeat(scale, 0).repeat(scale, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise DependencyError("videos need the package av", None, install("train")) from error
    return av
