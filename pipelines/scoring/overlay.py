"""The overlay video: every frame of the performance with what was found in it, as H.264 in MP4.

Frames are decoded once more, by the same guarded child process as for the poses. Sound is left out: taking
it over would mean to read the file in this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipelines.errors import StorageError
from pipelines.scoring.drawing import Drawer
from pipelines.stages.decode import DecodeGuard, DecodeRequest
from pipelines.stages.pictures import Fit

SIZE = Fit(960, 540)
_CLOCK = 90_000  # ticks per second, as in MPEG


def drawn_frames(
    drawer: Drawer, uri: str, start_s: float | None, end_s: float | None
) -> Iterator[tuple[float, np.ndarray]]:
    """Time and picture (h, w, 3) of each frame of a performance, drawn upon; sides are even.

    Raises:
        ClipError: the video can no longer be read.
    """
    with DecodeGuard(timeout_s=120.0, memory_mb=3000) as guard:
        request = DecodeRequest(uri, start_s, end_s, "all", None, None, SIZE, 32, referee=False)
        for part in guard.decode(request):
            for time_s, frame in zip(part.time_s, part.frames, strict=True):
                drawn = drawer.draw(frame, float(time_s))
                height, width = (side // 2 * 2 for side in drawn.shape[:2])
                yield float(time_s), drawn[:height, :width]


def write_video(path: Path, frames: Iterator[tuple[float, np.ndarray]]) -> Iterator[tuple[float, np.ndarray]]:
    """Encode frames while handing them on; the file appears when the last one was taken.

    Args:
        path: .mp4 file; an old one is replaced.
        frames: time in seconds, picture (h, w, 3) uint8 RGB with even sides.

    Raises:
        StorageError: the file cannot be written.
    """
    import av

    partial = path.with_name(f".{path.name}.partial.mp4")
    try:
        with av.open(str(partial), "w") as container:
            stream, first = None, 0.0
            for time_s, picture in frames:
                if stream is None:
                    stream = container.add_stream("libx264", options={"crf": "23", "preset": "veryfast"})
                    stream.width, stream.height = picture.shape[1], picture.shape[0]
                    stream.pix_fmt, first = "yuv420p", time_s
                    stream.codec_context.time_base = Fraction(1, _CLOCK)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame.pts, frame.time_base = round((time_s - first) * _CLOCK), Fraction(1, _CLOCK)
                container.mux(stream.encode(frame))
                yield time_s, picture
            if stream is not None:
                container.mux(stream.encode())
        partial.replace(path)
    except OSError as error:
        raise StorageError(
            path, f"the video cannot be written ({error})", "check the folder and free space"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
