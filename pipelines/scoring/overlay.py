"""The overlay video: every frame of the performance with what was found in it, and its sound; H.264 in MP4.

Pictures and sound are decoded once more, by the same guarded child process as for the poses; this process
sees pixels and samples only, and encodes them anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import StorageError
from pipelines.scoring.drawing import Drawer
from pipelines.scoring.sound import Sound
from pipelines.stages.decode import DecodeGuard, DecodeRequest
from pipelines.stages.pictures import Fit
from pipelines.stages.sound_reader import RATE_HZ

SIZE = Fit(960, 540)
_CLOCK = 90_000  # ticks per second, as in MPEG
_LAYOUTS = {1: "mono", 2: "stereo"}


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


def write_video(
    path: Path, frames: Iterator[tuple[float, np.ndarray]], sound: Sound | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """Encode frames while handing them on; the file appears when the last one was taken.

    Args:
        path: .mp4 file; an old one is replaced.
        frames: time in seconds, picture (h, w, 3) uint8 RGB with even sides.
        sound: of the same times; None = silent.

    Raises:
        StorageError: the file cannot be written.
    """
    import av

    partial = path.with_name(f".{path.name}.partial.mp4")
    try:
        with av.open(str(partial), "w") as container:
            film = None
            for time_s, picture in frames:
                film = film or _Film(container, time_s, picture, sound)
                film.add(time_s, picture)
                yield time_s, picture
            if film is not None:
                film.end()
        partial.replace(path)
    except OSError as error:
        raise StorageError(
            path, f"the video cannot be written ({error})", "check the folder and free space"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


class _Film:
    """Encodes pictures and the sound that belongs to them into a container.

    Args:
        container: open for writing, empty.
        first_s: time of the first picture, where the film begins.
        picture: the first one, whose size all have.
        sound: None = silent.
    """

    def __init__(self, container: Any, first_s: float, picture: np.ndarray, sound: Sound | None):
        self.container, self.first_s, self.sound = container, first_s, sound
        self.last_s, self.step_s, self.samples = first_s, 0.04, 0
        self.video = container.add_stream("libx264", options={"crf": "23", "preset": "veryfast"})
        self.video.width, self.video.height = picture.shape[1], picture.shape[0]
        self.video.pix_fmt = "yuv420p"
        self.video.codec_context.time_base = Fraction(1, _CLOCK)
        self.audio = None
        if sound is not None:
            sound.until(first_s)  # what came before the first picture
            if sound.channels:
                self.audio = container.add_stream("aac", rate=RATE_HZ, layout=_LAYOUTS[sound.channels])

    def add(self, time_s: float, picture: np.ndarray) -> None:
        """One picture, after the sound before it."""
        import av

        self._hear(time_s)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = round((time_s - self.first_s) * _CLOCK), Fraction(1, _CLOCK)
        self.container.mux(self.video.encode(frame))
        if time_s > self.last_s:
            self.last_s, self.step_s = time_s, time_s - self.last_s

    def end(self) -> None:
        """Sound as long as the last picture is shown, and what the encoders still hold."""
        self._hear(self.last_s + self.step_s)
        self.container.mux(self.video.encode())
        if self.audio is not None:
            self.container.mux(self.audio.encode())

    def _hear(self, time_s: float) -> None:
        import av

        if self.sound is None or self.audio is None:
            return
        samples = self.sound.until(time_s)
        if not len(samples):
            return
        layout = _LAYOUTS[samples.shape[1]]
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = RATE_HZ, Fraction(1, RATE_HZ), self.samples
        self.samples += len(samples)
        self.container.mux(self.audio.encode(frame))
