"""Tiny real videos whose every frame shows its own number, to be read off what a decoder returns."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 8


def draw(number: int, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8 picture: bars above (one per bit), grey with a moving edge below."""
    picture = np.full((height, width, 3), 110, np.uint8)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        picture[: height // 2, left:right] = 220 if number >> bit & 1 else 35
    picture[height // 2 :, : (number * 7) % width] = 140
    return picture


def read_number(picture: np.ndarray) -> int:
    """The number in a picture made by `draw`, whatever its size.

    Raises:
        ValueError: if the picture is not upright (bars are not in the upper half).
    """
    height, width = picture.shape[:2]
    grey = picture.mean(axis=2)
    columns = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    bars, rest = grey[height // 4, columns], grey[3 * height // 4, columns]
    if (np.abs(bars - 127) < 50).any() or (np.abs(rest - 125) > 45).any():
        raise ValueError("the bars are not where they belong")
    return sum(int(value > 127) << bit for bit, value in enumerate(bars))


def write_video(
    path: Path,
    *,
    codec: str = "libx264",
    size: tuple[int, int] = (128, 96),
    times_ms: list[int] | None = None,
    count: int = 30,
    rotation: int = 0,
    aspect: Fraction | None = None,
    pixel_format: str = "yuv420p",
    faststart: bool = False,
    codec_options: dict[str, str] | None = None,
) -> Path:
    """Encode numbered frames.

    Args:
        path: target; the suffix decides the container.
        codec: PyAV encoder name.
        size: width and height as coded.
        times_ms: presentation times; None = 25 frames per second from 0.
        count: number of frames where `times_ms` is None.
        rotation: degrees of the display matrix (counter-clockwise); the coded picture is turned the
            other way, so that it is upright when the matrix is applied.
        aspect: sample aspect ratio.
        pixel_format: of the encoder.
        faststart: MP4 index in front.
        codec_options: for the encoder.
    """
    times_ms = [40 * k for k in range(count)] if times_ms is None else times_ms
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25, options=codec_options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        stream.time_base = stream.codec_context.time_base = (
            Fraction(1, 25) if path.suffix == ".avi" or codec == "mpeg2video" else Fraction(1, 1000)
        )
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        for number, time_ms in enumerate(times_ms):
            container.mux(stream.encode(_frame(number, time_ms, size, rotation, stream.time_base)))
        container.mux(stream.encode(None))
    return path


def _frame(
    number: int, time_ms: int, size: tuple[int, int], rotation: int, time_base: Fraction
) -> av.VideoFrame:
    width, height = size if rotation % 180 == 0 else size[::-1]
    coded = np.ascontiguousarray(np.rot90(draw(number, width, height), -rotation // 90))
    frame = av.VideoFrame.from_ndarray(coded, format="rgb24")
    frame.pts, frame.time_base = round(Fraction(time_ms, 1000) / time_base), time_base
    return frame


def write_audio(path: Path) -> Path:
    """A sound file without video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
