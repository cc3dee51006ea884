"""Recordings and screenshots of a window, each in a file of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worldsim.agents.human.video import VideoWriter


def free_name(prefix: str, ending: str) -> Path:
    """prefix-1.ending, or the first number that is not taken."""
    number = 1
    while (path := Path(f"{prefix}-{number}{ending}")).exists():
        number += 1
    return path


class Recordings:
    """One recording at a time.

    Where the pictures change their size (a fork, a comparison) a new file goes on.
    """

    def __init__(self, prefix: str, fps: float) -> None:
        self.prefix = prefix
        self._fps = fps
        self._writer: VideoWriter | None = None
        self.frames = 0

    @property
    def path(self) -> Path | None:
        """The file that is written now."""
        return None if self._writer is None else self._writer.path

    def start(self, path: Path | None = None) -> Path:
        """Begin to record.

        Raises DependencyError without PyAV, ConfigError where the file cannot be written.
        """
        self._writer = VideoWriter(path or free_name(self.prefix, ".mp4"), self._fps)
        self.frames = 0
        return self._writer.path

    def add(self, picture: np.ndarray) -> None:
        """One frame, uint8 [H, W, 3] with even sides."""
        assert self._writer is not None, "nothing is being recorded"
        if self._writer.size not in (None, picture.shape[:2]):
            frames = self.frames
            self._writer.close()
            self.start()
            self.frames = frames
        self._writer.write(picture)
        self.frames += 1

    def stop(self) -> Path | None:
        """Finish the recording, if there is one, and say where it lies."""
        writer, self._writer = self._writer, None
        if writer is None:
            return None
        writer.close()
        return writer.path
