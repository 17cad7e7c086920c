"""How far a video's poses are from those a model learned from: a measured distance, not a guess.

Two descriptions of a clip, both free of where and how large the athlete is in the picture: *view*, the mean
posture as the camera sees it, and *movement*, how far and how fast each joint goes, and for how long. Lengths
are in trunk lengths, nothing is scaled by the training clips, so that few suffice. The distance of two
clips is the root mean square of the differences, and that of a video the distance to the nearest clip. It is
held against the distances of the training people from each other: each one's clips to the nearest clip of
somebody else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqa_models.skeletons import map_keypoints, skeleton

MOST_CLIPS = 400
"""Clips of the training that a video is compared with, at most."""
FEWEST_CLIPS = 8
MARGIN = 2.0
"""A new person may be farther from n people than those from each other: by chance one in n + 1 is."""
_BODY = "c15"
BLOCKS = ("view", "movement")


@dataclass(frozen=True)
class Known:
    """A training clip as the distance sees it.

    Attributes:
        clip_id, subject, action_type: of the clip.
        blocks: view and movement -> numbers.
        seconds: duration.
        frame_rate: of the file, frames per second.
        confidence: mean over frames and joints; infinite where poses have none.
        score: judged; None if it has none.
    """

    clip_id: str
    subject: str
    action_type: str
    blocks: dict[str, np.ndarray]
    seconds: float
    frame_rate: float
    confidence: float = float("inf")
    score: float | None = None


@dataclass(frozen=True)
class Distance:
    """One distance of a video.

    Attributes:
        block: view or movement.
        value: to the nearest training clip.
        limit: the greatest distance of any training person from the others.
        nearest: that clip.
        nearest_action: its action type.
    """

    block: str
    value: float
    limit: float
    nearest: str
    nearest_action: str

    @property
    def far(self) -> bool:
        """Whether the video is much farther away than any training person."""
        return self.value > MARGIN * self.limit


def describe(keypoints: np.ndarray, time_s: np.ndarray, source: str) -> dict[str, np.ndarray]:
    """View and movement of a clip.

    Args:
        keypoints: (T, J, C), NaN = not available.
        time_s: (T,) seconds.
        source: name of the skeleton.

    Returns:
        view (15 C,) in trunk lengths; movement (30 + 1,): for each joint the spread of its place in trunk
        lengths and its median speed in trunk lengths per second, and the logarithm of the duration. Joints
        never seen count as lying at the pelvis and not moving.
    """
    body = map_keypoints(keypoints.astype(np.float64), source, _BODY)
    names = skeleton(_BODY)
    pelvis, shoulders = names.index("pelvis"), names.index("shoulder_center")
    body = body - body[:, pelvis : pelvis + 1]
    trunk = np.linalg.norm(body[:, shoulders], axis=-1)
    trunk = trunk[np.isfinite(trunk) & (trunk > 0)]
    body = body / (np.median(trunk) if len(trunk) else 1.0)
    seen = np.isfinite(body)
    count = np.maximum(seen.sum(axis=0), 1)
    mean = np.where(seen, body, 0).sum(axis=0) / count
    spread = np.sqrt((np.where(seen, body - mean, 0) ** 2).sum(axis=0) / count)
    step = np.maximum(np.diff(time_s), 1e-6)
    speed = np.linalg.norm(np.where(seen[1:] & seen[:-1], np.diff(body, axis=0), 0), axis=-1) / step[:, None]
    pace = np.median(speed, axis=0) if len(speed) else np.zeros(body.shape[1])
    length = np.log(max(time_s[-1] - time_s[0], 1e-2))
    movement = np.concatenate([np.linalg.norm(spread, axis=-1), pace, [length]])
    return {"view": mean.ravel(), "movement": movement}


def distances(blocks: dict[str, np.ndarray], known: list[Known], action_type: str) -> list[Distance]:
    """Distances of a video from the training clips of its action type.

    Args:
        blocks: of the video, by `describe`.
        known: training clips.
        action_type: of the video; with fewer than `FEWEST_CLIPS` clips of it, all clips are taken.

    Returns:
        One per block; empty if there are fewer than `FEWEST_CLIPS` clips at all, or all of one person.
    """
    alike = [clip for clip in known if clip.action_type == action_type]
    clips = alike if len(alike) >= FEWEST_CLIPS else known
    if len(clips) < FEWEST_CLIPS or len({clip.subject for clip in clips}) < 2:
        return []
    subjects = np.array([clip.subject for clip in clips])
    found = []
    for block in BLOCKS:
        table = np.stack([clip.blocks[block] for clip in clips])
        apart = np.sqrt(((table[:, None] - table[None]) ** 2).mean(axis=-1))
        apart[subjects[:, None] == subjects[None]] = np.inf
        mine = np.sqrt(((table - blocks[block]) ** 2).mean(axis=-1))
        nearest = clips[int(mine.argmin())]
        limit = float(apart.min(axis=1).max())
        found.append(Distance(block, float(mine.min()), limit, nearest.clip_id, nearest.action_type))
    return found


def nearest_action(blocks: dict[str, np.ndarray], known: list[Known]) -> str:
    """Action type of the training clip whose movement is nearest, over all action types."""
    if not known:
        return ""
    table = np.stack([clip.blocks["movement"] for clip in known])
    mine = ((table - blocks["movement"]) ** 2).mean(axis=-1)
    return known[int(mine.argmin())].action_type
