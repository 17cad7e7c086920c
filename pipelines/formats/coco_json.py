"""COCO keypoint annotations: images, annotations, categories; `pycocotools.coco.COCO` loads them.

Layout: https://cocodataset.org/#format-data. A keypoint is x, y, v with v = 0 not available, 2 available;
`bbox` is x, y, width, height. Beside the standard's keys stand `videos` (as in COCO-style tracking data),
`time_s` of images, and `person` and `keypoint_scores` of annotations; other programs pass over them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from aqa_models.skeletons import SKELETONS
from pipelines.errors import DataError
from pipelines.formats.clip_files import by_clip, by_frame, file_name, known_facts
from pipelines.formats.frame_people import FramePeople
from pipelines.formats.joint_names import joints_of, skeleton_of
from pipelines.formats.json_text import dumps, entry, numbers, read_json, short
from pipelines.formats.tracks import Track, filled, missing, times

FILE = "annotations.json"
LOST = ("the pictures: images are named CLIP/FRAME.jpg, write them from the videos under these names",)
_REMEDY = "write the file again in COCO's layout"


def write_coco(tracks: list[Track], facts: dict[str, dict], target: Path) -> int:
    """Write `annotations.json` into the folder `target`; number of files.

    Raises:
        DataError: 3-D keypoints or metres, which COCO cannot hold.
    """
    for track in tracks:
        if track.unit != "px" or track.keypoints.shape[2] != 2:
            cause = (
                f"COCO holds 2-D pixels, clip {track.clip_id} has {track.keypoints.shape[2]}-D {track.unit}"
            )
            raise DataError(target, cause, "export 3-D keypoints as trc, mmpose or pyskl")
    skeletons = list(dict.fromkeys(track.skeleton for track in tracks))
    with (target / FILE).open("w", encoding="utf-8") as stream:
        stream.write(f'{{"info":{dumps({"description": "poses, exported by aqa"})},"licenses":[]')
        for key, items in (
            ("categories", (_category(name, number + 1) for number, name in enumerate(skeletons))),
            ("videos", _videos(tracks, facts)),
            ("images", _images(tracks)),
            ("annotations", _annotations(tracks, skeletons)),
        ):
            stream.write(f',"{key}":[')
            for count, item in enumerate(items):
                stream.write(f"{',' if count else ''}\n{dumps(item)}")
            stream.write("]")
        stream.write("}\n")
    return 1


def _category(name: str, number: int) -> dict:
    bones = SKELETONS[name].bones if name in SKELETONS else ()
    edges = [[parent + 1, child + 1] for parent, child in bones]  # COCO counts joints from 1 here
    joints = {"keypoints": list(joints_of(name)), "skeleton": edges, "joint_set": name}
    return {"id": number, "name": "person", "supercategory": "person", **joints}


def _videos(tracks: list[Track], facts: dict[str, dict]) -> Iterator[dict]:
    for number, (clip_id, people) in enumerate(by_clip(tracks), start=1):
        yield {
            "id": number,
            "name": clip_id,
            "uri": people[0].uri,
            **_size(people[0]),
            **facts.get(clip_id, {}),
        }


def _size(track: Track) -> dict:
    return {"width": track.width_px or 0, "height": track.height_px or 0}


def _images(tracks: list[Track]) -> Iterator[dict]:
    image = 0
    for number, (clip_id, people) in enumerate(by_clip(tracks), start=1):
        for frame, time_s, _ in by_frame(people):
            image += 1
            name = f"{file_name(clip_id)}/{frame:08d}.jpg"
            where = {"video_id": number, "frame_id": frame, "time_s": time_s}
            yield {"id": image, "file_name": name, **_size(people[0]), **where}


def _annotations(tracks: list[Track], skeletons: list[str]) -> Iterator[dict]:
    image = number = 0
    for _, people in by_clip(tracks):
        ready = {track.person: (*map(short, filled(track)), missing(track)) for track in people}
        for _, _, present in by_frame(people):
            image += 1
            for track, position in present:
                number += 1
                xy, sure, gone = (part[position] for part in ready[track.person])
                flat = [
                    value for point, out in zip(xy, gone, strict=True) for value in (*point, 0 if out else 2)
                ]
                yield {
                    "id": number,
                    "image_id": image,
                    "category_id": skeletons.index(track.skeleton) + 1,
                    "keypoints": flat,
                    "num_keypoints": int((~gone).sum()),
                    "iscrowd": 0,
                    "score": float(np.mean(sure)),
                    "person": track.person,
                    "keypoint_scores": sure,
                    **_box(track, position, gone),
                }


def _box(track: Track, position: int, gone: np.ndarray) -> dict:
    """`bbox` and `area`: the row's box, else the tight box of the joints, said so."""
    extra: dict[str, Any] = {}
    if track.box is not None and np.isfinite(track.box[position]).all():
        x1, y1, x2, y2 = track.box[position].astype(np.float64).tolist()
    else:
        extra = {"bbox_from": "joints"}
        points = track.keypoints[position][~gone].astype(np.float64)
        (x1, y1), (x2, y2) = (points.min(0), points.max(0)) if len(points) else ((0, 0), (0, 0))
    width, height = float(x2 - x1), float(y2 - y1)
    return {"bbox": [float(x1), float(y1), width, height], "area": width * height, **extra}


def read_coco(
    path: Path, skeleton: str, rate_hz: float, size: tuple[int | None, int | None]
) -> tuple[list[Track], dict[str, dict], list[str]]:
    """Read COCO keypoint annotations, ours or anybody's.

    Images of one `video_id` are a clip; without videos, images of one folder, or of one name before the
    frame's number; an image that is only a number is a clip of its own.

    Returns:
        Tracks, facts of the clips, and warnings.

    Raises:
        DataError, SecurityError: not in this layout; as `read_json`.
        ConfigError: the file does not name its joints, or has no time stamps, and none are given.
    """
    path = path / FILE if path.is_dir() else path
    content = read_json(path)
    images = _by_id(path, "images", entry(path, "the file", content, "images", list))
    categories = _by_id(path, "categories", entry(path, "the file", content, "categories", list))
    videos = _by_id(path, "videos", content.get("videos") or [])
    where = {number: _place(path, image, videos) for number, image in images.items()}
    people: dict[str, FramePeople] = {}
    seen: dict[int, int] = {}
    listed = entry(path, "the file", content, "annotations", list)
    for note in sorted(listed, key=lambda note: where.get(_number(path, note, "image_id"), ("", -1))[1]):
        number = _number(path, note, "image_id")
        if number not in images or _number(path, note, "category_id") not in categories:
            raise DataError(path, f"annotation {note.get('id')} names an unknown image or category", _REMEDY)
        if "keypoints" not in note or note.get("iscrowd"):
            continue  # boxes and masks without joints
        clip_id, frame = where[number]
        if clip_id not in people:
            name = _skeleton(path, categories[note["category_id"]], skeleton)
            people[clip_id] = FramePeople(
                path, clip_id, name, "px", _uri(path, images[number], videos, clip_id)
            )
        time_s = images[number].get("time_s")
        time_s = (
            float(time_s) if isinstance(time_s, float | int) else times(path, np.array([frame]), rate_hz)[0]
        )
        points = _points(path, note, len(joints_of(people[clip_id].skeleton)))
        person = note.get("person", people[clip_id].rank_of(note.get("track_id")))
        people[clip_id].add(frame, time_s, seen.get(number, 0), person, *points)
        seen[number] = seen.get(number, 0) + 1
    return _collect(path, people, images, videos, where, size)


def _collect(path, people, images, videos, where, size) -> tuple[list[Track], dict[str, dict], list[str]]:
    sizes = {clip_id: images[number] for number, (clip_id, _) in where.items()}
    tracks, warnings = [], []
    for clip_id, found in people.items():
        width, height = sizes[clip_id].get("width"), sizes[clip_id].get("height")
        known = all(isinstance(side, int) and 0 < side < 2**31 for side in (width, height))
        more, told = found.tracks(*((width, height) if known else size))
        tracks += more
        warnings += told
    facts = {str(video.get("name")): known_facts(path, video) for video in videos.values()}
    empty = sorted({clip_id for clip_id, _ in where.values()} - set(people))
    if empty:
        warnings.append(f"clips without a person, left out: {len(empty)}, the first {empty[0]}")
    return tracks, facts, warnings


def _by_id(path: Path, what: str, items: list) -> dict[int, dict]:
    found = {_number(path, item, "id"): item for item in items}
    if len(found) != len(items):
        raise DataError(path, f"two {what} have the same id", _REMEDY)
    return found


def _number(path: Path, item: Any, key: str) -> int:
    return entry(path, "an entry", item, key, int)


def _place(path: Path, image: dict, videos: dict[int, dict]) -> tuple[str, int]:
    """Clip and frame number of an image."""
    if image.get("video_id") in videos and isinstance(image.get("frame_id"), int):
        return entry(path, "a video", videos[image["video_id"]], "name", str), image["frame_id"]
    name = PurePosixPath(entry(path, "an image", image, "file_name", str).replace("\\", "/"))
    stem, frame = re.fullmatch(r"(.*?)[_\-. ]*(\d{0,12})", name.stem, re.DOTALL).groups()  # type: ignore[union-attr]
    folder = name.parent.name
    if folder and not re.fullmatch(r"(train|val|test)?\d{0,4}|images?|frames?|data|\.\.", folder):
        stem = folder if not stem else f"{folder}_{stem}"
    if not stem or not frame:
        return name.stem, 0
    return stem, int(frame)


def _uri(path: Path, image: dict, videos: dict[int, dict], clip_id: str) -> str:
    video = videos.get(image.get("video_id"), {})  # type: ignore[arg-type]
    uri = video.get("uri")
    return uri if isinstance(uri, str) and uri else f"{path.absolute()}#{clip_id}"


def _skeleton(path: Path, category: dict, given: str) -> str:
    names = category.get("keypoints")
    names = [str(name) for name in names] if isinstance(names, list) else []
    return skeleton_of(path, names, len(names) if names else len(joints_of(given or "coco17")), given)


def _points(path: Path, note: dict, joints: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(J, 2) keypoints, (J,) confidence, box."""
    where = f"annotation {note.get('id')}"
    flat = numbers(path, f"keypoints of {where}", note["keypoints"], (3 * joints,)).reshape(joints, 3)
    gone = flat[:, 2] == 0
    keypoints = np.where(gone[:, None], 0, flat[:, :2])
    if "keypoint_scores" in note:
        sure = numbers(path, f"keypoint_scores of {where}", note["keypoint_scores"], (joints,))
    else:
        sure = np.ones(joints)
    box = None
    if "bbox" in note and "bbox_from" not in note:
        x, y, width, height = numbers(path, f"bbox of {where}", note["bbox"], (4,))
        box = np.array([x, y, x + width, y + height])
    return keypoints, np.where(gone, 0, sure), box
