"""The verb `store export`: rows of a pose table -> files of another program."""

from __future__ import annotations

import difflib
import os
import shutil
import uuid
from pathlib import Path
from types import ModuleType

import pyarrow as pa

from pipelines.errors import ConfigError, DataError, StorageError
from pipelines.formats import FORMATS, coco_json, finediving_npz, mmpose_json, openpose_json, pyskl, trc
from pipelines.formats.clip_files import facts_of
from pipelines.formats.tracks import missing, tracks_of, with_skeleton

MODULES: dict[str, ModuleType] = {
    "coco": coco_json,
    "mmpose": mmpose_json,
    "pyskl": pyskl,
    "finediving-pose": finediving_npz,
    "openpose": openpose_json,
    "trc": trc,
}
_WRITERS = {
    "coco": coco_json.write_coco,
    "mmpose": mmpose_json.write_mmpose,
    "pyskl": pyskl.write_pyskl,
    "finediving-pose": finediving_npz.write_finediving,
    "openpose": openpose_json.write_openpose,
    "trc": trc.write_trc,
}
_FILLED = {"coco", "mmpose", "pyskl", "openpose"}


def export_poses(poses: pa.Table, clips: pa.Table, kind: str, target: Path, *, skeleton: str = "") -> dict:
    """Write poses for another program; nothing is left behind where it fails.

    Args:
        poses: rows of POSES; rejected ones are left out and counted.
        clips: rows of CLIPS; score, action type, split and so on go along where the format has room.
        kind: a key of `pipelines.formats.FORMATS`.
        target: new folder; never one that exists.
        skeleton: map the joints to this one first; empty = as stored.

    Returns:
        Counts of what was written and left out, what the format does not hold, and warnings.

    Raises:
        ConfigError: unknown kind or skeleton, or the folder exists.
        DataError: no poses, or poses that the format cannot hold.
        StorageError: the disk is full or read-only.
    """
    check_kind(kind)
    target = Path(target)
    if target.exists() or target.is_symlink():
        raise ConfigError(target, "it exists and is never overwritten", "name a new folder")
    tracks, rejected = tracks_of(poses)
    tracks = [with_skeleton(track, skeleton) for track in tracks]
    if not tracks:
        cause = f"there are no poses to export ({sum(rejected.values())} rejected rows)"
        raise DataError(target, cause, "extract or import clips first")
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        part.mkdir(parents=True)
        files = _WRITERS[kind](tracks, facts_of(clips), part)
        os.replace(part, target)
    except OSError as error:
        raise StorageError(
            target, f"cannot be written: {error.strerror}", "check path, space and rights"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    gone, joints = sum(int(missing(track).sum()) for track in tracks), sum(t.confidence.size for t in tracks)
    others = sum(track.person > 0 for track in tracks)
    dropped = others if kind == "finediving-pose" else 0
    return {
        "kind": kind,
        "target": str(target.absolute()),
        "files": files,
        "clips": len({track.clip_id for track in tracks}),
        "people": len(tracks) - dropped,
        "people_left_out": dropped,
        "frames": sum(len(track.time_s) for track in tracks if not (dropped and track.person)),
        "missing_joints": gone,
        "rejected_left_out": dict(sorted(rejected.items())),
        "lost": list(MODULES[kind].LOST),
        "warnings": _warnings(kind, gone, joints, [track.unit for track in tracks]),
    }


def _warnings(kind: str, gone: int, joints: int, units: list[str]) -> list[str]:
    found = []
    if gone:
        written = {
            "trc": "empty cells",
            "finediving-pose": "NaN, which the published network does not expect",
        }
        form = "0 with confidence 0" if kind in _FILLED else written[kind]
        found.append(f"{gone:,} of {joints:,} joints are not available; they are written as {form}")
    if kind == "trc" and "px" in units:
        found.append(
            f"{units.count('px')} tracks are 2-D: pixels, y down, Z = 0; OpenSim expects metres, y up"
        )
    return found


def check_kind(kind: str) -> None:
    """Refuse a format that does not exist, naming the nearest."""
    if kind not in FORMATS:
        near = difflib.get_close_matches(kind, FORMATS, n=1)
        remedy = f"did you mean {near[0]!r}" if near else f"choose one of: {', '.join(FORMATS)}"
        raise ConfigError(kind, "unknown format of poses", remedy)
