"""Keypoints as arrays: an npz of (T, J, C) arrays by clip name, and a csv that describes the clips.

For a user's own keypoints, and for KIMORE as it is passed around (positions, tracking states and samples).
The csv has the columns of the clips table (`clip_id` required), or the names used with KIMORE: sample,
subject, exercise, TS. Its rows decide what is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from aqa_models.skeletons import SKELETONS
from pipelines.datasets.csv_text import read_csv
from pipelines.datasets.manifest import Columns, check_clips, check_columns, clips_table, parse_clips
from pipelines.datasets.npz_arrays import NpzArrays
from pipelines.datasets.pose_rows import STATE_CONFIDENCE, mask_non_finite, pose_row
from pipelines.datasets.problems import Problems, first_names
from pipelines.datasets.source_file import sha256_of
from pipelines.errors import ConfigError, DataError
from pipelines.schema import CLIPS, POSES

UNITS = ("px", "m")
MAX_FRAMES = 1_000_000

_ALIASES = {"sample": "clip_id", "subject": "subject_id", "exercise": "action_type", "TS": "score"}
_CHECKED = ("frames", "PO", "CF")
_IGNORED = ("sha256_of_source_npy",)


@dataclass(frozen=True)
class ArraySource:
    """Where keypoints lie and what their numbers mean.

    Attributes:
        positions: npz of (T, J, C) float arrays by clip name, C = 2 or 3.
        samples: csv of the clips.
        skeleton: name of the topology, a key of `SKELETONS`.
        unit: "px" (upright frame, origin top left) or "m" (camera frame, y up).
        rate_hz: frames per second; time stamps are made from it.
        tracking: npz of (T, J) integers by clip name: 2 tracked, 1 inferred, 0 not tracked.
        dataset: name written to the column `dataset`.
    """

    positions: Path
    samples: Path
    skeleton: str
    unit: str
    rate_hz: float
    tracking: Path | None = None
    dataset: str | None = None

    def __post_init__(self) -> None:
        if self.skeleton not in SKELETONS:
            remedy = f"choose one of: {', '.join(SKELETONS)}"
            raise ConfigError("skeleton", f"unknown skeleton {self.skeleton!r}", remedy)
        if self.unit not in UNITS:
            raise ConfigError("unit", f"unknown unit {self.unit!r}", "choose px (pixels) or m (metres)")
        if not 0 < self.rate_hz <= 10_000:
            remedy = "give the frames per second of the recordings, e.g. 30"
            raise ConfigError("rate_hz", f"{self.rate_hz} Hz is no frame rate", remedy)


def read_keypoints(source: ArraySource) -> tuple[pa.Table, pa.Table, dict]:
    """Import keypoint arrays.

    Returns:
        Clips in the order of the csv, poses (one row per clip), and a report. Joints with NaN or infinite
        coordinates are masked (NaN, confidence 0) and counted.

    Raises:
        DataError: rows without array, arrays without frames, another joint count than the skeleton's, wrong
            cells; all problems in one error.
        SecurityError: pickled objects, compression bombs, names that leave the file.
    """
    columns, lines, extra = _read_samples(source)
    problems = Problems(source.samples)
    warnings = _extra_warnings(columns, extra)
    columns["uri"] = [f"{source.positions.absolute()}#{name}" for name in columns["clip_id"]]
    columns["dataset"] = [value or source.dataset for value in columns["dataset"]]
    batches, counts = [], _Counts()
    with NpzArrays(source.positions) as positions:
        _check_arrays(source, positions, columns, lines, extra, problems)
        problems.raise_if_any()
        wanted = set(columns["clip_id"])
        if spare := [name for name in positions.names if name not in wanted]:
            warnings.append(f"arrays without a row in {source.samples.name}, left out: {first_names(spare)}")
        tracking = NpzArrays(source.tracking) if source.tracking else None
        sha256 = sha256_of(source.positions)
        try:
            for name, uri in zip(columns["clip_id"], columns["uri"], strict=True):
                values = {"clip_id": name, "uri": uri, "source_sha256": sha256}
                batches.append(_read_array(source, positions, tracking, counts, values))
        finally:
            if tracking:
                tracking.close()
    poses = pa.Table.from_batches(batches, schema=POSES)
    return clips_table(columns), poses, _report(source, columns, extra, counts, warnings)


@dataclass
class _Counts:
    frames: int = 0
    masked_joints: int = 0
    states: np.ndarray = field(default_factory=lambda: np.zeros(3, dtype=np.int64))


def _read_samples(source: ArraySource) -> tuple[Columns, list[str], dict[str, list]]:
    """Columns of the clips table, where each row stands, and the columns that are only checked."""
    problems = Problems(source.samples)
    header, rows = read_csv(source.samples, problems)
    names = [_ALIASES.get(name, name) for name in header]
    if len(set(names)) != len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise DataError(source.samples, f"two columns mean {double!r}", "keep one of the two")
    known = [*CLIPS.names, *_CHECKED, *_IGNORED]
    check_columns(names, known, "clip_id", source.samples)
    cells = list(rows)
    keep = [index for index, name in enumerate(names) if name in CLIPS.names]
    plain_nan = {names.index(name) for name in ("score", "PO", "CF") if name in names}
    for _, row in cells:
        for index in plain_nan:
            row[index] = "" if row[index] == "nan" else row[index]  # how pandas and NumPy write "not known"
    columns, lines = parse_clips(
        [names[index] for index in keep],
        [(line, [row[index] for index in keep]) for line, row in cells],
        problems, required="clip_id", word="line",
    )  # fmt: skip
    if "exercise" in header:
        columns["action_type"] = [
            f"Es{value}" if value and value.isdigit() else value for value in columns["action_type"]
        ]
    columns["uri"] = [None] * len(lines)
    check_clips(columns, lines, problems)
    problems.raise_if_any()
    if not lines:
        raise DataError(source.samples, "there are no clips below the header", "add one row per array")
    extra = {name: [row[names.index(name)] for _, row in cells] for name in _CHECKED if name in names}
    if "exercise" in header:
        extra["exercise"] = columns["action_type"]
    return columns, lines, extra


def _extra_warnings(columns: Columns, extra: dict[str, list]) -> list[str]:
    if not {"PO", "CF"} <= set(extra):
        return []
    found = []
    for name, total, *parts in zip(
        columns["clip_id"], columns["score"], extra["PO"], extra["CF"], strict=True
    ):
        try:
            primary, control = map(float, parts)
        except ValueError:
            continue  # an empty cell: nothing to compare
        if total is not None and abs(total - primary - control) > 0.01:
            found.append(f"{name}: TS {total:.2f} is not PO + CF = {primary + control:.2f}")
    return found


def _check_arrays(
    source: ArraySource,
    positions: NpzArrays,
    columns: Columns,
    lines: list[str],
    extra: dict,
    problems: Problems,
) -> None:
    joints, there = len(SKELETONS[source.skeleton].joints), set(positions.names)
    frames = extra.get("frames") or [""] * len(lines)
    for name, where, claimed in zip(columns["clip_id"], lines, frames, strict=True):
        if name not in there:
            expected = f"an array of this name in {source.positions.name}"
            problems.add(where, expected, "delete the row or add the array", column="clip_id", value=name)
            continue
        head = positions.header(name)
        if (
            len(head.shape) != 3
            or head.shape[1] != joints
            or head.shape[2] not in (2, 3)
            or head.dtype.kind != "f"
        ):
            expected = f"floats of shape (frames, {joints}, 2 or 3) for {source.skeleton}"
            found = f"{name}: {head.dtype} {head.shape}"
            problems.add(where, expected, "give the skeleton that fits", column="clip_id", value=found)
        elif not 1 <= head.shape[0] <= MAX_FRAMES:
            expected = f"1 to {MAX_FRAMES:,} frames, not {head.shape[0]:,}"
            problems.add(where, expected, "delete the row or give the frames", column="clip_id", value=name)
        elif claimed and claimed != str(head.shape[0]):
            expected = f"{head.shape[0]}, the frames of the array"
            problems.add(where, expected, "correct the cell or the array", column="frames", value=claimed)


def _read_array(
    source: ArraySource, positions: NpzArrays, tracking: NpzArrays | None, counts: _Counts, values: dict
) -> pa.RecordBatch:
    name = values["clip_id"]
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is masked and counted
        keypoints = positions.read(name).astype(np.float32)
    confidence = np.ones(keypoints.shape[:2], dtype=np.float32)
    if tracking is not None:
        state = _read_states(tracking, name, keypoints.shape[:2])
        confidence = STATE_CONFIDENCE[state]
        counts.states += np.bincount(state.reshape(-1), minlength=3)
    counts.masked_joints += mask_non_finite(keypoints, confidence)
    counts.frames += len(keypoints)
    return pose_row(
        **values, decoder="keypoints", skeleton=source.skeleton, unit=source.unit, keypoints=keypoints,
        confidence=confidence, time_s=np.arange(len(keypoints)) / source.rate_hz,
        decoder_note=f"time from the given rate of {source.rate_hz:g} Hz",
    )  # fmt: skip


def _read_states(tracking: NpzArrays, name: str, shape: tuple[int, int]) -> np.ndarray:
    if name not in tracking.names:
        raise DataError(tracking.path, f"there are no tracking states of {name!r}", "add the array")
    head = tracking.header(name)
    if head.shape != shape or head.dtype.kind not in "iu":
        cause = f"array {name!r} is {head.dtype} {head.shape}, expected integers {shape} as its positions"
        raise DataError(tracking.path, cause, "give one state per frame and joint")
    state = tracking.read(name)
    if state.min() < 0 or state.max() > 2:
        cause = f"array {name!r} holds states outside 0 to 2"
        raise DataError(tracking.path, cause, "use 2 tracked, 1 inferred, 0 not tracked")
    return state


def _report(source: ArraySource, columns: Columns, extra: dict, counts: _Counts, warnings: list[str]) -> dict:
    scored = [
        name for name, score in zip(columns["clip_id"], columns["score"], strict=True) if score is not None
    ]
    report = {
        "kind": "keypoints",
        "source": str(source.positions.absolute()),
        "recordings": len(columns["clip_id"]),
        "subjects": len({name for name in columns["subject_id"] if name is not None}),
        "frames": counts.frames,
        "labelled": len(scored),
        "unlabelled": sorted(set(columns["clip_id"]) - set(scored)),
        "missing": _missing(columns) if "exercise" in extra else [],
        "rejected": [],
        "masked_joints": counts.masked_joints,
        "warnings": warnings,
    }
    if total := int(counts.states.sum()):
        shares = [int(count) / total for count in counts.states]
        report["tracking"] = {"tracked": shares[2], "inferred": shares[1], "untracked": shares[0]}
    return report


def _missing(columns: Columns) -> list[str]:
    """Where every subject does every exercise: the pairs without a recording."""
    pairs = set(zip(columns["subject_id"], columns["action_type"], strict=True))
    subjects = dict.fromkeys(name for name, _ in sorted(pairs, key=str) if name)
    exercises = sorted({action for _, action in pairs if action})
    return [f"{name}_{action}" for name in subjects for action in exercises if (name, action) not in pairs]
