"""MMPose's prediction files: one JSON per clip with the instances of every frame.

Two layouts exist: `demo/topdown_demo_with_mmdet.py --save-predictions` writes {meta_info, instance_info} with
`frame_id` counted from 1; `MMPoseInferencer(pred_out_dir=...)` writes a list with `frame_id` from 0, and for
pictures a list of instances. All three are read; the first is written, with `aqa`, `time_s` and `person`
beside MMPose's own keys. `bbox` is [[x1, y1, x2, y2]], as `mmpose.structures.split_instances` gives it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aqa_models.skeletons import SKELETONS
from pipelines.errors import DataError
from pipelines.formats.clip_files import by_clip, by_frame, clip_name, file_name, known_facts
from pipelines.formats.frame_people import FramePeople
from pipelines.formats.joint_names import joints_of, skeleton_of
from pipelines.formats.json_text import dumps, entry, numbers, read_json, short
from pipelines.formats.tracks import Track, filled, times

LOST = ()
_REMEDY = "write the file again with MMPose"
_NAMES = {"coco": "coco17", "halpe26": "halpe26", "mpii": "mpii16", "aic": "", "body8_26": "halpe26"}


def write_mmpose(tracks: list[Track], facts: dict[str, dict], target: Path) -> int:
    """Write CLIP.json files into the folder `target`; number of files."""
    count = 0
    for clip_id, people in by_clip(tracks):
        ready = {track.person: _short(track) for track in people}
        frames = [
            {
                "frame_id": frame + 1,
                "instances": [_instance(track, position, ready) for track, position in present],
                "time_s": time_s,
            }
            for frame, time_s, present in by_frame(people)
        ]
        first = people[0]
        ours = {"clip_id": clip_id, "uri": first.uri, "unit": first.unit, "facts": facts.get(clip_id, {})}
        ours |= {"width_px": first.width_px, "height_px": first.height_px}
        content = {"meta_info": _meta(first.skeleton), "instance_info": frames, "aqa": ours}
        (target / f"{file_name(clip_id)}.json").write_text(dumps(content) + "\n", encoding="utf-8")
        count += 1
    return count


def _short(track: Track) -> tuple[list, list]:
    keypoints, sure = filled(track)
    return short(keypoints), short(sure)


def _instance(track: Track, position: int, ready: dict[int, tuple[list, list]]) -> dict:
    keypoints, sure = ready[track.person]
    box = None if track.box is None else track.box[position]
    bbox = {} if box is None or not np.isfinite(box).all() else {"bbox": [short(box)]}
    return {
        "keypoints": keypoints[position],
        "keypoint_scores": sure[position],
        **bbox,
        "person": track.person,
    }


def _meta(skeleton: str) -> dict:
    """What MMPose calls the meta information of a data set."""
    joints = joints_of(skeleton)
    bones = [list(bone) for bone in SKELETONS[skeleton].bones] if skeleton in SKELETONS else []
    return {
        "dataset_name": skeleton,
        "num_keypoints": len(joints),
        "keypoint_id2name": {str(number): name for number, name in enumerate(joints)},
        "keypoint_name2id": {name: number for number, name in enumerate(joints)},
        "skeleton_links": bones,
    }


def read_mmpose(
    path: Path, skeleton: str, rate_hz: float, size: tuple[int | None, int | None]
) -> tuple[list[Track], dict[str, dict], list[str]]:
    """Read one prediction file, or all *.json files of a folder, one clip each.

    Returns:
        Tracks, facts of the clips, and warnings.

    Raises:
        DataError, SecurityError: not in one of the layouts; as `read_json`.
        ConfigError: skeleton or rate_hz are needed and not given.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise DataError(path, "the folder holds no .json file", "name the folder of MMPose's predictions")
    tracks, facts, warnings = [], {}, []
    for file in files:
        more, known, told = _read_file(file, skeleton, rate_hz, size)
        tracks += more
        facts |= known
        warnings += told
    return tracks, facts, warnings


def _read_file(file: Path, skeleton: str, rate_hz: float, size: tuple[int | None, int | None]):
    content = read_json(file)
    meta: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    first = 0
    if isinstance(content, dict):
        meta = entry(file, "the file", content, "meta_info", dict)
        frames, first = entry(file, "the file", content, "instance_info", list), 1
        ours = content["aqa"] if isinstance(content.get("aqa"), dict) else {}
    elif isinstance(content, list) and all(isinstance(item, dict) and "frame_id" in item for item in content):
        frames = content
    elif isinstance(content, list):
        frames = [{"frame_id": 0, "instances": content}]
    else:
        raise DataError(file, "this is no prediction file of MMPose", _REMEDY)
    clip_id = ours.get("clip_id") or clip_name(file, file.stem)
    uri = ours.get("uri") or str(file.absolute())
    if not isinstance(clip_id, str) or not isinstance(uri, str):
        raise DataError(file, "clip_id or uri is no text", _REMEDY)
    people: FramePeople | None = None
    for number, item in enumerate(frames):
        where = f"frame {number}"
        frame = entry(file, where, item, "frame_id", int) - first
        instances = entry(file, where, item, "instances", list)
        if not instances:
            continue
        time_s = item.get("time_s")
        time_s = (
            float(time_s) if isinstance(time_s, float | int) else times(file, np.array([frame]), rate_hz)[0]
        )
        for order, instance in enumerate(instances):
            keypoints, sure, box = _points(file, f"{where}, instance {order}", instance)
            if people is None:
                name = _skeleton(file, meta, len(keypoints), skeleton)
                unit = ours.get("unit") or ("px" if keypoints.shape[1] == 2 else "m")
                people = FramePeople(file, clip_id, name, "m" if unit == "m" else "px", uri)
            people.add(frame, time_s, order, instance.get("person"), keypoints, sure, box)
    if people is None:
        return [], {}, [f"clip {clip_id}: no person in any frame, left out"]
    sides = ours.get("width_px"), ours.get("height_px")
    known = all(isinstance(side, int) and 0 < side < 2**31 for side in sides)
    tracks, warnings = people.tracks(*(sides if known else size))
    return tracks, {clip_id: known_facts(file, ours.get("facts"))}, warnings


def _skeleton(file: Path, meta: dict, joints: int, given: str) -> str:
    name = str(meta.get("dataset_name", ""))
    known = _NAMES.get(name, name)
    if not given and known in SKELETONS and len(joints_of(known)) == joints:
        return known
    names = meta.get("keypoint_id2name")
    listed = [str(value) for value in names.values()] if isinstance(names, dict) else []
    return skeleton_of(file, listed, joints, given)


def _points(file: Path, where: str, instance: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    listed = entry(file, where, instance, "keypoints", list)
    points = numbers(file, f"keypoints of {where}", listed, (-1, -1))
    if not 1 <= len(points) <= 1000 or points.shape[1] not in (2, 3):
        raise DataError(file, f"keypoints of {where} have the shape {points.shape}", _REMEDY)
    sure = numbers(file, f"keypoint_scores of {where}", instance.get("keypoint_scores"), (len(points),))
    box = instance.get("bbox")
    if box is not None:
        box = box[0] if isinstance(box, list) and len(box) == 1 else box
        box = numbers(file, f"bbox of {where}", box, (4,))
    return points, sure, box
