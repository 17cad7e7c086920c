"""UTKinect-Action3D: Kinect v1 skeletons of ten everyday actions, cut out of recordings by their labels.

    [joints/]joints_s01_e01.txt     one row per frame: frame id, 20 joints x (x, y, z) in metres
    actionLabel.txt                 s01_e01, then lines `walk: 252 390` (first and last frame id)

or the same as arrays: `*joints*.npz` with s01_e01_frame_id (T,) and s01_e01_xyz (T, 20, 3), and
`*segments.csv` with recording, action, start_frame_id, end_frame_id. Xia, Chen, Aggarwal, "View invariant
human action recognition using histograms of 3D joints", CVPR Workshops 2012.

Frame ids are the only clock. The authors name 30 frames/s, of which "about 15" have a skeleton; the commonest
step between rows is 4 ids, so an id is a sixtieth of a second. Gait agrees: at 60 ids/s the walkers take 1.6
steps/s at 0.7 m/s, at 30 ids/s 0.8 steps/s at 0.35 m/s, which nobody does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.datasets.csv_text import decode, read_csv
from pipelines.datasets.manifest import check_columns
from pipelines.datasets.npz_arrays import NpzArrays
from pipelines.datasets.problems import Problems, first_names, shorten
from pipelines.datasets.recordings import Recordings, check_folder, named_files, one_file
from pipelines.datasets.source_file import read_source, sha256_of
from pipelines.errors import DataError

IDS_PER_S = 60.0
JOINTS = 20
ACTIONS = (
    "walk", "sitDown", "standUp", "pickUp", "carry", "throw", "push", "pull", "waveHands", "clapHands",
)  # fmt: skip
MAX_BYTES = 64 * 2**20
_RECORDING = re.compile(r"(s\d{2})_e\d{2}")
_LAYOUT = "a folder with joints_s01_e01.txt ... and actionLabel.txt"


@dataclass(frozen=True)
class Segment:
    """One labelled action: recording, name, first and last frame id (None where the label has no number)."""

    recording: str
    action: str
    start: int | None
    end: int | None


@dataclass(frozen=True)
class _Frames:
    ids: np.ndarray
    xyz: np.ndarray
    uri: str
    sha256: str


def read_utkinect(folder: Path, ids_per_s: float = IDS_PER_S) -> tuple[pa.Table, pa.Table, dict]:
    """Import UTKinect: one clip per labelled segment, re-timed by frame id.

    Args:
        folder: of the text files, or of the arrays.
        ids_per_s: frame ids per second.

    Returns:
        Clips (`s01_e01_walk`), poses and a report. Rows that repeat a frame id are dropped (the first one
        stays) and counted; a segment without boundaries, or with fewer than two frames, is a rejected row.

    Raises:
        DataError: no such files, labels that cannot be read, or no usable segment.
        SecurityError: hostile arrays.
    """
    check_folder(folder)
    found = Recordings("utkinect", folder, "kinect20")
    text = bool(list(folder.glob("actionLabel.txt")))
    segments = _labels(folder / "actionLabel.txt") if text else _segments(_segments_file(folder))
    by_recording: dict[str, list[Segment]] = {}
    for segment in segments:
        by_recording.setdefault(segment.recording, []).append(segment)
    duplicates, spare = 0, []
    for recording, frames in _text_frames(folder) if text else _array_frames(folder):
        if recording not in by_recording:
            spare.append(recording)
            continue
        labelled = by_recording.pop(recording)
        if isinstance(frames, str):
            for segment in labelled:
                found.reject(_clip(segment, recording), frames)
            continue
        ids, first = np.unique(frames.ids, return_index=True)
        duplicates += len(frames.ids) - len(ids)
        kept = _Frames(ids, frames.xyz[first], frames.uri, frames.sha256)
        for segment in labelled:
            _add_segment(found, segment, kept, ids_per_s)
        found.warnings += _overlaps(recording, labelled)
    found.missing += [f"{s.recording}_{s.action}" for lost in by_recording.values() for s in lost]
    if spare:
        found.warnings.append(f"recordings without labels, left out: {first_names(spare)}")
    found.extra["duplicate_rows"] = duplicates
    return found.finish(_LAYOUT)


def _clip(segment: Segment, uri: str) -> dict:
    return {
        "clip_id": f"{segment.recording}_{segment.action}",
        "uri": uri,
        "action_type": segment.action,
        "subject_id": segment.recording.split("_")[0],
    }


def _add_segment(found: Recordings, segment: Segment, frames: _Frames, ids_per_s: float) -> None:
    clip = _clip(segment, frames.uri)
    if segment.start is None or segment.end is None:
        found.reject(clip, "the label gives no boundaries")
        return
    inside = (frames.ids >= segment.start) & (frames.ids <= segment.end)
    if inside.sum() < 2:
        cause = f"{inside.sum()} frames lie between the ids {segment.start} and {segment.end}"
        found.reject(clip, cause)
        return
    zero = frames.ids[0]
    clip["start_s"] = float(max(segment.start - zero, 0) / ids_per_s)
    clip["end_s"] = float((segment.end - zero + 1) / ids_per_s)
    ids = frames.ids[inside]
    found.add(
        clip, frames.xyz[inside], (ids - zero) / ids_per_s, sha256=frames.sha256, frame_index=ids,
        note=f"time from the frame ids, {ids_per_s:g} per second",
    )  # fmt: skip


def _overlaps(recording: str, segments: list[Segment]) -> list[str]:
    """Neighbours in time that share frames."""
    spans = sorted((s.start, s.end, s.action) for s in segments if s.start is not None and s.end is not None)
    return [
        f"{recording}: the segments {before[2]} and {after[2]} share the frame ids {after[0]} to {before[1]}"
        for before, after in itertools.pairwise(spans)
        if after[0] < before[1]  # touching ends are common and harmless
    ]


def _labels(path: Path) -> list[Segment]:
    """actionLabel.txt."""
    problems, segments, recording = Problems(path), [], ""
    for number, line in enumerate(decode(path, read_source(path, MAX_BYTES)).splitlines(), start=1):
        words = line.replace(":", " ").split()
        if len(words) == 1 and _RECORDING.fullmatch(words[0]):
            recording = words[0]
        elif words:
            _add_label(segments, recording, words, f"line {number}", problems)
    problems.raise_if_any()
    return segments


def _segments_file(folder: Path) -> Path:
    if not list(folder.glob("*joints*.npz")):
        raise DataError(
            folder, "the folder holds neither actionLabel.txt nor *joints*.npz", f"give {_LAYOUT}"
        )
    return one_file(folder, "*segments.csv")


def _segments(path: Path) -> list[Segment]:
    """The labels as a table."""
    problems, segments = Problems(path), []
    names, rows = read_csv(path, problems)
    columns = ("recording", "action", "start_frame_id", "end_frame_id")
    for name in columns:
        check_columns(names, columns, name, path)
    for line, cells in rows:
        row = dict(zip(names, cells, strict=True))
        words = [row["action"], row["start_frame_id"] or "nan", row["end_frame_id"] or "nan"]
        _add_label(segments, row["recording"], words, f"line {line}", problems)
    problems.raise_if_any()
    return segments


def _add_label(
    segments: list[Segment], recording: str, words: list[str], where: str, problems: Problems
) -> None:
    expected = "a recording s01_e01, one of its ten actions once, first and last frame id"
    bounds = [None if word.lower() == "nan" else word for word in words[1:]]
    numbers = [int(word) if word and re.fullmatch(r"\d{1,9}", word) else None for word in bounds]
    known = {(segment.recording, segment.action) for segment in segments}
    if (
        len(words) != 3
        or not _RECORDING.fullmatch(recording)
        or words[0] not in ACTIONS
        or (recording, words[0]) in known
        or any(word is not None and number is None for word, number in zip(bounds, numbers, strict=True))
        or (None not in numbers and numbers[0] > numbers[1])  # type: ignore[operator]
    ):
        problems.add(where, expected, "correct the label", value=" ".join([recording, *words]))
        return
    segments.append(Segment(recording, words[0], *numbers))


def _text_frames(folder: Path) -> Iterator[tuple[str, _Frames | str]]:
    """Recording and its frames, or what is wrong with its file."""
    for stem, path in named_files(folder, r"joints_s\d{2}_e\d{2}\.txt", "joints").items():
        try:
            data = read_source(path, MAX_BYTES)
            table = _numbers(path, decode(path, data))
        except DataError as error:
            yield stem.removeprefix("joints_"), error.cause
            continue
        ids, xyz = table[:, 0], table[:, 1:].reshape(-1, JOINTS, 3)
        yield (
            stem.removeprefix("joints_"),
            _Frames(ids.astype(np.int64), xyz, str(path.absolute()), sha256_of(path)),
        )


def _numbers(path: Path, text: str) -> np.ndarray:
    """(T, 61) float64."""
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not (cells := line.split()):
            continue
        try:
            values = [float(cell) for cell in cells]
        except ValueError:
            raise DataError(
                path, f"line {number} holds {shorten(line[:80])}, no numbers", "restore it"
            ) from None
        if len(values) != 1 + 3 * JOINTS or not 0 <= values[0] < 1e9 or values[0] % 1:
            cause = f"{path.name} line {number} holds {len(values)} numbers; a frame has its id and 20 x 3"
            raise DataError(path, cause, "restore the file")
        rows.append(values)
    if not rows:
        raise DataError(path, f"{path.name} holds no frame", "restore the file")
    return np.array(rows)


def _array_frames(folder: Path) -> Iterator[tuple[str, _Frames | str]]:
    path = one_file(folder, "*joints*.npz")
    sha256 = sha256_of(path)
    with NpzArrays(path) as arrays:
        names = [name.removesuffix("_xyz") for name in arrays.names if name.endswith("_xyz")]
        for name in names:
            uri = f"{path.absolute()}#{name}"
            if f"{name}_frame_id" not in arrays.names:
                yield name, f"there is no array {name}_frame_id"
                continue
            ids, xyz = arrays.read(f"{name}_frame_id"), arrays.read(f"{name}_xyz")
            if (
                xyz.shape != (len(ids), JOINTS, 3)
                or ids.ndim != 1
                or not len(ids)
                or ids.dtype.kind not in "iu"
            ):
                yield name, f"arrays of shape {ids.shape} and {xyz.shape}, expected (T,) ids and (T, 20, 3)"
                continue
            yield name, _Frames(ids.astype(np.int64), xyz, uri, sha256)
