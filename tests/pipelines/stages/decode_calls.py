"""What the tests of decoding share: requests, whole clips, the numbers read back, rejections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_videos import read_number

from pipelines.errors import ClipError
from pipelines.stages.decode import DecodedPart, DecodeGuard, DecodeRequest


def request(path: Path | str, **changes: Any) -> DecodeRequest:
    """A request for all whole frames, every one proven, with changes."""
    fields: dict = {"start_s": None, "end_s": None, "sampling": "all", "people": None, "box": None}
    fields |= {"picture": None, "frames_per_part": 1 << 20, "referee": True}
    return DecodeRequest(uri=str(path), **(fields | changes))


def join(parts: list[DecodedPart]) -> DecodedPart:
    """The parts of one person as one; they must be complete and in order."""
    assert [part.part for part in parts] == list(range(len(parts)))
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len({(part.person, part.width_px, part.height_px, part.source_sha256) for part in parts}) == 1
    columns = ("frames", "frame_index", "time_s", "box")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
    return replace(parts[-1], **joined)


def read(guard: DecodeGuard, path: Path | str, **changes: Any) -> DecodedPart:
    """A clip of one person, its parts joined."""
    return join(list(guard.decode(request(path, **changes))))


def numbers(clip: DecodedPart) -> list[int]:
    """The numbers burnt into the frames."""
    return [read_number(frame) for frame in clip.frames]


def reject(guard: DecodeGuard, path: Path | str, **changes: Any) -> ClipError:
    """The error a clip is rejected with."""
    with pytest.raises(ClipError) as caught:
        list(guard.decode(request(path, **changes)))
    return caught.value
