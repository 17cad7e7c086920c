"""Who is the athlete: boxes of a clip's frames -> tracks -> the people the choice rule puts first.

Rules, ties to the lower track number:

* `most_motion`: longest path of the box's corners, the camera's motion taken off, in heights of the
  person. Corners, not the centre: arms that spread move no centre. Steps are means over a quarter of a
  second, so that the trembling of a detector's boxes does not add up.
* `largest`: greatest median area.
* `nearest_centre`: least median distance of the box's centre from the centre of the frame.
* `track:ID`: that track alone (numbers stand in the column `track_id`).

At a cut of the camera all tracks end. The rule chooses in every shot, and the choices of the same rank
make one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipelines.schema import CARRIED, PEOPLE, empty_row, rejected_row
from pipelines.stages.tracking import Track, track_shot

VERSION = 1  # raise when the same boxes give other rows

BRIEF_SHARE = 0.2
"""Tracks with fewer boxes than this share of the shot's longest rank behind all others."""
_STEP_S = 0.25
# A cut changes the picture by this many grey levels (of 255), and this many times more than the frames
# around it.
_CUT_CHANGE, _CUT_RATIO = 15.0, 3.0


@dataclass(frozen=True)
class _Person:
    """A track with what the rules ask; arrays over all frames from its first box to its last."""

    track_id: int
    frames: np.ndarray  # (n,) positions in the clip
    boxes: np.ndarray  # (n, 4), gaps filled linearly
    scores: np.ndarray  # (n,), NaN where filled
    doubtful: int
    motion: float
    area: float
    off_centre: float


def people_rows(detections: dict, rule: str, max_people: int) -> list[dict]:
    """Rows of PEOPLE of one clip.

    Args:
        detections: row of `detect.DETECTIONS`, all parts joined; its list columns may be lists or arrays.
        rule: most_motion, largest, nearest_centre or track:ID.
        max_people: most rows; the athlete first, then the next by the same rule.

    Returns:
        One row per person; one rejected row if nobody was found (`no_person`) or the clip was rejected.

    Raises:
        ValueError: the rule is unknown.
    """
    if detections["status"] != "ok":
        return [rejected_row(PEOPLE, {**detections, "person": 0})]
    carried = {name: detections[name] for name in ("clip_id", *CARRIED)}
    time_s = np.asarray(detections["time_s"], np.float64)
    shots = _people_of_shots(detections, time_s)
    chosen = [_ranked(people, rule) for people in shots]
    rows = []
    for rank in range(max_people):
        parts = [people[rank] for people in chosen if rank < len(people)]
        if parts:
            rows.append(empty_row(PEOPLE, **carried, person=rank, status="ok", **_columns(parts, detections)))
    if rows:
        return rows
    seen, shown = int(np.sum(detections["frame_detections"])), len(time_s)
    cause = f"{seen} unsure boxes in {shown} frames, none of which could be followed" if seen else (
        f"the detector found nobody in {shown} frames"
    )  # fmt: skip
    if rule.startswith("track:") and any(shots):
        known = ", ".join(str(person.track_id) for people in shots for person in people)
        cause = f"there is no {rule.replace(':', ' ')}; tracks of this clip: {known}"
    return [
        rejected_row(PEOPLE, {**detections, "person": 0, "error_code": "no_person", "error_message": cause})
    ]


def find_cuts(change: np.ndarray) -> np.ndarray:
    """Positions of the frames that begin a new shot.

    Hard cuts only: the change stands alone above its three neighbours on either side. A flash (two
    changes), a fast pan (many) and a dissolve (small ones) are none.

    Args:
        change: (T,) mean difference of grey levels to the frame before; NaN = unknown.
    """
    around = np.stack([_shifted(change, by) for by in (-3, -2, -1, 1, 2, 3)]) if len(change) else change
    with np.errstate(invalid="ignore"):
        most = np.where(np.isnan(around), 0, around).max(axis=0) if len(change) else change
        return np.flatnonzero((change > _CUT_CHANGE) & (change > _CUT_RATIO * most))


def _shifted(values: np.ndarray, by: int) -> np.ndarray:
    out = np.full(len(values), np.nan)
    if by > 0:
        out[by:] = values[:-by]
    else:
        out[:by] = values[-by:]
    return out


def _people_of_shots(detections: dict, time_s: np.ndarray) -> list[list[_Person]]:
    """Tracks of each shot, numbered through the clip by first appearance, left to right."""
    counts = np.asarray(detections["frame_detections"], int)
    boxes = np.asarray(detections["boxes"], np.float32).reshape(-1, 4)
    scores = np.asarray(detections["box_scores"], np.float32)
    camera = np.asarray(detections["camera"], np.float32).reshape(-1, 4)
    size = (detections["width_px"], detections["height_px"])
    edges = [0, *find_cuts(np.asarray(detections["picture_change"], np.float64)).tolist(), len(counts)]
    ends = np.concatenate([[0], np.cumsum(counts)])
    shots: list[list[_Person]] = []
    for start, end in pairwise(edges):
        first = sum(map(len, shots))
        inside = slice(ends[start], ends[end])
        moved = camera[start:end].copy()
        moved[:1] = np.nan  # the frame before belongs to another shot
        tracks = track_shot(counts[start:end], boxes[inside], scores[inside], time_s[start:end], moved)
        shots.append(
            [
                _person(first + number, track, start, time_s[start:end], moved, size)
                for number, track in enumerate(tracks)
            ]
        )
    return shots


def _person(
    track_id: int, track: Track, start: int, time_s: np.ndarray, camera: np.ndarray, size: tuple[int, int]
) -> _Person:
    at = np.asarray(track.frames)
    frames = np.arange(at[0], at[-1] + 1)
    seen = np.stack(track.boxes).astype(np.float64)
    boxes = np.stack([np.interp(time_s[frames], time_s[at], side) for side in seen.T], axis=1)
    boxes[at - at[0]] = seen
    scores = np.full(len(frames), np.nan)
    scores[at - at[0]] = track.scores
    sides = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return _Person(
        track_id=track_id,
        frames=start + frames,
        boxes=boxes,
        scores=scores,
        doubtful=len(track.doubtful),
        motion=_path(boxes, time_s[frames], camera[frames]) / float(np.median(sides[:, 1])),
        area=float(np.median(sides.prod(axis=1))),
        off_centre=float(np.median(np.hypot(*(centre - np.array(size) / 2).T))),
    )


def _path(boxes: np.ndarray, time_s: np.ndarray, camera: np.ndarray) -> float:
    """Mean length in px of the paths of a box's two corners, the camera's motion taken off.

    Args:
        boxes: (n, 4) of consecutive frames.
        time_s: (n,) seconds.
        camera: (n, 4) motion of the picture since the frame before; NaN = taken for none.
    """
    a, b, x, y = np.where(np.isnan(camera[1:]), np.array([1, 0, 0, 0]), camera[1:]).T[..., None]
    corners = boxes.reshape(-1, 2, 2)  # n, corner, coordinate
    u, v = corners[:-1, :, 0], corners[:-1, :, 1]
    carried = np.stack([a * u - b * v + x, b * u + a * v + y], axis=-1)
    steps = corners[1:] - carried  # (n - 1, 2, 2)
    # Positions of a person before a still camera, then means over quarters of a second.
    still = np.concatenate([np.zeros((1, 2, 2)), np.cumsum(steps, axis=0)])
    bins = np.floor((time_s - time_s[0]) / _STEP_S + 1e-6).astype(int)
    _, which, counts = np.unique(bins, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), 2, 2))
    np.add.at(sums, which, still)
    means = sums / counts[:, None, None]
    return float(np.linalg.norm(np.diff(means, axis=0), axis=-1).sum(axis=0).mean())


def _ranked(people: list[_Person], rule: str) -> list[_Person]:
    """The people of one shot, the athlete first."""
    if rule.startswith("track:"):
        return [person for person in people if person.track_id == int(rule.removeprefix("track:"))]
    keys = {
        "most_motion": lambda person: -person.motion,
        "largest": lambda person: -person.area,
        "nearest_centre": lambda person: person.off_centre,
    }
    if rule not in keys:
        raise ValueError(f"unknown rule {rule!r}; known: {', '.join(keys)}, track:ID")
    longest = max((np.isfinite(person.scores).sum() for person in people), default=0)

    def order(person: _Person) -> tuple:
        brief = np.isfinite(person.scores).sum() < BRIEF_SHARE * longest
        return (bool(brief), keys[rule](person), person.track_id)

    return sorted(people, key=order)


def _columns(parts: list[_Person], detections: dict) -> dict:
    """Columns of one row: the same rank in every shot. The longest part names the track."""
    frames = np.concatenate([part.frames for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    seen = np.isfinite(scores)
    longest = max(parts, key=lambda part: len(part.frames))
    return {
        "track_id": longest.track_id,
        "id_switches": sum(part.doubtful for part in parts) + len(parts) - 1,
        "missing_share": float(1 - seen.sum() / len(detections["time_s"])),
        "mean_confidence": float(scores[seen].mean()),
        "num_frames": len(frames),
        "frame_index": np.asarray(detections["frame_index"], np.int32)[frames],
        "time_s": np.asarray(detections["time_s"], np.float64)[frames],
        "box": np.concatenate([part.boxes for part in parts]).astype(np.float32).ravel(),
        "box_score": scores.astype(np.float32),
    }
