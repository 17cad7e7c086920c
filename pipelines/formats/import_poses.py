"""The verb `data import` for files of other programs: -> clips and poses."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipelines.datasets.source_file import sha256_of
from pipelines.errors import ConfigError, DataError
from pipelines.formats import coco_json, finediving_npz, mmpose_json, openpose_json, pyskl, trc
from pipelines.formats.export_poses import MODULES, check_kind
from pipelines.formats.tracks import Track, clip_table, missing, pose_table

_READERS = {
    "coco": coco_json.read_coco,
    "mmpose": mmpose_json.read_mmpose,
    "pyskl": pyskl.read_pyskl,
    "finediving-pose": finediving_npz.read_finediving,
    "openpose": openpose_json.read_openpose,
    "trc": trc.read_trc,
}


def import_poses(
    kind: str, source: Path, *, skeleton: str = "", rate_hz: float = 0.0, width: int = 0, height: int = 0
) -> tuple[pa.Table, pa.Table, dict]:
    """Read poses that another program, or `export_poses`, wrote.

    Args:
        kind: a key of `pipelines.formats.FORMATS`.
        source: file or folder.
        skeleton: order of the joints; needed only where the file does not say it.
        rate_hz: frames per second; needed only where the file holds no times.
        width, height: size of the upright frame in px, used where the file does not say it; 0 = unknown.

    Returns:
        Clips, poses (a row per clip and person), and a report with counts, masked joints and warnings.

    Raises:
        ConfigError: unknown kind or skeleton, or something the file does not say and is not given.
        DataError: the files are not in the format's layout, named with file and place.
        SecurityError: they could execute or exhaust.
    """
    check_kind(kind)
    source = Path(source)
    if (width > 0) != (height > 0) or width < 0 or height < 0:
        raise ConfigError(
            "width, height", "only one is given, or a negative one", "give both in pixels, or none"
        )
    if not source.exists():
        raise DataError(source, "there is no such file or folder", "check the path")
    tracks, facts, warnings = _READERS[kind](source, skeleton, rate_hz, (width or None, height or None))
    if not tracks:
        raise DataError(source, "there are no people in it", "check that these are the files you meant")
    check_names(source, tracks)
    note = f"read from {kind}" + (f", times from the given rate of {rate_hz:g} Hz" if rate_hz else "")
    clips, poses = clip_table(tracks, facts), pose_table(tracks, kind, _hash(kind, source, tracks), note)
    report = {
        "kind": kind,
        "source": str(source.absolute()),
        "recordings": len(clips),
        "people": len(tracks),
        "subjects": len({name for name in clips["subject_id"].to_pylist() if name}),
        "frames": sum(len(track.time_s) for track in tracks),
        "labelled": len(clips) - clips["score"].null_count,
        "masked_joints": sum(int(missing(track).sum()) for track in tracks),
        "not_in_format": list(MODULES[kind].LOST),
        "warnings": warnings,
    }
    return clips, poses, report


def check_names(source: Path, tracks: list[Track]) -> None:
    """Clips are named once per person, and by names that are no paths."""
    seen = set()
    for track in tracks:
        if set("/\\") & set(track.clip_id) or not track.clip_id.isprintable() or not track.clip_id:
            raise DataError(
                source, f"{track.clip_id[:60]!r} is no name of a clip", "write _ instead of / and \\"
            )
        if (track.clip_id, track.person) in seen:
            cause = f"clip {track.clip_id} has person {track.person} twice"
            raise DataError(source, cause, "give every clip its own name")
        seen.add((track.clip_id, track.person))


def _hash(kind: str, source: Path, tracks: list[Track]) -> dict[str, str]:
    """sha256 of the file that each track was read from, by uri; of folders with a file per frame none."""
    if kind == "openpose":
        return {}
    single = source if source.is_file() else source / getattr(MODULES[kind], "FILE", "")
    if single.is_file():
        digest = sha256_of(single)
        return {track.uri: digest for track in tracks}
    return {track.uri: sha256_of(Path(track.uri)) for track in tracks if Path(track.uri).is_file()}
