"""KIMORE: Kinect v2 skeletons and clinical scores of rehabilitation exercises, in the official folders.

    {CG,GPP}/{Expert,NotExpert,BackPain,Parkinson,Stroke}/{E,NE,B,P,S}_IDk/EsN/Raw/JointPosition*.csv
                                                                           Raw/TimeStamp*.csv
                                                                           Label/ClinicalAssessment_*.xlsx

Capecci et al., "The KIMORE dataset", IEEE TNSRE 27(7), 2019. The quirks handled here were seen in
genuine files: blank lines, a comma at the end of each row, exponents of three digits, and rows in which a
lost line break joined two or three frames (201 or 301 fields).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.datasets.clinical_sheet import ClinicalSheet, read_clinical_sheet
from pipelines.datasets.pose_rows import STATE_CONFIDENCE, mask_non_finite, pose_row, rejected_row
from pipelines.datasets.problems import shorten
from pipelines.datasets.source_file import check_source, read_source
from pipelines.errors import ClipError, DataError, SecurityError
from pipelines.schema import CLIPS, POSES, empty_row

GROUPS = {"Expert": "CG", "NotExpert": "CG", "BackPain": "GPP", "Parkinson": "GPP", "Stroke": "GPP"}
PREFIXES = {"Expert": "E", "NotExpert": "NE", "BackPain": "B", "Parkinson": "P", "Stroke": "S"}
EXERCISES = (1, 2, 3, 4, 5)
JOINTS = 25
NOMINAL_HZ = 30.0
MAX_BYTES = 16 * 2**20  # about 22,000 frames; the longest genuine recording has 2,487
TICKS_PER_S = 10_000_000
_NUMBERS = 4 * JOINTS  # x, y, z in metres and the tracking state of each joint
_SCORE_TOLERANCE = 0.01


@dataclass(frozen=True)
class JointPositions:
    """One JointPosition file.

    Attributes:
        xyz: (T, 25, 3) float32, metres, camera frame, y up; may hold NaN or infinities.
        state: (T, 25) uint8, 2 tracked, 1 inferred, 0 not tracked.
        merged_lines: lines that held several frames and were split.
        sha256: of the file's bytes.
    """

    xyz: np.ndarray
    state: np.ndarray
    merged_lines: tuple[int, ...]
    sha256: str


@dataclass
class _Import:
    """What is gathered while walking over the subjects."""

    root: Path
    clips: list[dict] = field(default_factory=list)
    batches: list[pa.RecordBatch] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    rejected: list[dict] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    states: np.ndarray = field(default_factory=lambda: np.zeros(3, dtype=np.int64))
    frames: int = 0
    merged_rows: int = 0
    masked_joints: int = 0
    sheets: dict[str, ClinicalSheet] = field(default_factory=dict)


def read_kimore(root: Path) -> tuple[pa.Table, pa.Table, dict]:
    """Import the official folder layout.

    Args:
        root: the folder that holds CG and GPP (one of them is enough).

    Returns:
        Clips (one per recording), poses (one row per recording; one that cannot be read is a `rejected`
        row that names file and line), and a report. A folder EsN without a JointPosition file is only
        named in the report as missing.

    Raises:
        DataError: no such folders, or not one readable recording.
        SecurityError: a hostile score sheet, or a link that leads out of `root`.
    """
    state = _Import(Path(root))
    for group, subject, folder in subjects(state.root, state.warnings):
        _read_subject(state, group, subject, folder)
    if not state.clips:
        remedy = "give a folder with files like CG/Expert/E_ID1/Es1/Raw/JointPosition*.csv"
        raise DataError(root, "no recording found", remedy)
    if len(state.rejected) == len(state.clips):
        first = state.rejected[0]
        cause = f"none of the {len(state.clips)} recordings can be read; the first: {first['message']}"
        raise DataError(root, cause, "copy the data set again")
    poses = pa.Table.from_batches(state.batches, schema=POSES)
    return pa.Table.from_pylist(state.clips, schema=CLIPS), poses, _report(state)


def subjects(root: Path, warnings: list[str]) -> Iterator[tuple[str, str, Path]]:
    """(group, subject, folder), in order of group and number; unexpected names go to `warnings`."""
    if not any((root / top).is_dir() for top in ("CG", "GPP")):
        remedy = "give the folder that holds CG/Expert, CG/NotExpert, GPP/BackPain, GPP/Parkinson, GPP/Stroke"
        raise DataError(root, "this folder holds neither CG nor GPP", remedy)
    for group, top in GROUPS.items():
        folder = root / top / group
        if not folder.is_dir():
            warnings.append(f"the group {top}/{group} is absent")
            continue
        found = []
        for child in folder.iterdir():
            match = re.fullmatch(rf"{PREFIXES[group]}_ID(\d{{1,6}})", child.name)
            if match and child.is_dir():
                found.append((int(match[1]), child))
            elif not child.name.startswith("."):
                warnings.append(f"{top}/{group}/{child.name} is no subject folder and was left out")
        for _, child in sorted(found):
            yield group, child.name, child


def read_joint_positions(path: Path) -> JointPositions:
    """Read one JointPosition file.

    Raises:
        ClipError: code bad_keypoints, naming the line; too_long beyond 16 MiB.
        DataError, SecurityError, StorageError: the file is absent, empty, a pickle or unreadable.
    """
    if (size := check_source(path, 2**63)) > MAX_BYTES:
        raise ClipError("too_long", path, f"{path.name} has {size:,} bytes; at most {MAX_BYTES:,} are read")
    data = read_source(path, MAX_BYTES)
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ClipError(
            "bad_keypoints", path, f"{path.name} line {line} holds bytes that are no text"
        ) from None
    frames: list[str] = []
    lines: list[int] = []
    merged: list[int] = []
    for number, raw in enumerate(text.split("\n"), start=1):
        row = raw.strip().removesuffix(",")
        if not row:
            continue
        fields = row.count(",") + 1
        if fields == _NUMBERS:
            frames.append(row)
        elif fields % _NUMBERS == 0 and fields <= 10 * _NUMBERS:
            cells = row.split(",")
            frames += [",".join(cells[at : at + _NUMBERS]) for at in range(0, fields, _NUMBERS)]
            merged.append(number)
        else:
            cause = (
                f"{path.name} line {number} holds {fields} numbers; a frame has 25 joints x 4 = {_NUMBERS}"
            )
            raise ClipError("bad_keypoints", path, cause)
        lines += [number] * (fields // _NUMBERS)
    if not frames:
        raise ClipError("bad_keypoints", path, f"{path.name} holds no frame, only blank lines")
    table = _numbers(path, frames, lines).reshape(-1, JOINTS, 4)
    state = table[..., 3]
    # Joining frames is the only way to a whole multiple of 100 numbers whose every fourth is a state.
    if not np.isin(state, (0, 1, 2)).all():
        frame, joint = np.argwhere(~np.isin(state, (0, 1, 2)))[0]
        cause = (
            f"{path.name} line {lines[frame]}: tracking state of joint {joint} is {state[frame, joint]:g}, "
            "expected 0, 1 or 2"
        )
        raise ClipError("bad_keypoints", path, cause)
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is masked and counted
        xyz = table[..., :3].astype(np.float32)
    return JointPositions(xyz, state.astype(np.uint8), tuple(merged), hashlib.sha256(data).hexdigest())


def read_time_stamps(path: Path, frames: int) -> np.ndarray:
    """Seconds since the first frame, (T,) float64, from 100-ns ticks, one per line.

    Raises:
        ClipError: not one increasing stamp per frame; the cause says what was found.
    """
    ticks = []
    for number, raw in enumerate(read_source(path, MAX_BYTES).split(b"\n"), start=1):
        cell = raw.strip().removesuffix(b",").strip()
        if not cell:
            continue
        if not cell.isdigit() or len(cell) > 18:
            raise ClipError("bad_keypoints", path, f"{path.name} line {number} is no time stamp")
        ticks.append(int(cell))
        if len(ticks) > 1 and ticks[-1] <= ticks[-2]:
            raise ClipError("bad_keypoints", path, f"{path.name} line {number}: time does not increase")
    if len(ticks) != frames:
        raise ClipError("bad_keypoints", path, f"{path.name} holds {len(ticks)} stamps for {frames} frames")
    return (np.array(ticks, dtype=np.int64) - ticks[0]) / TICKS_PER_S


def _numbers(path: Path, frames: list[str], lines: list[int]) -> np.ndarray:
    """(T, 100) float64; NumPy's C parser reads, a slow second look names the bad cell."""
    try:
        return np.loadtxt(frames, delimiter=",", comments=None, dtype=np.float64, ndmin=2)
    except ValueError as error:
        for line, frame in zip(lines, frames, strict=True):
            for column, cell in enumerate(frame.split(","), start=1):
                try:
                    float(cell)
                except ValueError:
                    cause = (
                        f"{path.name} line {line}, field {column}: found {shorten(cell)}, expected a number"
                    )
                    raise ClipError("bad_keypoints", path, cause) from None
        raise ClipError("bad_keypoints", path, f"{path.name}: {error}") from None


def _read_subject(state: _Import, group: str, subject: str, folder: Path) -> None:
    sheets = _read_sheets(state, subject, folder)
    for exercise in EXERCISES:
        clip_id = f"{subject}_Es{exercise}"
        raw = folder / f"Es{exercise}" / "Raw"
        files = sorted(raw.glob("JointPosition*.csv"))
        if not files:
            state.missing.append(clip_id)
            continue
        _check_inside(state.root, *files, *raw.glob("TimeStamp*.csv"))
        sheet = sheets.get(exercise) or next(iter(sheets.values()), None)
        clip = empty_row(
            CLIPS, clip_id=clip_id, uri=str(files[0].absolute()), dataset="kimore", subject_id=subject,
            group=group, action_type=f"Es{exercise}", score=sheet.total.get(exercise) if sheet else None,
        )  # fmt: skip
        state.clips.append(clip)
        try:
            if len(files) > 1:
                cause = f"{len(files)} JointPosition files in {clip_id}, expected one"
                raise ClipError("bad_keypoints", raw, cause)
            _read_recording(state, clip_id, files[0])
        except ClipError as error:
            _reject(state, clip_id, files[0], error)
        except DataError as error:
            _reject(state, clip_id, files[0], ClipError("bad_keypoints", error.where, error.cause))


def _read_recording(state: _Import, clip_id: str, path: Path) -> None:
    positions = read_joint_positions(path)
    frames = len(positions.xyz)
    time_s, note = _times(path, frames)
    if note:
        state.warnings.append(f"{clip_id}: {note}")
    if positions.merged_lines:
        where = ", ".join(map(str, positions.merged_lines[:5]))
        state.warnings.append(f"{clip_id}: lines with several frames were split ({path.name} line {where})")
        state.merged_rows += len(positions.merged_lines)
    confidence = STATE_CONFIDENCE[positions.state]
    state.states += np.bincount(positions.state.reshape(-1), minlength=3)
    state.masked_joints += mask_non_finite(positions.xyz, confidence)
    state.frames += frames
    state.batches.append(
        pose_row(
            clip_id=clip_id,
            uri=str(path.absolute()),
            source_sha256=positions.sha256,
            decoder="kimore",
            decoder_note=note,
            skeleton="kinect25",
            unit="m",
            keypoints=positions.xyz,
            confidence=confidence,
            time_s=time_s,
        )
    )  # fmt: skip


def _times(path: Path, frames: int) -> tuple[np.ndarray, str | None]:
    """Seconds per frame, and why they are nominal if they are."""
    files = sorted(path.parent.glob("TimeStamp*.csv"))
    try:
        if len(files) == 1:
            return read_time_stamps(files[0], frames), None
        cause = f"{len(files) or 'no'} TimeStamp files"
    except (ClipError, DataError) as error:
        cause = error.cause
    return np.arange(frames) / NOMINAL_HZ, f"{cause}; nominal {NOMINAL_HZ:g} Hz used"


def _check_inside(root: Path, *files: Path) -> None:
    for file in files:
        if not file.resolve().is_relative_to(root.resolve()):
            raise SecurityError(file, "this link leads out of the data set", "copy the file instead")


def _reject(state: _Import, clip_id: str, path: Path, error: ClipError) -> None:
    state.batches.append(rejected_row(error, clip_id=clip_id, uri=str(path.absolute()), decoder="kimore"))
    state.rejected.append({"clip_id": clip_id, "code": error.code, "message": error.cause})


def _read_sheets(state: _Import, subject: str, folder: Path) -> dict[int, ClinicalSheet]:
    """Score sheets by exercise folder (normally five copies of one); doubtful ones become warnings."""
    sheets: dict[int, ClinicalSheet] = {}
    for exercise in EXERCISES:
        files = sorted((folder / f"Es{exercise}" / "Label").glob("ClinicalAssessment_*.xlsx"))
        if not files:
            continue
        file = next((file for file in files if file.stem.endswith(f"_{subject}")), files[0])
        _check_inside(state.root, file)
        try:
            key = hashlib.sha256(read_source(file, MAX_BYTES)).hexdigest()
            if key not in state.sheets:
                state.sheets[key] = read_clinical_sheet(file)
        except DataError as error:
            state.warnings.append(f"{subject} Es{exercise}: score sheet not used, {error}")
            continue
        sheet = state.sheets[key]
        if sheet.subject != subject:
            state.warnings.append(
                f"{file.name} of {subject} Es{exercise} is about {sheet.subject!r}; not used"
            )
        else:
            sheets[exercise] = sheet
    if not sheets:
        state.warnings.append(f"{subject}: no score sheet, so unlabelled")
    elif len(set(map(repr, sheets.values()))) > 1:
        state.warnings.append(f"{subject}: the score sheets of its exercises differ; each uses its own")
    for exercise, sheet in _one_each(sheets).items():
        state.warnings += score_warnings(f"{subject} Es{exercise}", exercise, sheet)
    return sheets


def _one_each(sheets: dict[int, ClinicalSheet]) -> dict[int, ClinicalSheet]:
    """The sheet that each exercise's score comes from."""
    first = next(iter(sheets.values()), None)
    return {k: sheets.get(k, first) for k in EXERCISES} if first else {}


def score_warnings(name: str, exercise: int, sheet: ClinicalSheet) -> list[str]:
    """Scores outside their scale, and totals that are not the sum of their parts."""
    total, primary, control = (part.get(exercise) for part in (sheet.total, sheet.primary, sheet.control))
    found = []
    for label, value, top in (("TS", total, 50), ("PO", primary, 15), ("CF", control, 35)):
        if value is not None and not -_SCORE_TOLERANCE <= value <= top + _SCORE_TOLERANCE:
            found.append(f"{name}: {label} {value:g} is outside 0 to {top}")
    if total is not None and primary is not None and control is not None:
        gap = total - primary - control
        if abs(gap) > _SCORE_TOLERANCE:
            found.append(f"{name}: TS {total:.2f} is not PO + CF = {primary + control:.2f}")
    return found


def _report(state: _Import) -> dict:
    bad = {item["clip_id"] for item in state.rejected}
    scored = [
        clip["clip_id"] for clip in state.clips if clip["score"] is not None and clip["clip_id"] not in bad
    ]
    shares = state.states / max(int(state.states.sum()), 1)
    return {
        "kind": "kimore",
        "source": str(state.root.absolute()),
        "recordings": len(state.clips),
        "subjects": len({clip["subject_id"] for clip in state.clips}),
        "frames": state.frames,
        "labelled": len(scored),
        "unlabelled": [clip["clip_id"] for clip in state.clips if clip["score"] is None],
        "missing": state.missing,
        "rejected": state.rejected,
        "tracking": {
            "tracked": float(shares[2]),
            "inferred": float(shares[1]),
            "untracked": float(shares[0]),
        },
        "merged_rows": state.merged_rows,
        "masked_joints": state.masked_joints,
        "warnings": state.warnings,
    }
