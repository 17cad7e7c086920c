"""TRC marker files of OpenSim: tab-separated text, one file per clip and person.

Five header lines (PathFileType; names of eight numbers; the numbers; marker names, three columns each; X1 Y1
Z1 ...), then Frame#, Time and coordinates, empty where a marker is missing. Frames count from 1. Metres are
written as metres; 2-D keypoints as pixels, y down, with Z = 0. Source: OpenSim documentation, "Marker (.trc)
Files".
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pipelines.datasets.problems import shorten
from pipelines.datasets.source_file import read_source
from pipelines.errors import DataError, SecurityError
from pipelines.formats.clip_files import clip_name, file_name
from pipelines.formats.joint_names import joints_of, skeleton_of
from pipelines.formats.tracks import Track, check_frames

LOST = (
    "confidence (missing joints are empty cells; it is read back as 1)",
    "boxes",
    "size of the picture",
    "score and other facts of clips",
)
MAX_BYTES, MAX_FILES, MAX_NUMBERS = 2**27, 200_000, 2**25
_UNITS = {"m": ("m", 1.0), "cm": ("m", 0.01), "mm": ("m", 0.001), "px": ("px", 1.0)}
_PERSON = re.compile(r"(.+)~person(\d{1,6})", re.DOTALL)
_REMEDY = "write the file again as OpenSim's TRC"


def write_trc(tracks: list[Track], facts: dict[str, dict], target: Path) -> int:
    """Write CLIP.trc, and CLIP~person1.trc for further people, into `target`; number of files."""
    del facts
    for track in tracks:
        suffix = f"~person{track.person}" if track.person else ""
        name = f"{file_name(track.clip_id)}{suffix}.trc"
        (target / name).write_text(
            "\n".join([*_header(track, name), *_lines(track)]) + "\n", encoding="utf-8"
        )
    return len(tracks)


def _header(track: Track, name: str) -> list[str]:
    joints, frames, rate = joints_of(track.skeleton), len(track.time_s), f"{track.rate_hz():.10g}"
    values = [rate, rate, frames, len(joints), track.unit, rate, int(track.frame_index[0]) + 1, frames]
    return [
        f"PathFileType\t4\t(X/Y/Z)\t{name}",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        "\t".join(map(str, values)),
        "Frame#\tTime\t" + "\t\t\t".join(joints) + "\t\t",
        "\t\t" + "\t".join(f"{axis}{number + 1}" for number in range(len(joints)) for axis in "XYZ"),
        "",
    ]


def _lines(track: Track) -> list[str]:
    frames, joints, size = track.keypoints.shape
    cells = np.full((frames, joints, 3), "0", dtype="U32")
    cells[..., :size] = track.keypoints.astype(str)
    cells[~np.isfinite(track.keypoints).all(-1)] = ""
    return [
        "\t".join([str(frame + 1), repr(time_s), *row])
        for frame, time_s, row in zip(
            track.frame_index.tolist(), track.time_s.tolist(), cells.reshape(frames, -1).tolist(), strict=True
        )
    ]


def read_trc(
    path: Path, skeleton: str, rate_hz: float, size: tuple[int | None, int | None]
) -> tuple[list[Track], dict[str, dict], list[str]]:
    """Read one TRC file or all *.trc files of a folder.

    Returns:
        Tracks in metres (mm and cm are divided) or pixels, no facts, and warnings.

    Raises:
        DataError, SecurityError: not in this layout, too large.
        ConfigError: markers of no known skeleton, and none given.
    """
    del rate_hz  # the file holds times
    files = sorted(path.glob("*.trc")) if path.is_dir() else [path]
    if not 0 < len(files) <= MAX_FILES:
        raise DataError(path, f"the folder holds {len(files):,} .trc files", "name the folder of the files")
    tracks = [_read_file(file, skeleton, size) for file in files]
    flat = [track.clip_id for track in tracks if track.unit == "px"]
    return tracks, {}, [f"clips in pixels, read as 2-D without Z: {len(flat)}"] if flat else []


def _read_file(file: Path, skeleton: str, size: tuple[int | None, int | None]) -> Track:
    try:
        lines = read_source(file, MAX_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(file, f"this is no text ({error.reason} at byte {error.start})", _REMEDY) from None
    if len(lines) < 6 or not lines[0].startswith("PathFileType"):
        raise DataError(file, "this is no TRC file: the header is absent", _REMEDY)
    head = dict(zip(lines[1].split("\t"), lines[2].split("\t"), strict=False))
    unit = head.get("Units", "").strip()
    if unit not in _UNITS:
        raise DataError(
            file, f"line 3: the unit is {shorten(unit)}, not m, cm, mm or px", "correct the header"
        )
    names = [cell.strip() for cell in lines[3].split("\t")[2:] if cell.strip()]
    if head.get("NumMarkers", "").strip() != str(len(names)) or len(set(names)) != len(names) or not names:
        raise DataError(file, f"{len(names)} markers are named, NumMarkers says otherwise", _REMEDY)
    frames, times_s, xyz = _body(file, lines, len(names))
    name, order = _joints(file, names, skeleton)
    target, factor = _UNITS[unit]
    xyz = xyz[:, order] * factor
    xyz = xyz[..., :2] if target == "px" else xyz
    keypoints = xyz.astype(np.float32)
    keypoints[~np.isfinite(keypoints).all(-1)] = np.nan
    confidence = np.asarray(np.isfinite(keypoints).all(-1), np.float32)
    person = _PERSON.fullmatch(file.stem)
    clip_id, number = (person[1], int(person[2])) if person else (file.stem, 0)
    width, height = size
    return Track(
        clip_name(file, clip_id), str(file.absolute()), number, name, target, frames, times_s, keypoints,
        confidence, None, width, height,
    )  # fmt: skip


def _joints(file: Path, names: list[str], given: str) -> tuple[str, list[int]]:
    """Skeleton, and for each of its joints the marker; the order of the markers is free."""
    if given:
        wanted = joints_of(given)
        if absent := [name for name in wanted if name not in names]:
            cause = f"there is no marker {', '.join(absent[:5])} for {given}"
            raise DataError(file, cause, "rename the markers as the joints of the skeleton")
        return given, [names.index(name) for name in wanted]
    return skeleton_of(file, names, len(names), ""), list(range(len(names)))


def _body(file: Path, lines: list[str], markers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame numbers from 0, times, and (T, markers, 3) float64 with NaN for empty cells."""
    rows = [(number, line) for number, line in enumerate(lines[5:], start=6) if line.strip()]
    if not rows:
        raise DataError(file, "there are no frames below the header", _REMEDY)
    if len(rows) * 3 * markers > MAX_NUMBERS:
        cause = f"{len(rows):,} frames of {markers:,} markers are more than {MAX_NUMBERS:,} numbers"
        raise SecurityError(file, cause, "split the file")
    table = np.full((len(rows), 2 + 3 * markers), np.nan)
    for index, (number, line) in enumerate(rows):
        cells = line.split("\t")
        cells = cells[: 2 + 3 * markers] + [""] * (2 + 3 * markers - len(cells))
        try:
            table[index] = [float(cell) if cell.strip() else np.nan for cell in cells]
        except ValueError:
            wrong = next(cell for cell in cells if not _is_number(cell))
            raise DataError(
                file, f"line {number}: {shorten(wrong)} is no number", "use a decimal point"
            ) from None
    if not np.isfinite(table[:, :2]).all() or (table[:, 0] != np.round(table[:, 0])).any():
        raise DataError(file, "a frame has no whole number or no time", _REMEDY)
    if np.abs(table[:, 0]).max() > 2**31:
        raise DataError(file, "a frame number is out of range", _REMEDY)
    first = 1 if table[0, 0] >= 1 else 0  # some programs count from 0
    frames = check_frames(file, "the file", table[:, 0].astype(np.int64) - first)
    return frames, table[:, 1], table[:, 2:].reshape(len(rows), markers, 3)


def _is_number(cell: str) -> bool:
    try:
        float(cell or "0")
    except ValueError:
        return False
    return True
