"""Frames to video and back through PyAV; joining videos without re-encoding.

Learning wants the pixels that the source rendered, so the default codec is lossless RGB H.264. On 160x120
Doom frames it takes 25 kB a frame; x264 at crf 18 takes 3 kB, but at 34 dB (32 dB with 4:2:0 chroma) it would
be the ceiling of every model trained on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from worldsim.errors import DataError, DependencyError, install

__all__ = ["CODECS", "Codec", "CodecName", "decode", "encode", "join", "require_av"]

CodecName = Literal["lossless", "compact", "raw"]
"""Encoding of frames; "raw" frames are no video, see ``raw.py``."""


@dataclass(frozen=True, kw_only=True)
class Codec:
    """An encoder and its settings."""

    encoder: str
    pixels: str
    options: tuple[tuple[str, str], ...]


# Without B-frames, packets stay in the order of their frames: videos are joined and cut by copying packets.
_NO_REORDERING = (("bf", "0"), ("g", "30"))
CODECS: dict[str, Codec] = {
    "lossless": Codec(
        encoder="libx264rgb", pixels="rgb24", options=(("qp", "0"), ("preset", "ultrafast"), *_NO_REORDERING)
    ),
    # 4:4:4 and crf 10 keep Doom's textures at about 39 dB in 7 kB a frame.
    "compact": Codec(
        encoder="libx264", pixels="yuv444p", options=(("crf", "10"), ("preset", "veryfast"), *_NO_REORDERING)
    ),
}


def encode(path: Path, frames: np.ndarray, fps: float, codec: str) -> None:
    """Write ``uint8 [T, H, W, 3]`` as an mp4 file of exactly T frames."""
    av = require_av()
    settings = CODECS[codec]
    # The format is named, as the temporary file's name does not end in it.
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(settings.encoder, rate=_rate(fps), options=dict(settings.options))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = settings.pixels
        stream.codec_context.thread_count = 1  # workers are the parallelism
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def decode(path: Path, start: int, count: int, fps: float) -> Iterator[np.ndarray]:
    """Frames ``start`` to ``start + count`` of an mp4 file, each ``uint8 [H, W, 3]``.

    Raises:
        DataError: the file cannot be read or holds fewer frames.
    """
    av = require_av()
    found = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            ticks = 1 / (_rate(fps) * stream.time_base)  # of the stream's clock per frame
            container.seek(round(start * ticks), stream=stream)
            for frame in container.decode(stream):
                if round(frame.pts / ticks) < start:
                    continue
                yield _pixels(frame)
                found += 1
                if found == count:
                    return
    except (av.error.FFmpegError, OSError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise DataError("a video must be readable", str(path), str(error)) from error
    raise DataError(
        f"{path.name} must hold frames {start}..{start + count - 1}", start + found, "record it again"
    )


def _pixels(frame: Any) -> np.ndarray:
    """``uint8 [H, W, 3]``. Planar RGB is put together here, 14 times as fast as libswscale does it."""
    if frame.format.name != "gbrp":
        return np.asarray(frame.to_ndarray(format="rgb24"))
    planes = [np.frombuffer(p, np.uint8).reshape(frame.height, p.line_size) for p in frame.planes]
    green, blue, red = (plane[:, : frame.width] for plane in planes)
    return np.stack([red, green, blue], axis=-1)


def join(parts: Sequence[Path], fps: float, path: Path) -> None:
    """Write videos of one codec and size into one mp4 file, one after the other, by copying packets."""
    av = require_av()
    with av.open(str(path), "w", format="mp4") as output:
        stream: Any = None
        offset = 0
        for part in parts:
            with av.open(str(part)) as container:
                source = container.streams.video[0]
                if stream is None:
                    stream = output.add_stream_from_template(source)
                offset += _copy_packets(container, source, output, stream, offset, fps)


def _copy_packets(source: Any, origin: Any, output: Any, stream: Any, offset: int, fps: float) -> int:
    """Copy a video's packets, ``offset`` frames later; their number."""
    ticks = 1 / (_rate(fps) * origin.time_base)
    count = 0
    for packet in source.demux(origin):
        if packet.dts is None:  # the demuxer's flush
            continue
        packet.pts = packet.dts = round((offset + count) * ticks)
        packet.stream = stream
        output.mux(packet)
        count += 1
    return count


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)


def require_av() -> Any:
    """The module av. Raises DependencyError where it is missing."""
    try:
        import av
    except ImportError as error:
        raise DependencyError("videos need the package av", None, install("train")) from error
    return av
