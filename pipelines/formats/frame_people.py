"""People seen frame by frame, as JSON files list them, gathered into tracks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.errors import DataError
from pipelines.formats.tracks import Track, check_frames, unfilled

_NOTES = "the people of a frame carry no names: they are numbered in the order they are listed in"


class FramePeople:
    """The people of one clip.

    Args:
        path: the file or folder, named in errors.
        clip_id, skeleton, unit, uri: as in Track.
    """

    def __init__(self, path: Path, clip_id: str, skeleton: str, unit: str, uri: str):
        self.path, self.clip_id, self.skeleton, self.unit, self.uri = path, clip_id, skeleton, unit, uri
        self._people: dict[int, list[tuple]] = {}
        self._ranks: dict[int, int] = {}
        self._unnamed = 0

    def rank_of(self, track_id: object) -> int | None:
        """A tracker's number of a person -> 0, 1, 2, ... by first appearance; None stays None."""
        if isinstance(track_id, bool) or not isinstance(track_id, int):
            return None
        return self._ranks.setdefault(track_id, len(self._ranks))

    def add(
        self,
        frame: int,
        time_s: float,
        order: int,
        person: object,
        keypoints: np.ndarray,
        confidence: np.ndarray,
        box: np.ndarray | None,
    ) -> None:
        """One person of one frame.

        Args:
            order: position in the frame's list, used where `person` is no number of 0 or more.
            keypoints: (J, C) float64; all 0 with confidence 0 = not available.
            confidence: (J,).
            box: (4,) x1 y1 x2 y2, or None.
        """
        if isinstance(person, bool) or not isinstance(person, int) or not 0 <= person < 2**31:
            person, self._unnamed = order, max(self._unnamed, order)
        self._people.setdefault(person, []).append((frame, time_s, keypoints, confidence, box))

    def tracks(self, width_px: int | None, height_px: int | None) -> tuple[list[Track], list[str]]:
        """The tracks, and warnings.

        Raises:
            DataError: a person twice in a frame, frames out of order, or joints that change in number.
        """
        found = []
        for person, seen in sorted(self._people.items()):
            frames, times_s, keypoints, confidence, boxes = zip(*seen, strict=True)
            if len({one.shape for one in keypoints}) > 1:
                cause = f"clip {self.clip_id}: the number of joints changes between frames"
                raise DataError(self.path, cause, "write one skeleton per file")
            index = check_frames(self.path, f"clip {self.clip_id}, person {person}", np.array(frames))
            xy, sure = unfilled(np.stack(keypoints), np.stack(confidence))
            whole = all(box is not None for box in boxes)
            found.append(
                Track(
                    self.clip_id, self.uri, person, self.skeleton, self.unit, index,
                    np.array(times_s, np.float64), xy, sure,
                    np.stack(boxes).astype(np.float32) if whole else None, width_px, height_px,
                )
            )  # fmt: skip
        return found, [f"clip {self.clip_id}: {_NOTES}"] if self._unnamed else []
