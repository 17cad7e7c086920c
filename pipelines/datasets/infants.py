"""Infants' movements (Chambers et al. 2020): OpenPose keypoints of videos, by the tables on figshare.

    video_info.pkl              one row per video: video, fps, pixel_x, pixel_y
    pose_estimates.pkl          one row per video, frame and keypoint: video, frame, part_idx, x, y
    meta_data_clin.pkl          optional: infant, session, Risk_low0_mod1_high2_corr and ..._chron
    meta_data_yt.pkl            optional: video, infant_id
    raw_pose_estimates.pkl      not read: every person's raw peaks, from which pose_estimates was made

The published pickles hold pandas frames, and reading one means running constructors that it names, so it
is refused. docs/data.md has the lines that turn each into a pickle (of the same name) of plain columns, to be
run by whoever trusts the source: a dictionary with one numeric array per column, and texts as `video`
(numbers) with `video_names` (list of the names they stand for). Those go through the same default-deny reader
as all pickles.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.datasets.problems import first_names, shorten
from pipelines.datasets.recordings import Recordings, check_folder
from pipelines.datasets.source_file import sha256_of
from pipelines.errors import DataError, SecurityError
from pipelines.formats.safe_pickle import read_pickle

JOINTS = 18
SKELETON = "openpose18"
GROUPS = ("healthy", "low", "moderate", "high")
"""Classes of risk; the videos from the internet are the healthy ones, the clinical ones carry a rating."""
MAX_FRAMES = 200_000
_LAYOUT = "a folder with video_info.pkl and pose_estimates.pkl"
_CLINICAL = re.compile(r"[^_]+_(\d{1,4})_(\d{1,4})(_.*)?")
_CONVERT = (
    "convert it to plain columns as docs/data.md shows (section Infants), if you trust where it is from"
)


def read_infants(folder: Path) -> tuple[pa.Table, pa.Table, dict]:
    """Import the infants: one clip per video, `group` one of GROUPS where a meta data file tells it.

    Returns:
        Clips, poses (2-D pixels, skeleton openpose18; keypoints that were not found are masked) and a report.

    Raises:
        DataError: no such files, columns absent, or nothing usable.
        SecurityError: a pickle that holds more than plain columns, as the published pandas frames do.
    """
    check_folder(folder)
    found = Recordings("infants", folder, SKELETON, unit="px")
    info = _columns(folder / "video_info.pkl", ("video", "fps", "pixel_x", "pixel_y"))
    rows = _columns(folder / "pose_estimates.pkl", ("video", "frame", "part_idx", "x", "y"))
    people, warnings = _people(folder, [str(name) for name in info["video"]])
    found.warnings += warnings
    sha256 = sha256_of(folder / "pose_estimates.pkl")
    order = np.argsort(rows["video"], kind="stable")
    names, starts = np.unique(rows["video"][order], return_index=True)
    chunks = dict(zip(map(str, names), np.split(order, starts[1:]), strict=True))
    for row, name in enumerate(map(str, info["video"])):
        subject, group = people.get(name, (None, None))
        clip = {
            "clip_id": name, "uri": f"{(folder / 'pose_estimates.pkl').absolute()}#{name}",
            "subject_id": subject or name, "group": group, "action_type": "lying",
        }  # fmt: skip
        rate_hz, part = float(info["fps"][row]), chunks.pop(name, None)
        if part is None:
            found.missing.append(name)
            continue
        xy = _keypoints({column: rows[column][part] for column in ("frame", "part_idx", "x", "y")})
        if not 1 <= rate_hz <= 1000:
            found.reject(clip, f"{rate_hz:g} frames per second is no rate of a video")
        elif isinstance(xy, str):
            found.reject(clip, xy)
        else:
            time_s, note = np.arange(len(xy)) / rate_hz, f"time from the video's {rate_hz:g} frames/s"
            found.add(clip, xy, time_s, sha256=sha256, note=note)
    if chunks:
        found.warnings.append(f"poses of videos that video_info does not list: {first_names(sorted(chunks))}")
    return found.finish(_LAYOUT)


def _keypoints(rows: dict[str, np.ndarray]) -> np.ndarray | str:
    """(T, 18, 2) of one video, NaN where a keypoint was not found; or what is wrong."""
    frame, part = rows["frame"], rows["part_idx"]
    if not (np.isfinite(frame) & np.isfinite(part)).all() or (frame % 1).any() or (part % 1).any():
        return "frame and part_idx are no whole numbers"
    if frame.min() < 0 or frame.max() >= MAX_FRAMES or part.min() < 0 or part.max() >= JOINTS:
        spans = f"frames {frame.min():g} to {frame.max():g}, keypoints {part.min():g} to {part.max():g}"
        return f"{spans}; expected 0 to {MAX_FRAMES - 1:,} and 0 to 17"
    places = frame.astype(np.int64) * JOINTS + part.astype(np.int64)
    if len(np.unique(places)) != len(places):
        return "a keypoint of a frame is listed twice"
    xy = np.full((int(frame.max()) + 1, JOINTS, 2), np.nan)
    xy.reshape(-1, 2)[places] = np.stack([rows["x"], rows["y"]], axis=1)
    if np.isfinite(xy).all(axis=2).sum() == 0:
        return "no keypoint was found in any frame"
    return xy


def _people(folder: Path, videos: list[str]) -> tuple[dict[str, tuple[str, str | None]], list[str]]:
    """Subject and group of the videos that the meta data name, and warnings."""
    found: dict[str, tuple[str, str | None]] = {}
    warnings = []
    if (folder / "meta_data_yt.pkl").exists():
        table = _columns(folder / "meta_data_yt.pkl", ("video", "infant_id"))
        for video, infant in zip(map(str, table["video"]), table["infant_id"], strict=True):
            found[video] = (f"yt_{int(infant)}", GROUPS[0])
    if (folder / "meta_data_clin.pkl").exists():
        rated = ("Risk_low0_mod1_high2_corr", "Risk_low0_mod1_high2_chron")  # preterm by corrected age first
        table = _columns(folder / "meta_data_clin.pkl", ("infant", "session", *rated))
        risks = np.where(np.isfinite(table[rated[0]]), table[rated[0]], table[rated[1]])
        visits = {
            (int(infant), int(session)): GROUPS[int(risk) + 1] if risk in (0, 1, 2) else None
            for infant, session, risk in zip(table["infant"], table["session"], risks, strict=True)
        }
        for video in videos:
            match = _CLINICAL.fullmatch(video.replace("-", "_"))
            visit = (int(match[1]), int(match[2])) if match else None
            if video not in found and visit in visits:
                found[video] = (f"clin_{visit[0]}", visits[visit])
    if unknown := [video for video in videos if found.get(video, (None, None))[1] is None]:
        warnings.append(
            f"{len(unknown)} videos without rating of risk, so without group: {first_names(unknown)}"
        )
    return found, warnings


def _columns(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns of one table: numbers as float64; names (texts) as an array of text."""
    try:
        values = read_pickle(path)
    except SecurityError as error:
        raise SecurityError(path, error.cause, _CONVERT) from None
    if not isinstance(values, dict) or not values:
        raise DataError(path, f"holds a {type(values).__name__}, not a dictionary of columns", _CONVERT)
    if absent := [name for name in names if name not in values]:
        cause = f"column {absent[0]!r} is absent, there are: {first_names(map(str, values))}"
        raise DataError(path, cause, _CONVERT)
    found = {name: _column(path, name, values) for name in names}
    lengths = {len(column) for column in found.values()}
    if len(lengths) != 1 or not lengths.pop():
        raise DataError(path, "the columns are empty or of different lengths", _CONVERT)
    return found


def _column(path: Path, name: str, values: dict[str, Any]) -> np.ndarray:
    column = values[name]
    listed = values.get(f"{name}_names")
    if isinstance(listed, list):
        codes = np.asarray(column)
        whole = codes.ndim == 1 and codes.dtype.kind in "iu" and all(isinstance(text, str) for text in listed)
        if not whole or (len(codes) and not 0 <= codes.min() <= codes.max() < len(listed)):
            raise DataError(path, f"{name} are no numbers of {name}_names", _CONVERT)
        return np.array(listed)[codes]
    if isinstance(column, list) and column and all(isinstance(text, str) for text in column):
        return np.array(column)
    try:
        numbers = np.array(column, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = np.empty((0, 0))
    if numbers.ndim != 1:
        raise DataError(path, f"column {name!r} holds {shorten(type(column).__name__)}, no numbers", _CONVERT)
    return numbers
