"""Real videos: made, read and split into frames by PyAV, whose wheel contains FFmpeg."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

#: The most frames extracted; from a longer video, every n-th frame is.
MOST_FRAMES = 600


class VideoError(Exception):
    """A video that cannot be read; the message is for its owner."""


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """A video's frame rate, seconds, extracted frames, and size in pixels."""

    fps: float
    duration: float
    frame_count: int
    width: int
    height: int


def pyav() -> ModuleType:
    """Return PyAV; raise a VideoError that says how to install it when it is missing."""
    try:
        import av  # noqa: PLC0415 - an extra, and slow to load
    except ImportError as error:
        raise VideoError(
            "processing videos needs PyAV beside the emulator: pip install 'syncd[emulator]'"
        ) from error
    return av


def make_video(path: Path, *, seconds: float, fps: int, size: tuple[int, int]) -> None:
    """Write a real MP4 of a moving pattern, `size` wide and high in pixels."""
    av = pyav()
    width, height = size
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(round(seconds * fps)):
            frame = av.VideoFrame(width, height, "yuv420p")
            for plane, shade in zip(frame.planes, (16 + number * 8 % 220, 90, 160), strict=True):
                row = bytes(
                    (shade + 3 * (column + number)) % 256 for column in range(plane.line_size)
                )
                plane.update(row * plane.height)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def read_video(path: Path, frames: Path, *, each: Callable[[], None] = lambda: None) -> VideoFacts:
    """Decode a whole video, and write its frames into the folder `frames` as `frame_000001.jpg` ...

    `each` is called for every decoded frame, and may raise to stop. Raise VideoError when the file
    is not a video, or a broken one.
    """
    av = pyav()
    frames.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError("the file contains no video")
            stream = container.streams.video[0]
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            duration = (container.duration or 0) / av.time_base
            step = max(1, math.ceil((stream.frames or duration * fps) / MOST_FRAMES))
            count = _extract(container, stream, frames, step, each)
            if count == 0:
                raise VideoError("no frame of the video can be decoded")
            width, height = stream.width, stream.height
            return VideoFacts(round(fps, 3), round(duration, 3), count, width, height)
    except av.FFmpegError as error:
        raise VideoError(f"the video cannot be read: {error.strerror}") from error


def _extract(container: Any, stream: Any, frames: Path, step: int, each: Callable[[], None]) -> int:
    """Write every `step`-th frame; return how many were written."""
    written = 0
    for number, frame in enumerate(container.decode(stream)):
        each()
        if number % step == 0 and written < MOST_FRAMES:
            written += 1
            frame.save(str(frames / f"frame_{written:06d}.jpg"))
    return written
