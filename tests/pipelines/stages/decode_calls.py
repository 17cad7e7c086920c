"""What the tests of decoding share: requests, the numbers read back, rejections."""

from __future__ import annotations

from pathlib import Path

import pytest
from make_videos import read_number

from pipelines.errors import ClipError
from pipelines.stages.decode import DecodedClip, DecodeGuard, DecodeRequest

LIMIT = 1 << 30


def request(path: Path | str, **changes: object) -> DecodeRequest:
    """A request for all whole frames, with changes."""
    fields: dict = {"start_s": None, "end_s": None, "sampling": "all", "box": None, "crop": None}
    return DecodeRequest(uri=str(path), **(fields | {"max_bytes": LIMIT} | changes))


def numbers(clip: DecodedClip) -> list[int]:
    """The numbers burnt into the frames."""
    return [read_number(frame) for frame in clip.frames]


def reject(guard: DecodeGuard, path: Path | str, **changes: object) -> ClipError:
    """The error a clip is rejected with."""
    with pytest.raises(ClipError) as caught:
        guard.decode(request(path, **changes))
    return caught.value
