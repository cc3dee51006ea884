"""Writing what is walked to an mp4 that any player shows."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.errors import ConfigError, DependencyError, install


class VideoWriter:
    """H.264 in mp4, one ``write`` per frame.

    The size is that of the first frame; use as a context manager or ``close``.

    Raises DependencyError without PyAV, ConfigError where the file cannot be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        av = _av()
        self.path = path
        self.frames = 0
        self._fps = Fraction(fps).limit_denominator(1001)
        self._stream: Any = None
        try:
            self._disk = path.open("wb")
        except OSError as error:
            raise ConfigError("a video needs a place to be written to", str(path), str(error)) from error
        self._file = av.open(self._disk, "w", format="mp4")
        self._frame = av.VideoFrame

    def write(self, picture: np.ndarray) -> None:
        """Add one frame, uint8 [H, W, 3] with even sides."""
        if self._stream is None:
            self._stream = self._file.add_stream(
                "libx264", rate=self._fps, options={"crf": "16", "preset": "veryfast"}
            )
            self._stream.height, self._stream.width = picture.shape[:2]
            self._stream.pix_fmt = "yuv420p"
            self._stream.thread_count = 1  # others would take the cores from the next step
        frame = self._frame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        self._file.mux(self._stream.encode(frame))
        self.frames += 1

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the video; None before the first frame."""
        return None if self._stream is None else (self._stream.height, self._stream.width)

    def close(self) -> None:
        """Finish the file. Without a frame there is none."""
        if self._stream is not None:
            self._file.mux(self._stream.encode())
        self._file.close()
        self._disk.close()
        if self._stream is None:
            self.path.unlink()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise DependencyError("videos are written by PyAV", None, install("play")) from error
    return av
