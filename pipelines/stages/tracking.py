"""Boxes of single frames -> tracks of persons, by motion alone.

SORT's scheme (Bewley et al. 2016): a track predicts its box, the Hungarian algorithm assigns boxes to
predictions, what is left begins or ends tracks. From its successors: sure boxes choose first (ByteTrack,
Zhang et al. 2022), and the camera's motion is taken off the prediction (BoT-SORT, Aharon et al. 2022).
Overlap is generalised IoU (Rezatofighi et al. 2019), which also ranks boxes that do not touch: a diver leaves
his last box within a frame or two. Nothing is random: the same boxes give the same tracks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

START_SCORE = 0.3
"""Least score of a box that begins a track (MMPose's own threshold); unsure boxes only continue one."""
PATIENCE_S = 1.0
"""A track not seen for longer than this has ended; at least two frames are waited for."""
_SURE = 0.5  # boxes with at least this score choose their track first
_LEAST_GIOU = -0.3  # of a box and the predicted box; two boxes of equal size 0.86 widths apart, side by side
_LEAST_GIOU_UNSURE = 0.3
_DUPLICATE_IOU = 0.6  # a box that overlaps another person's this much begins no track
_HIDDEN = 0.5  # share of a person's predicted box that another box covers
_GAIN = 0.3  # how far a new displacement moves the velocity


@dataclass
class Track:
    """One person, frame by frame.

    Attributes:
        frames: (n,) positions of the frames, ascending, in which the person was detected.
        boxes: (n, 4) float32 x1 y1 x2 y2.
        scores: (n,) float32.
        doubtful: positions at which this person and another part, one of whom had hidden the other: from
            there on the two may be exchanged.
    """

    frames: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    doubtful: list[int] = field(default_factory=list)


def overlap(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU and generalised IoU of every pair.

    Args:
        first: (N, 4) boxes.
        second: (M, 4) boxes.

    Returns:
        (N, M) IoU in [0, 1] and (N, M) GIoU in (-1, 1].
    """
    one, two = first[:, None], second[None]
    inner = np.clip(np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2]), 0, None)
    hull = np.maximum(one[..., 2:], two[..., 2:]) - np.minimum(one[..., :2], two[..., :2])
    common, around = inner.prod(axis=-1), hull.prod(axis=-1)
    area = (first[:, 2:] - first[:, :2]).prod(axis=1)[:, None] + (second[:, 2:] - second[:, :2]).prod(axis=1)
    union = np.maximum(area - common, 1e-9)
    iou = common / union
    return iou, iou - (around - union) / np.maximum(around, 1e-9)


def track_shot(
    counts: np.ndarray, boxes: np.ndarray, scores: np.ndarray, time_s: np.ndarray, camera: np.ndarray
) -> list[Track]:
    """Tracks of one shot, in order of their first box.

    Args:
        counts: (T,) boxes per frame, N in all.
        boxes: (N, 4) x1 y1 x2 y2 in px.
        scores: (N,).
        time_s: (T,) seconds.
        camera: (T, 4) motion of the picture since the frame before (`camera.camera_motion`), NaN = unknown.

    Returns:
        Tracks; those of fewer than three boxes (fewer in shots under 30 frames) are taken for false alarms.
    """
    step = float(np.median(np.diff(time_s))) if len(time_s) > 1 else 1.0
    patience = max(2, round(PATIENCE_S / max(step, 1e-6)))
    tracker = _Tracker(patience)
    ends = np.cumsum(counts)
    motion = np.where(np.isnan(camera), np.array([1, 0, 0, 0], camera.dtype), camera).astype(np.float64)
    for frame, (end, count) in enumerate(zip(ends, counts, strict=True)):
        tracker.step(
            frame, boxes[end - count : end].astype(np.float64), scores[end - count : end], motion[frame]
        )
    fewest = min(3, max(1, len(counts) // 10))
    kept = [track for track in tracker.tracks if len(track.frames) >= fewest]
    return sorted(
        kept, key=lambda track: (track.frames[0], float(track.boxes[0][0]), float(track.boxes[0][1]))
    )


class _Tracker:
    """State of the tracks while a shot is gone through."""

    def __init__(self, patience: int):
        self.patience = patience
        self.tracks: list[Track] = []
        self.alive = np.empty(0, int)  # numbers of the tracks not ended
        self.box = np.empty((0, 4))  # where each was last seen, in the present frame's px
        self.velocity = np.empty((0, 2))  # of its centre, px per frame, the camera's motion taken off
        self.missed = np.empty(0, int)  # frames since then
        self.seen = np.empty(0, int)  # boxes it has
        self.hider = np.empty(0, int)  # track that covered it when it was last looked for; -1 = none

    def step(self, frame: int, boxes: np.ndarray, scores: np.ndarray, motion: np.ndarray) -> None:
        """Assign the boxes of one frame."""
        self._move_with_camera(motion)
        # A track seen once has no velocity; long unseen ones slow down instead of leaving the picture.
        ahead = self.velocity * np.minimum(self.missed + 1, 8)[:, None]
        predicted = self.box + np.tile(ahead, 2)
        taken = np.full(len(self.alive), -1)
        free = np.ones(len(boxes), bool)
        _, giou = overlap(predicted, boxes)
        for least, wanted in ((_LEAST_GIOU, scores >= _SURE), (_LEAST_GIOU_UNSURE, scores < _SURE)):
            rows, columns = np.flatnonzero(taken < 0), np.flatnonzero(wanted & free)
            for row, column in _assign(giou[np.ix_(rows, columns)], least):
                taken[rows[row]], free[columns[column]] = columns[column], False
        hit = taken >= 0
        self._note_doubt(frame, predicted, boxes, taken)
        for place in np.flatnonzero(hit):
            track = self.tracks[self.alive[place]]
            track.frames.append(frame)
            track.boxes.append(boxes[taken[place]].astype(np.float32))
            track.scores.append(float(scores[taken[place]]))
        self._update(hit, boxes[taken[hit]])
        self._begin(frame, boxes, scores, free)

    def _move_with_camera(self, motion: np.ndarray) -> None:
        a, b, x, y = motion
        turn = np.array([[a, b], [-b, a]])
        size = (self.box[:, 2:] - self.box[:, :2]) / 2 * np.hypot(a, b)
        centre = (self.box[:, :2] + self.box[:, 2:]) / 2 @ turn + (x, y)
        self.box = np.concatenate([centre - size, centre + size], axis=1)
        self.velocity = self.velocity @ turn

    def _note_doubt(self, frame: int, predicted: np.ndarray, boxes: np.ndarray, taken: np.ndarray) -> None:
        """Mark where persons part of whom one had hidden the other: they may have changed places."""
        hit = taken >= 0
        for place in np.flatnonzero(hit & (self.hider >= 0)):
            track, other = int(self.alive[place]), int(self.hider[place])
            self.tracks[track].doubtful.append(frame)
            self.tracks[other].doubtful.append(frame)
        self.hider[hit] = -1
        lost, seen = np.flatnonzero(~hit), np.flatnonzero(hit)
        if len(lost) and len(seen):
            cover = _covered(predicted[lost], boxes[taken[seen]])
            best = cover.argmax(axis=1)
            hidden = cover.max(axis=1) > _HIDDEN
            self.hider[lost[hidden]] = self.alive[seen[best[hidden]]]

    def _update(self, hit: np.ndarray, boxes: np.ndarray) -> None:
        shift = ((boxes[:, :2] + boxes[:, 2:]) - (self.box[hit, :2] + self.box[hit, 2:])) / 2
        shift /= (self.missed[hit] + 1)[:, None]
        gain = np.where(self.seen[hit] == 1, 1.0, _GAIN)[:, None]
        self.velocity[hit] += gain * (shift - self.velocity[hit])
        self.box[hit] = boxes
        self.seen[hit] += 1
        self.missed = np.where(hit, 0, self.missed + 1)
        keep = self.missed < self.patience
        self.alive, self.box, self.velocity = self.alive[keep], self.box[keep], self.velocity[keep]
        self.missed, self.seen, self.hider = self.missed[keep], self.seen[keep], self.hider[keep]

    def _begin(self, frame: int, boxes: np.ndarray, scores: np.ndarray, free: np.ndarray) -> None:
        """Begin tracks with the sure boxes that are free and no second box on the same person."""
        known, new = np.flatnonzero(~free).tolist(), []
        starts = np.flatnonzero(free & (scores >= START_SCORE))
        for place in starts[np.argsort(-scores[starts], kind="stable")]:
            if not len(known) or overlap(boxes[place][None], boxes[known])[0].max() < _DUPLICATE_IOU:
                known.append(place)
                new.append(place)
        if not new:
            return
        self.alive = np.concatenate([self.alive, len(self.tracks) + np.arange(len(new))])
        for place in new:
            self.tracks.append(Track([frame], [boxes[place].astype(np.float32)], [float(scores[place])]))
        self.box = np.concatenate([self.box, boxes[new]])
        self.velocity = np.concatenate([self.velocity, np.zeros((len(new), 2))])
        self.missed = np.concatenate([self.missed, np.zeros(len(new), int)])
        self.seen = np.concatenate([self.seen, np.ones(len(new), int)])
        self.hider = np.concatenate([self.hider, np.full(len(new), -1)])


def _covered(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, M) share of each box that each other box covers."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.clip(high - low, 0, None).prod(axis=-1) / np.maximum(area, 1e-9)[:, None]


def _assign(giou: np.ndarray, least: float) -> list[tuple[int, int]]:
    """Pairs (row, column) of greatest total overlap, none below `least`."""
    if not giou.size:
        return []
    from scipy.optimize import linear_sum_assignment

    # Pairs below the bound cost as much as no pair, so that they never push a good pair aside.
    rows, columns = linear_sum_assignment(np.maximum(giou, least), maximize=True)
    return [pair for pair in zip(rows, columns, strict=True) if giou[pair] > least]
