"""FineDiving-Pose arrays: COMPETITION/pred_comp_INDEX.npz, key `pred`, 96 frames x 16 MPII joints x 2 px.

The input of HP-MCoRe's skeletal encoder. A clip is named COMPETITION_INDEX and is extracted with the sampling
uniform:96; other lengths are refused, because stretching poses afterwards is not what was published.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pipelines.datasets.npz_arrays import NpzArrays
from pipelines.errors import DataError
from pipelines.formats.clip_files import clip_name, file_name
from pipelines.formats.tracks import Track, times, unfilled

FRAMES, JOINTS = 96, 16
MAX_FILES = 200_000
LOST = (
    "confidence (it is read back as 1)",
    "frame numbers and time stamps (they are read back as 0 to 95 at the given rate)",
    "boxes",
    "size of the picture",
    "people other than the athlete",
    "score and other facts of clips",
)
_CLIP = re.compile(r"(.+)_(\d{1,9})", re.DOTALL)
_FILE = re.compile(r"pred_comp_(\d{1,9})")


def write_finediving(tracks: list[Track], facts: dict[str, dict], target: Path) -> int:
    """Write the arrays of every athlete (person 0) below `target`; number of files.

    Raises:
        DataError: other joints, frames or units than the format has, or a clip that is not named
            COMPETITION_INDEX.
    """
    del facts
    count = 0
    for track in tracks:
        if track.person:
            continue
        _check(track, target)
        name = _CLIP.fullmatch(track.clip_id)
        if not name or str(int(name[2])) != name[2]:
            remedy = "name the clips COMPETITION_INDEX, e.g. 01_35"
            raise DataError(
                target, f"clip {track.clip_id} does not end in _ and the number of the dive", remedy
            )
        folder = target / file_name(name[1])
        folder.mkdir(exist_ok=True)
        np.savez(folder / f"pred_comp_{name[2]}.npz", pred=track.keypoints)
        count += 1
    return count


def _check(track: Track, target: Path) -> None:
    frames, _, size = track.keypoints.shape
    if track.skeleton != "mpii16":
        cause = f"FineDiving-Pose has MPII's 16 joints, clip {track.clip_id} has {track.skeleton}"
        raise DataError(target, cause, "say --skeleton mpii16, or extract with a network of these joints")
    if track.unit != "px" or size != 2:
        cause = f"FineDiving-Pose holds 2-D pixels, clip {track.clip_id} has {size}-D {track.unit}"
        raise DataError(target, cause, "export 3-D keypoints as trc, mmpose or pyskl")
    if frames != FRAMES:
        cause = f"FineDiving-Pose holds {FRAMES} frames, clip {track.clip_id} has {frames}"
        raise DataError(target, cause, "extract the clips with --sampling uniform:96")


def read_finediving(
    path: Path, skeleton: str, rate_hz: float, size: tuple[int | None, int | None]
) -> tuple[list[Track], dict[str, dict], list[str]]:
    """Read the folders of all competitions below `path`.

    Returns:
        Tracks, no facts, and warnings.

    Raises:
        DataError: no such files, or arrays of another size.
        SecurityError: pickled objects, compression bombs.
        ConfigError: no rate_hz.
    """
    if skeleton not in ("", "mpii16"):
        raise DataError(path, "FineDiving-Pose has MPII's 16 joints", "leave the skeleton out")
    files = sorted(path.glob("*/pred_comp_*.npz")) if path.is_dir() else []
    if not 0 < len(files) <= MAX_FILES:
        cause = f"the folder holds {len(files):,} files named COMPETITION/pred_comp_INDEX.npz"
        raise DataError(path, cause, "name the folder that holds the folders of the competitions")
    tracks, third = [], 0
    for file in files:
        number = _FILE.fullmatch(file.stem)
        if not number:
            raise DataError(file, "the name is not pred_comp_ and a number", "rename the file")
        pred = _read_array(file)
        third += pred.shape[2] == 3
        sure = pred[..., 2] if pred.shape[2] == 3 else np.asarray(np.isfinite(pred).all(-1), np.float32)
        xy, sure = unfilled(pred[..., :2].copy(), sure)
        index = np.arange(FRAMES, dtype=np.int32)
        clip_id = f"{clip_name(file, file.parent.name)}_{int(number[1])}"
        uri, width, height = str(file.absolute()), *size
        time_s = times(file, index, rate_hz)
        tracks.append(Track(clip_id, uri, 0, "mpii16", "px", index, time_s, xy, sure, None, width, height))
    return tracks, {}, [f"arrays with confidence as third number: {third}"] if third else []


def _read_array(file: Path) -> np.ndarray:
    """(96, 16, 2 or 3) float32; also stored flat, as the published loader reshapes."""
    with NpzArrays(file) as arrays:
        if "pred" not in arrays.names:
            raise DataError(file, "there is no array pred", "write it with np.savez(file, pred=...)")
        head = arrays.header("pred")
        count = int(np.prod(head.shape, dtype=np.int64))
        if head.dtype.kind != "f" or count not in (FRAMES * JOINTS * 2, FRAMES * JOINTS * 3):
            cause = f"pred is {head.dtype} {head.shape}, expected floats of {FRAMES} x {JOINTS} x 2"
            raise DataError(file, cause, "give one array of 96 frames per dive")
        with np.errstate(over="ignore"):
            return arrays.read("pred").reshape(FRAMES, JOINTS, -1).astype(np.float32)
