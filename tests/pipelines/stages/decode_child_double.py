"""The decode process with faults: files of certain names make it die, hang or eat memory."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from pipelines.stages import decode_child

answer = decode_child.answer
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


def misbehave(request: dict[str, Any], *arguments: Any) -> Any:
    """Fail the way the file's name says, then answer as the real child does."""
    name = os.path.basename(request["uri"])
    if name == "abort.mp4" or (name == "abort_decord.mp4" and request["reader"] == "decord"):
        os.write(2, b"\x1b[31mfree(): invalid pointer\n" * 100_000)
        os.abort()
    decode_child.decord.VideoReader = LateReader if name == "late.mp4" else VideoReader
    if name == "hang.mp4":
        time.sleep(3600)
    if name == "allocate.mp4":
        np.ones(1 << 40, np.uint8)
    if name == "exit.mp4":
        os._exit(3)
    return answer(request, *arguments)


if __name__ == "__main__":
    decode_child.answer = misbehave
    decode_child.main()
