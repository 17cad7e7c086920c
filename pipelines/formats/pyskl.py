"""PYSKL's and MMAction2's skeleton data: one pickle {split, annotations}.

An annotation is {frame_dir, total_frames, img_shape (height, width), original_shape, label, keypoint
(M, T, V, C), keypoint_score (M, T, V)}: M people, T frames, V joints. Written with plain arrays only and read
through `safe_pickle`, so that a stranger's file runs nothing. What the layout has no place for (names, times,
judged score, who is present) stands under the key `aqa`, which those programs pass over.
Source: PYSKL, tools/data/README.md.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.datasets.problems import shorten
from pipelines.datasets.source_file import sha256_of
from pipelines.errors import DataError
from pipelines.formats.clip_files import by_clip, by_frame, known_facts
from pipelines.formats.joint_names import joints_of, skeleton_of
from pipelines.formats.safe_pickle import read_pickle
from pipelines.formats.tracks import Track, check_frames, filled, times, unfilled

FILE = "poses.pkl"
LOST = ("boxes",)
_REMEDY = "write the file again in PYSKL's layout"


def write_pyskl(tracks: list[Track], facts: dict[str, dict], target: Path) -> int:
    """Write `poses.pkl` into the folder `target`; number of files.

    `label` is the rank of the clip's action type among all, -1 where there is none; `split` lists the clips
    of train, val and test.

    Raises:
        DataError: people of one clip in different skeletons.
    """
    actions = sorted({known["action_type"] for known in facts.values() if "action_type" in known})
    split: dict[str, list[str]] = {name: [] for name in ("train", "val", "test")}
    annotations = []
    for clip_id, people in by_clip(tracks):
        known = facts.get(clip_id, {})
        label = actions.index(known["action_type"]) if "action_type" in known else -1
        annotations.append(_annotation(clip_id, people, known, label))
        if "split" in known:
            split[known["split"]].append(clip_id)
    content = {"split": split, "annotations": annotations, "action_types": actions}
    with (target / FILE).open("wb") as stream:
        pickle.dump(content, stream, protocol=4)
    return 1


def _annotation(clip_id: str, people: list[Track], known: dict, label: int) -> dict:
    first = people[0]
    if len({(track.skeleton, track.unit, track.keypoints.shape[1:]) for track in people}) > 1:
        raise DataError(
            clip_id, "its people have different skeletons", "export one skeleton: --skeleton NAME"
        )
    frames = [(frame, time_s) for frame, time_s, _ in by_frame(people)]
    place = {frame: position for position, (frame, _) in enumerate(frames)}
    keypoint = np.zeros((len(people), len(frames), *first.keypoints.shape[1:]), np.float32)
    score = np.zeros(keypoint.shape[:3], np.float32)
    present = np.zeros(keypoint.shape[:2], np.bool_)
    for number, track in enumerate(people):
        at = [place[frame] for frame in track.frame_index.tolist()]
        keypoint[number, at], score[number, at] = filled(track)
        present[number, at] = True
    shape = (first.height_px or 0, first.width_px or 0)
    return {
        "frame_dir": clip_id,
        "total_frames": len(frames),
        "img_shape": shape,
        "original_shape": shape,
        "label": label,
        "keypoint": keypoint,
        "keypoint_score": score,
        "aqa": {
            "uri": first.uri,
            "skeleton": first.skeleton,
            "unit": first.unit,
            "person": [track.person for track in people],
            "present": present,
            "frame_index": np.array([frame for frame, _ in frames], np.int32),
            "time_s": np.array([time_s for _, time_s in frames], np.float64),
            "facts": dict(known),
        },
    }


def read_pyskl(
    path: Path, skeleton: str, rate_hz: float, size: tuple[int | None, int | None]
) -> tuple[list[Track], dict[str, dict], list[str]]:
    """Read a PYSKL pickle, ours or anybody's.

    Returns:
        Tracks (px for 2-D, m for 3-D), facts of the clips, and warnings.

    Raises:
        DataError: not in this layout.
        SecurityError: the pickle asks for anything but plain values and arrays.
        ConfigError: skeleton or rate_hz are needed and not given.
    """
    path = path / FILE if path.is_dir() else path
    content = read_pickle(path)
    listed = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(listed, list) or not listed:
        raise DataError(path, "the pickle has no list of annotations", _REMEDY)
    splits = _splits(content.get("split") if isinstance(content, dict) else None)
    uri = f"{path.absolute()}#{sha256_of(path)[:8]}"
    tracks, facts, warnings, seen = [], {}, [], set()
    for number, item in enumerate(listed):
        where = f"annotation {number}"
        name = _clip_name(path, where, item)
        if name in seen:
            raise DataError(
                path, f"{where}: the name {shorten(name)} stands twice", "give every clip its own name"
            )
        seen.add(name)
        ours = item["aqa"] if isinstance(item.get("aqa"), dict) else {}
        more = _tracks(path, where, name, item, ours, skeleton, rate_hz, size, uri)
        if not more:
            warnings.append(f"clip {name}: no joint in any frame, left out")
        tracks += more
        facts[name] = known_facts(path, ours.get("facts"))
        if not ours:
            label = item.get("label")
            facts[name] = {"action_type": str(label)} if type(label) is int and label >= 0 else {}
            facts[name] |= {"split": splits[name]} if name in splits else {}
    return tracks, facts, warnings


def _clip_name(path: Path, where: str, item: Any) -> str:
    name = item.get("frame_dir", item.get("filename")) if isinstance(item, dict) else None
    if not isinstance(name, str) or not name:
        raise DataError(path, f"{where} has no frame_dir", _REMEDY)
    return name.replace("/", "_").replace("\\", "_")


def _splits(given: Any) -> dict[str, str]:
    """Clip -> split, where the file says train, val or test; benchmarks' own names are left out."""
    found = {}
    for name, clips in given.items() if isinstance(given, dict) else ():
        if name in ("train", "val", "test") and isinstance(clips, list):
            found |= {clip: name for clip in clips if isinstance(clip, str)}
    return found


def _tracks(
    path: Path,
    where: str,
    name: str,
    item: dict,
    ours: dict,
    skeleton: str,
    rate_hz: float,
    size: tuple[int | None, int | None],
    uri: str,
) -> list[Track]:
    keypoint, score = _arrays(path, where, item)
    people, frames, joints, _ = keypoint.shape
    known = str(ours.get("skeleton", ""))
    body = known if known and not skeleton else skeleton_of(path, (), joints, skeleton)
    if len(joints_of(body)) != joints:
        raise DataError(path, f"{where}: {joints} joints, {body} has {len(joints_of(body))}", _REMEDY)
    numbers = np.asarray(ours.get("frame_index", np.arange(frames)))
    index = check_frames(path, where, numbers)
    time_s = np.asarray(ours["time_s"], np.float64) if "time_s" in ours else times(path, index, rate_hz)
    present = ours.get("present", (score != 0).any(2) | (keypoint != 0).any((2, 3)))
    person = ours.get("person", list(range(people)))
    unit = ours.get("unit", "px" if keypoint.shape[3] == 2 else "m")
    fits = isinstance(present, np.ndarray) and present.shape == (people, frames) and present.dtype == bool
    named = isinstance(person, list) and all(type(n) is int and 0 <= n < 2**31 for n in person)
    whole = fits and named and len(set(person)) == people and len(time_s) == len(index) == frames
    if not whole or unit not in ("px", "m"):
        raise DataError(path, f"{where}: its people, frames and times do not fit its arrays", _REMEDY)
    width, height = _size(item.get("img_shape"), size)
    found = []
    for number in range(people):
        at = np.flatnonzero(present[number])
        if len(at):
            xy, sure = unfilled(keypoint[number, at], score[number, at])
            given = ours.get("uri", f"{uri}#{name}")
            found.append(
                Track(
                    name,
                    str(given),
                    person[number],
                    body,
                    unit,
                    index[at],
                    time_s[at],
                    xy,
                    sure,
                    None,
                    width,
                    height,
                )
            )
    return found


def _arrays(path: Path, where: str, item: dict) -> tuple[np.ndarray, np.ndarray]:
    keypoint, score = item.get("keypoint"), item.get("keypoint_score")
    if not isinstance(keypoint, np.ndarray) or keypoint.ndim != 4 or keypoint.shape[3] not in (2, 3):
        raise DataError(path, f"{where} has no keypoint array (people, frames, joints, 2 or 3)", _REMEDY)
    if keypoint.dtype.kind not in "fiu" or 0 in keypoint.shape:
        raise DataError(path, f"{where}: keypoint is {keypoint.dtype} {keypoint.shape}", _REMEDY)
    if score is None:
        score = (keypoint != 0).any(3).astype(np.float32)  # 3-D sets carry no score: 0 0 0 = not tracked
    if (
        not isinstance(score, np.ndarray)
        or score.shape != keypoint.shape[:3]
        or score.dtype.kind not in "fiu"
    ):
        raise DataError(path, f"{where}: keypoint_score does not have one number per joint", _REMEDY)
    if item.get("total_frames", keypoint.shape[1]) != keypoint.shape[1]:
        raise DataError(path, f"{where}: total_frames is not the length of its arrays", _REMEDY)
    return keypoint, score


def _size(shape: Any, given: tuple[int | None, int | None]) -> tuple[int | None, int | None]:
    """Width and height; the file holds height and width."""
    plain = isinstance(shape, (tuple, list)) and len(shape) == 2 and all(type(n) is int for n in shape)
    return (shape[1], shape[0]) if plain and min(shape) > 0 and max(shape) < 2**31 else given
