"""Poses and features of one video, in this process, by the stages that `aqa extract` runs on Ray."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.collect import join_people
from pipelines.kinds import Work, give_boxes
from pipelines.plan import clip_digests
from pipelines.scoring.refusal import Refused

FLAT = 24.0
"""Range of grey levels (of 255, noise taken off) below which a picture shows nothing."""


@dataclass
class Seen:
    """What was noticed of a video while it was read.

    Attributes:
        frames: number of pictures shown to the pose network.
        flat: how many of them show nothing: one colour, for example black.
        crowded: of the frames shown to the detector, how many hold two people or more.
        watched: frames shown to the detector; 0 = there was none, so nobody counted people.
    """

    frames: int = 0
    flat: int = 0
    crowded: int = 0
    watched: int = 0


@dataclass
class Recording:
    """One video, extracted.

    Attributes:
        clip: its row of CLIPS, and `clip_digest`.
        rows: family -> rows of POSES or FEATURES; all of them ok.
        seen: what was noticed on the way.
    """

    clip: pa.Table
    rows: dict[str, pa.Table]
    seen: Seen = field(default_factory=Seen)

    def pose(self) -> dict[str, Any]:
        """The athlete's row of POSES, arrays in their shapes: keypoints (T, J, 2), confidence (T, J),
        time_s (T,), frame_index (T,)."""
        return shaped(next(row for row in self.rows["poses"].to_pylist() if row["person"] == 0))


def shaped(row: dict[str, Any]) -> dict[str, Any]:
    """A row of POSES with its arrays in their shapes; joints of poses without confidence count as sure."""
    shape = (row["num_frames"], row["num_joints"], row["num_coordinates"])
    sure = row["confidence"] if row["confidence"] else np.ones(shape[0] * shape[1])
    return row | {
        "keypoints": np.asarray(row["keypoints"], np.float32).reshape(shape),
        "confidence": np.asarray(sure, np.float32).reshape(shape[:2]),
        "time_s": np.asarray(row["time_s"], np.float64),
        "frame_index": np.asarray(row["frame_index"], np.int64),
    }


class Extractor:
    """Holds the networks of a model's passes, so that each is loaded once for all videos.

    Args:
        detection: pass that finds people; None = the whole frame is the athlete.
        works: passes by family.
        max_seconds: longest video; beyond it, reading stops.
        use_gpu: run the networks on the GPU.
    """

    def __init__(self, detection: Work | None, works: dict[str, Work], max_seconds: float, use_gpu: bool):
        self.detection, self.works, self.max_seconds = detection, works, max_seconds
        self.use_gpu = use_gpu
        self._states: dict[str, Any] = {}
        self._guards: dict[str, Any] = {}

    def __enter__(self) -> Extractor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for guard in self._guards.values():
            guard.close()

    def prepare(self) -> None:
        """Starts the decode processes and loads the networks."""
        for work in filter(None, (self.detection, *self.works.values())):
            self._guard(work)
            self._state(work)

    def extract(self, clips: pa.Table) -> Recording:
        """All passes over one clip.

        Args:
            clips: one row of CLIPS.

        Raises:
            Refused: it cannot be read, is too long, shows nothing, or nobody was found.
        """
        seen, people = Seen(), None
        planned = clips.append_column("clip_digest", clip_digests(clips))
        if self.detection is not None:
            people = self._run(self.detection, planned, seen)
        rows = {}
        for family, work in self.works.items():
            rows[family] = self._pass(family, work, clips, people, seen)
        return Recording(planned, rows, seen)

    def _pass(
        self, family: str, work: Work, clips: pa.Table, people: pa.Table | None, seen: Seen
    ) -> pa.Table:
        if family != "poses" or people is None:
            planned = clips.append_column("clip_digest", clip_digests(clips))
            return self._run(work, planned, seen)
        planned = clips.append_column("clip_digest", clip_digests(clips, people))
        boxed = give_boxes(planned, work, people)
        count = boxed.several.get(planned["clip_id"][0].as_py(), 1)
        return self._run(boxed.work, boxed.clips, seen, count)

    def _run(self, work: Work, clip: pa.Table, seen: Seen, people: int = 1) -> pa.Table:
        """Decode part by part, show each part to the network at once: memory does not grow with the video."""
        uri, parts = clip["uri"][0].as_py(), []
        for decoded in work.decode.process(self._guard(work), clip):
            self._look(work, decoded, uri, seen)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # MMDetection's, about PyTorch's autocast
                parts += self._network(work).process(self._state(work), decoded)
        joined = join_people(parts, people)
        assert joined is not None
        if work.family == "people":
            _count_people(joined.to_pylist()[0], seen)
        rows = work.finish(joined)
        if seen.frames and seen.flat == seen.frames:
            cause = f"all {seen.frames} pictures shown to the network are of one colour, for example black"
            raise Refused("black", uri, cause, "check the lens of the camera, and the file")
        for row in rows.select(["status", "error_code", "error_message"]).to_pylist():
            if row["status"] != "ok":
                raise _refusal(uri, row["error_code"], row["error_message"])
        return rows

    def _look(self, work: Work, decoded: pa.Table, uri: str, seen: Seen) -> None:
        row = decoded.drop_columns(["frames"]).to_pylist()[0]
        if row["status"] != "ok":
            return
        start = self._started(row)
        if row["time_s"][-1] - start > self.max_seconds:
            cause = f"lasts more than {self.max_seconds:g} s, and a score is of one performance"
            remedy = "say which part: --start-s 12 --end-s 20, or allow more with --max-seconds"
            raise Refused("too_long", uri, cause, remedy)
        picture = work.decode.picture
        if work.family == "poses":
            shape = (-1, picture.height, picture.width, 3)
            pixels = decoded["frames"][0].as_buffer()
            pictures = np.frombuffer(pixels, np.uint8).reshape(shape)
            seen.frames += len(pictures)
            seen.flat += sum(_is_flat(one) for one in pictures)

    def _started(self, row: dict[str, Any]) -> float:
        """Time of the clip's first frame; parts come in order."""
        if row["part"] == 0:
            self._first_s = row["time_s"][0]
        return self._first_s

    def _guard(self, work: Work) -> Any:
        if work.family not in self._guards:
            self._guards[work.family] = work.decode.setup()
        return self._guards[work.family]

    def _network(self, work: Work) -> Any:
        return work.on_gpu(self.use_gpu)

    def _state(self, work: Work) -> Any:
        if work.family not in self._states:
            self._states[work.family] = self._network(work).setup()
        return self._states[work.family]


def _is_flat(picture: np.ndarray) -> bool:
    """Whether a picture (h, w, 3) is of one colour; the black margins of crops do not count."""
    import cv2

    grey = cv2.blur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (3, 3))
    shown = cv2.erode((picture.max(axis=2) > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    return not shown.any() or bool(np.ptp(grey[shown]) < FLAT)


def _count_people(row: dict[str, Any], seen: Seen) -> None:
    if row["status"] == "ok":
        found = np.asarray(row["frame_detections"])
        ends = np.cumsum(found)
        sure = np.asarray(row["box_scores"], np.float32) >= 0.5
        counts = [int(sure[end - count : end].sum()) for count, end in zip(found, ends, strict=True)]
        seen.watched, seen.crowded = len(counts), sum(count > 1 for count in counts)


def _refusal(uri: str, code: str, message: str) -> Refused:
    from pipelines.errors import REJECT_CODES

    remedy = REJECT_CODES[code]
    if code == "no_person":
        remedy = "no person was found; film the whole athlete in good light, or use another detector"
    return Refused(code, uri, message, remedy)
