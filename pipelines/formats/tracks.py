"""One person in one clip, between a row of `pipelines.schema.POSES` and a file of another program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from aqa_models.skeletons import SKELETONS, map_keypoints
from pipelines.datasets.pose_rows import mask_non_finite
from pipelines.errors import ConfigError, DataError
from pipelines.formats.joint_names import joints_of
from pipelines.schema import CLIPS, POSES, empty_row

MAX_FRAME = 2**31 - 2
_OLD = "extract or import the clip again"


@dataclass(frozen=True, eq=False)
class Track:
    """One person in one clip.

    Attributes:
        clip_id, uri: the clip, and where it came from.
        person: 0 for the athlete, then 1, 2, ...
        skeleton: name of the joints' order.
        unit: "px" (upright frame, origin top left, y down) or "m".
        frame_index: (T,) int32, increasing.
        time_s: (T,) float64 seconds.
        keypoints: (T, J, C) float32; NaN = joint not available.
        confidence: (T, J) float32 in [0, 1].
        box: (T, 4) float32 x1 y1 x2 y2 px, or None.
        width_px, height_px: size of the upright frame, if known.
    """

    clip_id: str
    uri: str
    person: int
    skeleton: str
    unit: str
    frame_index: np.ndarray
    time_s: np.ndarray
    keypoints: np.ndarray
    confidence: np.ndarray
    box: np.ndarray | None = None
    width_px: int | None = None
    height_px: int | None = None

    def rate_hz(self) -> float:
        """Frames per second: the median step of the time stamps, 0 where there are fewer than two."""
        steps = np.diff(self.time_s)
        middle = float(np.median(steps)) if len(steps) else 0.0
        return 1 / middle if middle > 0 else 0.0


def tracks_of(poses: pa.Table) -> tuple[list[Track], Counter[str]]:
    """Rows with poses as tracks, ordered by clip and person, and how many rows were rejected, by code.

    Raises:
        DataError: a row whose lists do not have the lengths its shape columns say.
    """
    rejected: Counter[str] = Counter()
    found = []
    lists = ("frame_index", "time_s", "keypoints", "confidence", "box")
    plain = poses.select([name for name in poses.column_names if name not in lists]).to_pylist()
    for index, row in enumerate(plain):
        if row["status"] != "ok":
            rejected[row["error_code"] or "(none)"] += 1
            continue
        arrays = {name: _list(poses.column(name)[index]) for name in lists}
        found.append(_track(row, arrays))
    return sorted(found, key=lambda track: (track.clip_id, track.person)), rejected


def _list(cell: pa.Scalar) -> np.ndarray | None:
    values = cell.values  # type: ignore[attr-defined]
    return None if values is None else values.to_numpy(zero_copy_only=False)


def _track(row: dict, arrays: dict[str, np.ndarray | None]) -> Track:
    name = row["clip_id"]
    frames, joints, size = row["num_frames"], row["num_joints"], row["num_coordinates"]
    keypoints, box, time_s = arrays["keypoints"], arrays["box"], arrays["time_s"]
    if not frames or keypoints is None or time_s is None or len(keypoints) != frames * joints * size:
        raise DataError(name, "the row's keypoints or times do not fill its shape", _OLD)
    keypoints = keypoints.astype(np.float32).reshape(frames, joints, size)
    confidence, index = arrays["confidence"], arrays["frame_index"]
    if confidence is None:
        confidence = np.asarray(np.isfinite(keypoints).all(-1), np.float32).ravel()
    index = np.arange(frames) if index is None else index
    if not len(time_s) == len(index) == len(confidence) // joints == frames:
        raise DataError(name, "the row's times, frames and confidences differ in length", _OLD)
    whole_box = None if box is None or len(box) != 4 * frames else box.astype(np.float32).reshape(frames, 4)
    same = {key: row[key] for key in ("person", "skeleton", "unit", "width_px", "height_px")}
    return Track(
        clip_id=name, uri=row["uri"] or name, frame_index=index.astype(np.int32),
        time_s=np.asarray(time_s, np.float64), keypoints=keypoints, box=whole_box,
        confidence=confidence.astype(np.float32).reshape(frames, joints), **same,
    )  # fmt: skip


def with_skeleton(track: Track, name: str) -> Track:
    """The track in another skeleton: joints by name, derived ones the mean of their parts, the rest NaN.

    A derived joint has the mean confidence of its parts, a joint that cannot be derived has 0.

    Raises:
        ConfigError: unknown skeleton.
    """
    if not name or name == track.skeleton:
        return track
    joints_of(name)
    if name not in SKELETONS or track.skeleton not in SKELETONS:
        remedy = f"choose one of: {', '.join(SKELETONS)}"
        raise ConfigError("skeleton", f"{track.skeleton} cannot be mapped to {name}", remedy)
    keypoints = map_keypoints(track.keypoints, track.skeleton, name)
    confidence = map_keypoints(track.confidence[..., None], track.skeleton, name)[..., 0]
    confidence = np.where(np.isnan(keypoints).any(-1), 0, np.nan_to_num(confidence))
    return replace(track, skeleton=name, keypoints=keypoints, confidence=confidence.astype(np.float32))


def missing(track: Track) -> np.ndarray:
    """(T, J) true where the joint is not available."""
    return np.asarray(~np.isfinite(track.keypoints).all(-1))


def filled(track: Track) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints and confidence with 0 for joints that are not available, as most formats write them."""
    gone = missing(track)
    return np.where(gone[..., None], 0, track.keypoints), np.where(gone, 0, track.confidence)


def unfilled(keypoints: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The other way: a joint at 0 with confidence 0, or with infinite numbers, is NaN."""
    with np.errstate(over="ignore"):
        keypoints, confidence = keypoints.astype(np.float32), confidence.astype(np.float32)
    keypoints[(confidence == 0) & (keypoints == 0).all(-1)] = np.nan
    confidence[~np.isfinite(confidence)] = 0
    mask_non_finite(keypoints, confidence)
    return keypoints, np.clip(confidence, 0, 1)


def times(path: Path, frame_index: np.ndarray, rate_hz: float) -> np.ndarray:
    """Seconds of frames at a constant rate.

    Raises:
        ConfigError: no rate is given, but the file holds no time stamps.
    """
    if not 0 < rate_hz <= 10_000:
        remedy = "give the frames per second of the video as rate_hz, e.g. 30"
        raise ConfigError(path, "the file holds no time stamps", remedy)
    return np.asarray(frame_index, np.float64) / rate_hz


def check_frames(path: Path, where: str, frame_index: np.ndarray) -> np.ndarray:
    """Frame numbers as int32; they must increase and fit."""
    index = np.asarray(frame_index)
    if (
        not len(index)
        or index.dtype.kind not in "iu"
        or index.min() < 0
        or index.max() > MAX_FRAME
        or (np.diff(index.astype(np.int64)) <= 0).any()
    ):
        raise DataError(path, f"{where}: the frame numbers do not increase from 0 or more", "sort the frames")
    return index.astype(np.int32)


def pose_table(tracks: Iterable[Track], kind: str, sha256: dict[str, str], note: str) -> pa.Table:
    """Tracks as rows of POSES, status ok.

    Args:
        kind: written to `decoder`.
        sha256: of the source file, by uri.
        note: written to `decoder_note`.
    """
    rows = []
    for track in tracks:
        frames, joints, size = track.keypoints.shape
        rows.append(
            empty_row(
                POSES, clip_id=track.clip_id, person=track.person, status="ok", attempts=1, uri=track.uri,
                source_sha256=sha256.get(track.uri), decoder=kind, decoder_note=note,
                width_px=track.width_px, height_px=track.height_px, skeleton=track.skeleton,
                unit=track.unit, num_frames=frames, num_joints=joints, num_coordinates=size,
                frame_index=track.frame_index, time_s=track.time_s, keypoints=track.keypoints.ravel(),
                confidence=track.confidence.ravel(), box=None if track.box is None else track.box.ravel(),
            )
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=POSES)


def clip_table(tracks: Iterable[Track], facts: dict[str, dict]) -> pa.Table:
    """One row of CLIPS per clip of the tracks; `facts` holds further columns by clip_id."""
    rows = {}
    for track in tracks:
        if track.clip_id not in rows:
            known = {key: value for key, value in facts.get(track.clip_id, {}).items() if value is not None}
            rows[track.clip_id] = empty_row(CLIPS, **{"clip_id": track.clip_id, "uri": track.uri, **known})
    return pa.Table.from_pylist(list(rows.values()), schema=CLIPS)
