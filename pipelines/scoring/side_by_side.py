"""A dive beside its exemplar, frame by frame, each as far in the same procedure as the other.

The exemplar's frames are decoded again where its video still is; else its stored skeleton is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from aqa_models.skeletons import skeleton
from pipelines.errors import ClipError
from pipelines.scoring.drawing import BOARD, DIM, INK, Drawer, draw_skeleton, write_text
from pipelines.scoring.explanation import Reference
from pipelines.stages.decode import DecodeGuard, DecodeRequest
from pipelines.stages.pictures import Fit

PANEL = Fit(480, 480)
"""Each of the two pictures fits into so many pixels."""
MOST_FRAMES = 600
"""Of an exemplar's video that are kept; longer ones are thinned out."""
TITLE_HEIGHT = 40

Frames = Iterable[tuple[float, np.ndarray]]


class ExemplarFrames:
    """The exemplar's picture at any time of it.

    Args:
        reference: the exemplar.
    """

    def __init__(self, reference: Reference):
        self.reference = reference
        self._times, self._frames = _decode(reference)

    @property
    def filmed(self) -> bool:
        """Whether its video was there; else the stored skeleton is drawn."""
        return bool(self._frames)

    def at(self, time_s: float) -> np.ndarray:
        """(h, w, 3) uint8 RGB with the skeleton."""
        pose = self.reference.pose
        if self._frames:
            picture = self._frames[int(np.abs(self._times - time_s).argmin())].copy()
        else:
            picture = _board(pose)
        return _drawn(picture, pose, time_s)


def pair(frame: np.ndarray, time_s: float, drawer: Drawer, exemplar: ExemplarFrames) -> np.ndarray:
    """One picture: left this dive, right the exemplar, above what they are, below the procedures.

    Args:
        frame: (h, w, 3) uint8 RGB of the dive.
        time_s: its time in the file.
        drawer: of the dive.
        exemplar: whose alignment says which of its frames belongs beside it.

    Returns:
        (h, w, 3) uint8 RGB; both sides are even.
    """
    reference = exemplar.reference
    other_s = float(reference.alignment.to_other(time_s))
    own = _drawn(frame.copy(), drawer.pose, time_s)
    theirs = exemplar.at(other_s)
    height = max(len(own), len(theirs))
    own, theirs = (_centred(picture, height) for picture in (own, theirs))
    own = _titled(own, f"this dive  {time_s:.2f} s", f"{drawer.verdict.score:.1f} points")
    told = "its skeleton; the video is not there" if not exemplar.filmed else f"judged {reference.score:g}"
    theirs = _titled(theirs, f"exemplar  {other_s:.2f} s", told)
    gap = np.full((len(own), 8, 3), BOARD, np.uint8)
    joined = np.concatenate([own, gap, theirs], axis=1)
    joined = np.concatenate([joined, drawer.ribbon(joined.shape[1], time_s)])
    return joined[: len(joined) // 2 * 2, : joined.shape[1] // 2 * 2]


def paired_frames(
    frames: Frames, drawer: Drawer, exemplar: ExemplarFrames
) -> Iterator[tuple[float, np.ndarray]]:
    """Time and `pair` of each frame of the dive."""
    for time_s, frame in frames:
        yield time_s, pair(frame, time_s, drawer, exemplar)


def plain_frames(uri: str, start_s: float | None, end_s: float | None) -> Iterator[tuple[float, np.ndarray]]:
    """Time and picture (h, w, 3) uint8 RGB of each frame of a performance.

    Raises:
        ClipError: the video cannot be read.
    """
    with DecodeGuard(timeout_s=120.0, memory_mb=3000) as guard:
        request = DecodeRequest(uri, start_s, end_s, "all", None, None, PANEL, 32, referee=False)
        for part in guard.decode(request):
            for time_s, frame in zip(part.time_s, part.frames, strict=True):
                yield float(time_s), frame


def _decode(reference: Reference) -> tuple[np.ndarray, list[np.ndarray]]:
    """Times and frames of the exemplar; none if its video is gone or no longer what it was."""
    if not Path(reference.uri).is_file():
        return np.zeros(0), []
    times, frames, every = [], [], 1
    try:
        shown = plain_frames(reference.uri, reference.start_s, reference.end_s)
        for number, (time_s, frame) in enumerate(shown):
            if number % every == 0:
                times.append(time_s)
                frames.append(frame)
            if len(frames) > MOST_FRAMES:
                times, frames, every = times[::2], frames[::2], every * 2
    except ClipError:
        return np.zeros(0), []
    return np.array(times), frames


def _board(pose: Any) -> np.ndarray:
    """A dark picture of the shape of the video; of poses without a size, of the skeleton's reach."""
    width, height = pose["width_px"] or 1, pose["height_px"] or 1
    scale = min(PANEL.width / width, PANEL.height / height)
    return np.full((max(2, round(height * scale)), max(2, round(width * scale)), 3), BOARD, np.uint8)


def _drawn(picture: np.ndarray, pose: Any, time_s: float) -> np.ndarray:
    """The skeleton of that time on the picture."""
    times = pose["time_s"]
    row = int(np.abs(times - time_s).argmin())
    scale = np.array(picture.shape[1::-1]) / (pose["width_px"] or 1, pose["height_px"] or 1)
    draw_skeleton(
        picture, pose["keypoints"][row] * scale, pose["confidence"][row], skeleton(pose["skeleton"])
    )
    return picture


def _centred(picture: np.ndarray, height: int) -> np.ndarray:
    above = (height - len(picture)) // 2
    below = height - len(picture) - above
    return cv2.copyMakeBorder(picture, above, below, 0, 0, cv2.BORDER_CONSTANT, value=BOARD)


def _titled(picture: np.ndarray, title: str, told: str) -> np.ndarray:
    strip = np.full((TITLE_HEIGHT, picture.shape[1], 3), BOARD, np.uint8)
    write_text(strip, title, 8, 17, INK, 0.45)
    write_text(strip, told, 8, 34, DIM, 0.4)
    return np.concatenate([strip, picture])
