"""OpenPose's output: a folder with one JSON file per frame, CLIP_000000000012_keypoints.json.

Layout: people[].pose_keypoints_2d is x, y, confidence per joint, 0 0 0 = not found; pose_keypoints_3d is
x, y, z, confidence. 25 joints are the order BODY_25, 18 joints the order COCO (with a neck, which is left out
when it is read: it is the middle of the shoulders). Source: OpenPose, doc/02_output.md.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import DataError
from pipelines.formats.clip_files import by_clip, by_frame, clip_name, file_name
from pipelines.formats.frame_people import FramePeople
from pipelines.formats.joint_names import BODY25, OPENPOSE18, joints_of
from pipelines.formats.json_text import dumps, entry, numbers, read_json, short
from pipelines.formats.tracks import Track, filled, times

VERSION = 1.3
MAX_FILES, MAX_FILE_BYTES = 2_000_000, 4 * 2**20
LOST = (
    "time stamps (frame numbers are kept)",
    "boxes",
    "size of the picture",
    "score and other facts of clips",
)
_NAME = re.compile(r"(.+)_(\d{12})_keypoints", re.DOTALL)
_REMEDY = "write the folder again with OpenPose's --write_json"


def write_openpose(tracks: list[Track], facts: dict[str, dict], target: Path) -> int:
    """Write one folder per clip into `target`; number of files.

    Raises:
        DataError: a skeleton that is neither body25 nor coco17.
    """
    del facts
    for track in tracks:
        if track.skeleton not in ("body25", "coco17"):
            cause = f"OpenPose has the joints BODY_25 or COCO, clip {track.clip_id} has {track.skeleton}"
            raise DataError(target, cause, "say --skeleton body25 or --skeleton coco17 to map the joints")
    count = 0
    for clip_id, people in by_clip(tracks):
        name = file_name(clip_id)
        (target / name).mkdir()
        ready = {track.person: short(_in_order(track)) for track in people}
        for frame, _, present in by_frame(people):
            listed = [_person(track, ready[track.person][position]) for track, position in present]
            path = target / name / f"{name}_{frame:012d}_keypoints.json"
            path.write_text(dumps({"version": VERSION, "people": listed}), encoding="utf-8")
            count += 1
    return count


def _in_order(track: Track) -> np.ndarray:
    """(T, J * (C + 1)) numbers in OpenPose's order; the neck of its COCO order is the shoulders' middle."""
    keypoints, sure = filled(track)
    table = np.concatenate([keypoints, sure[..., None]], axis=-1)
    if track.skeleton == "coco17":
        joints = joints_of("coco17")
        sides = [joints.index("left_shoulder"), joints.index("right_shoulder")]
        neck = table[:, sides].mean(axis=1, keepdims=True)
        neck[(sure[:, sides] == 0).any(1)] = 0
        order = [joints.index(name) if name in joints else len(joints) for name in OPENPOSE18]
        table = np.concatenate([table, neck], axis=1)[:, order]
    return table.reshape(len(table), -1)


def _person(track: Track, numbers_of_frame: list[float]) -> dict:
    empty: dict[str, list] = {
        f"{part}_keypoints_{size}": []
        for size in ("2d", "3d")
        for part in ("pose", "face", "hand_left", "hand_right")
    }
    key = f"pose_keypoints_{track.keypoints.shape[2]}d"
    return {"person_id": [track.person], **empty, key: numbers_of_frame}


def read_openpose(
    path: Path, skeleton: str, rate_hz: float, size: tuple[int | None, int | None]
) -> tuple[list[Track], dict[str, dict], list[str]]:
    """Read a folder of frames, or a folder of such folders.

    Returns:
        Tracks (unit px, or m for 3-D), no facts, and warnings.

    Raises:
        DataError, SecurityError: not in this layout; as `read_json`.
        ConfigError: no rate_hz.
    """
    files = _files(path)
    tracks, warnings = [], []
    for clip_id, frames in files.items():
        people: FramePeople | None = None
        for frame, file in sorted(frames.items()):
            content = read_json(file, MAX_FILE_BYTES)
            for order, item in enumerate(entry(file, "the file", content, "people", list)):
                keypoints, sure = _points(file, f"person {order}", item)
                if people is None:
                    name = _skeleton(file, len(keypoints), skeleton)
                    unit = "px" if keypoints.shape[1] == 2 else "m"
                    people = FramePeople(path, clip_id, name, unit, str(file.parent.absolute()))
                time_s = times(file, np.array([frame]), rate_hz)[0]
                order_in_set = _without_neck(keypoints), _without_neck(sure)
                people.add(frame, time_s, order, _person_id(item), *order_in_set, None)
        if people is None:
            warnings.append(f"clip {clip_id}: no person in any frame, left out")
            continue
        found, told = people.tracks(*size)
        tracks += found
        warnings += told
    return tracks, {}, warnings


def _files(path: Path) -> dict[str, dict[int, Path]]:
    """Files of a folder and its subfolders by clip and frame."""
    if not path.is_dir():
        raise DataError(path, "this is no folder", "name the folder of OpenPose's JSON files")
    found: dict[str, dict[int, Path]] = {}
    listed = [*path.glob("*_keypoints.json"), *path.glob("*/*_keypoints.json")]
    if len(listed) > MAX_FILES:
        raise DataError(
            path, f"the folder holds {len(listed):,} files", f"import at most {MAX_FILES:,} at once"
        )
    for file in sorted(listed):
        name = _NAME.fullmatch(file.stem)
        if not name:
            raise DataError(
                file, "the name is not CLIP_ and 12 digits and _keypoints.json", "rename the file"
            )
        frames = found.setdefault(clip_name(file, name[1]), {})
        if int(name[2]) in frames:
            raise DataError(
                file, f"the same frame of this clip is in {frames[int(name[2])].parent}", "remove one"
            )
        frames[int(name[2])] = file
    if not found:
        raise DataError(
            path, "the folder holds no *_keypoints.json", "name the folder of OpenPose's JSON files"
        )
    return found


def _points(file: Path, where: str, person: Any) -> tuple[np.ndarray, np.ndarray]:
    flat, width = entry(file, where, person, "pose_keypoints_2d", list), 3
    if not flat and isinstance(person.get("pose_keypoints_3d"), list):
        flat, width = person["pose_keypoints_3d"], 4
    table = numbers(file, f"keypoints of {where}", flat, (-1,))
    if not len(table) or len(table) % width or len(table) > 1000 * width:
        raise DataError(file, f"{where} has {len(table)} numbers, no multiple of {width}", _REMEDY)
    table = table.reshape(-1, width)
    return table[:, :-1], table[:, -1]


def _skeleton(file: Path, joints: int, given: str) -> str:
    found = {len(BODY25): "body25", len(OPENPOSE18): "coco17"}.get(joints)
    if found and given in ("", found):
        return found
    if given and len(joints_of(given)) == joints:
        return given
    cause = f"a person has {joints} joints, not the 25 of BODY_25 or the 18 of COCO"
    raise DataError(file, cause, f"give the skeleton of the file; {given or 'none'} was given")


def _without_neck(values: np.ndarray) -> np.ndarray:
    """(18, ...) in OpenPose's COCO order -> (17, ...) in COCO's own; other sets as they are."""
    if len(values) != len(OPENPOSE18):
        return values
    return values[[OPENPOSE18.index(name) for name in joints_of("coco17")]]


def _person_id(person: dict) -> object:
    listed = person.get("person_id")
    return listed[0] if isinstance(listed, list) and len(listed) == 1 else None
