"""Which frames of a clip are taken, and where a person's box lies in each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_FRAMES = 1_000_000  # of a file, and of a clip


def sample_indices(
    time_s: np.ndarray, sampling: str, start_s: float | None = None, end_s: float | None = None
) -> np.ndarray:
    """Choose frames of a clip by their time stamps.

    Args:
        time_s: (N,) presentation times in seconds, non-decreasing.
        sampling: "all"; "fps:R" takes for each tick k/R seconds after the start of the clip the nearest
            frame, each frame once; "uniform:M" takes floor(linspace(first, last, M)), so frames repeat
            when there are fewer than M.
        start_s: frames at or after this time; None = from the first.
        end_s: frames before this time; None = to the last.

    Returns:
        (T,) int64 indices into `time_s`, non-decreasing; empty if no frame lies in the range.

    Raises:
        ValueError: if `sampling` is none of the three forms, or M is above `MAX_FRAMES`.
    """
    inside = np.ones(len(time_s), bool)
    if start_s is not None:
        inside &= time_s >= start_s
    if end_s is not None:
        inside &= time_s < end_s
    indices = np.flatnonzero(inside)
    if sampling == "all" or len(indices) == 0:
        return indices
    kind, _, number = sampling.partition(":")
    if kind == "uniform" and number.isdigit() and int(number) > 0:
        if int(number) > MAX_FRAMES:
            raise ValueError(f"sampling {sampling!r} asks for more than {MAX_FRAMES} frames")
        return np.floor(np.linspace(indices[0], indices[-1], int(number))).astype(np.int64)
    if kind == "fps" and number.replace(".", "", 1).isdigit() and float(number) > 0:
        return indices[_nearest(time_s[indices], float(number), start_s or 0.0)]
    raise ValueError(f"sampling {sampling!r} is none of all, fps:R, uniform:M")


def _nearest(time_s: np.ndarray, rate: float, origin: float) -> np.ndarray:
    """Positions of the frames that are nearest to some tick origin + k / rate, k = 0, 1, ...

    Frame i is nearest to the ticks between the midpoints to its neighbours: it is taken if a k lies there.
    """
    upper = np.append((time_s[1:] + time_s[:-1]) / 2, time_s[-1])
    # Ticks and frames that are meant to coincide differ by rounding; a millionth of a tick is no time.
    last_tick = np.floor((upper - origin) * rate + 1e-6)
    return np.flatnonzero(np.diff(last_tick, prepend=-1.0) > 0)


@dataclass(frozen=True, eq=False)
class PersonBoxes:
    """Where one person is; linear between the listed frames, the nearest box before and after them.

    Args:
        person: rank of the person, 0 = the athlete.
        frame_index: (n,) position among the displayable frames of the file, ascending, n >= 1.
        boxes: (n, 4) x1, y1, x2, y2 in pixels of the upright frame.

    Raises:
        ValueError: if frames do not ascend, or a box is empty or not finite.
    """

    person: int
    frame_index: np.ndarray
    boxes: np.ndarray

    def __post_init__(self) -> None:
        frames, boxes = np.asarray(self.frame_index), np.asarray(self.boxes, np.float64)
        if not len(frames) or boxes.shape != (len(frames), 4) or (np.diff(frames) <= 0).any():
            raise ValueError(f"person {self.person} needs (n, 4) boxes of n ascending frames, n >= 1")
        sound = np.isfinite(boxes).all(1) & (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
        if not sound.all():
            box = tuple(boxes[np.argmin(sound)].tolist())
            raise ValueError(f"box {box} is empty; give x1 < x2 and y1 < y2 in pixels")

    def as_json(self) -> dict[str, Any]:
        """Plain numbers and lists; `PersonBoxes(**fields)` reads them back."""
        frames, boxes = np.asarray(self.frame_index), np.asarray(self.boxes, np.float64)
        return {"person": self.person, "frame_index": frames.tolist(), "boxes": boxes.tolist()}

    def at(self, frames: np.ndarray) -> np.ndarray:
        """The box in each of the frames (T,): (T, 4) float32."""
        sides = np.asarray(self.boxes, np.float64).T
        return np.stack([np.interp(frames, self.frame_index, side) for side in sides], axis=1).astype(
            np.float32
        )
