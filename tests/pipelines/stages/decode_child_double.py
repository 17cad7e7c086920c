"""The decode process with faults: files of certain names make it die, hang, complain or eat resources."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipelines.stages import decode_child

answer, read_pyav = decode_child.answer, decode_child.read_pyav
VideoReader = decode_child.decord.VideoReader


class LateReader(VideoReader):
    """A decord that leaves out a frame and repeats the last: the count is right, the pictures are not."""

    def next(self) -> Any:
        """The next frame, wrongly."""
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 10:
            super().next()
        if self.calls < len(self):
            self.last = super().next()
        return self.last


class AbortingReader(VideoReader):
    """A decord that is killed by its 20th frame."""

    def next(self) -> Any:
        """The next frame, or death."""
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 20:
            os.abort()
        return super().next()


class ComplainingReader(VideoReader):
    """A decord whose FFmpeg finds the 20th frame damaged."""

    def next(self) -> Any:
        """The next frame."""
        self.pictures = getattr(self, "pictures", 0) + 1
        if self.pictures == 20:
            os.write(2, b"[h264 @ 0x55d0c0ffee00] error while decoding MB 3 4, bytestream -5\n")
        return super().next()


class LateComplainingReader(LateReader, ComplainingReader):
    """Both."""


READERS = {
    "late.mp4": LateReader,
    "abort_midway.mp4": AbortingReader,
    "abort_twice.mp4": AbortingReader,
    "complain.mp4": ComplainingReader,
    "late_complain.mp4": LateComplainingReader,
}


def dying_pyav(*arguments: Any) -> Iterator[np.ndarray]:
    """PyAV's frames up to the 5th."""
    for count, picture in enumerate(read_pyav(*arguments)):
        if count == 5:
            os.abort()
        yield picture


def misbehave(request: dict[str, Any], memory_mb: int, log: int, beat: Callable[[], None]) -> Any:
    """Fail the way the file's name says, then answer as the real child does."""
    name = os.path.basename(request["uri"])
    if name == "abort.mp4" or (name == "abort_decord.mp4" and request["reader"] == "decord"):
        os.write(2, b"\x1b[31mfree(): invalid pointer\n" * 2_000)
        os.abort()
    decode_child.decord.VideoReader = READERS.get(name, VideoReader)
    decode_child.read_pyav = dying_pyav if name == "abort_twice.mp4" else read_pyav
    decode_child.DECORD_SHARE = 0.0 if name.startswith("long") else 0.4
    if name == "hang.mp4":
        time.sleep(3600)
    if name == "allocate.mp4":
        np.ones(1 << 40, np.uint8)
    if name == "exit.mp4":
        os._exit(3)
    if name == "slow.mp4":  # twice the time limit in all, but with signs of life
        for _ in range(8):
            time.sleep(0.5)
            beat()
    while name == "endless.mp4":
        beat()
    return answer(request, memory_mb, log, beat)


if __name__ == "__main__":
    decode_child.answer = misbehave
    decode_child.main()
