"""Repairs poses in time: joints that jump away for a moment are replaced, and what is left is smoothed.

Pose networks look at single frames, so a limb may jump to the other side, to a bystander or to the water for
a frame or two. `repair` finds values that lie off the line between their neighbours in time and of which the
network was less sure than usual: either sign alone is wrong too often in a fast dive. `smooth` also fits a
parabola to a few frames round each value. The effect on rendered and real dives is measured by
benchmarks/pose_repair.py and told in docs/decisions.md.
"""

from __future__ import annotations

import numpy as np

OUTLIER = 3.0
"""A value is an outlier if it is so many times farther off the line than its joint usually is in the clip,"""
LEAST = 0.15
"""and by this share of the body's extent,"""
UNSURE = 0.8
"""and the network was less sure than this share of the joint's median confidence in the clip."""
PASSES = 8
"""Outliers next to each other are found one after the other, in so many passes at most."""
MAX_GAP_S = 0.4
"""Longer runs of replaced values are left as they were: a line across them would be a guess."""
HALF_WINDOW = 2
"""Frames on either side that a parabola is fitted to."""


def repair_clip(
    keypoints: np.ndarray, confidence: np.ndarray, time_s: np.ndarray, mode: str
) -> tuple[np.ndarray, np.ndarray]:
    """What `extract.smoothing` does to one clip of one person.

    Args:
        keypoints: (T, J, 2), any unit; joints that are missing throughout are NaN and stay so.
        confidence: (T, J) in [0, 1].
        time_s: (T,) increasing.
        mode: none, repair or smooth (= repair, then smooth).

    Returns:
        (T, J, 2) keypoints, and (T, J) bool: replaced by `repair`.
    """
    if mode == "none":
        return keypoints, np.zeros(keypoints.shape[:2], bool)
    if mode not in ("repair", "smooth"):
        raise ValueError(f"mode must be none, repair or smooth, got {mode!r}")
    repaired, replaced = repair(keypoints, confidence, time_s)
    if mode == "repair":
        return repaired, replaced
    return smooth(repaired, np.where(replaced, 0.5 * confidence, confidence), time_s), replaced


def repair(
    keypoints: np.ndarray, confidence: np.ndarray, time_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Replace outliers by the line between the values before and after.

    A Hampel filter on the distance from that line (OUTLIER, LEAST) for values with low confidence (UNSURE):
    the worst of neighbours is taken out first, and the distances are taken anew. At the ends of a clip the
    nearest value counts instead of the line.

    Arguments and result: see `repair_clip`.
    """
    num_frames = len(keypoints)
    known = np.asarray(np.isfinite(keypoints).all(axis=-1))
    if num_frames < 3 or not known.any():
        return keypoints, np.zeros(keypoints.shape[:2], bool)
    unsure, kept = confidence < UNSURE * _medians(confidence, known), known.copy()
    least = LEAST * _extent(keypoints, known)
    for _ in range(PASSES):
        distance = np.linalg.norm(keypoints - _line(keypoints, kept, time_s), axis=-1)
        distance = np.where(kept & np.isfinite(distance), distance, 0.0)
        typical = _medians(distance, kept)
        far = np.where(unsure & (distance > np.maximum(OUTLIER * typical, least)), distance, 0.0)
        # next to a jump the line itself is bent: only the worst of three neighbours is taken out
        padded = np.pad(far, ((1, 1), (0, 0)))
        found = (far > 0) & (far >= np.maximum(padded[:-2], padded[2:]))
        if not found.any():
            break
        kept &= ~found
    replaced = known & ~kept & _short(kept, time_s)
    line = _line(keypoints, kept, time_s)
    replaced &= np.isfinite(line).all(axis=-1)
    return np.where(replaced[..., None], line, keypoints).astype(keypoints.dtype), replaced


def smooth(keypoints: np.ndarray, confidence: np.ndarray, time_s: np.ndarray) -> np.ndarray:
    """Each value from the parabola that best fits 2 * HALF_WINDOW + 1 frames, weighted by confidence squared.

    With equal weights and even times this is the filter of Savitzky and Golay (1964). At the ends the window
    is the first or last one of the clip. Values that are not finite have no weight and stay.

    Arguments: see `repair_clip`.
    """
    num_frames, window = len(keypoints), 2 * HALF_WINDOW + 1
    if num_frames < window:
        return keypoints
    first = np.clip(np.arange(num_frames) - HALF_WINDOW, 0, num_frames - window)
    rows = first[:, None] + np.arange(window)  # (T, W)
    known = np.asarray(np.isfinite(keypoints).all(axis=-1))
    weights = np.where(known, np.maximum(confidence, 1e-2) ** 2, 0.0)[rows]  # (T, W, J)
    values = np.where(known[..., None], keypoints, 0.0)[rows].astype(np.float64)  # (T, W, J, 2)
    step = max(float(np.median(np.diff(time_s))), 1e-9)
    offset = (time_s[rows] - time_s[:, None]) / step
    powers = offset[..., None] ** np.arange(3)  # (T, W, 3)
    normal = np.einsum("twj,twp,twq->tjpq", weights, powers, powers) + 1e-9 * np.eye(3)
    right = np.einsum("twj,twp,twjc->tjpc", weights, powers, values)
    fitted = np.linalg.solve(normal, right)[..., 0, :]
    enough = known & ((weights > 0).sum(axis=1) >= 4)
    return np.where(enough[..., None], fitted, keypoints).astype(keypoints.dtype)


def _medians(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(J,) median of each joint's counted values; 0 where there are none."""
    columns = zip(values.T, counted.T, strict=True)
    return np.array([np.median(column[chosen]) if chosen.any() else 0.0 for column, chosen in columns])


def _extent(keypoints: np.ndarray, known: np.ndarray) -> float:
    """Median over the frames of the longer side of the joints' bounding box."""
    seen = keypoints[known.sum(axis=1) >= 2]
    if not len(seen):
        return 0.0
    return float(np.median((np.nanmax(seen, axis=1) - np.nanmin(seen, axis=1)).max(axis=-1)))


def _line(keypoints: np.ndarray, kept: np.ndarray, time_s: np.ndarray) -> np.ndarray:
    """(T, J, 2): on the line between the nearest kept values before and after; NaN where there is neither.

    Where there is only one of them, that value.
    """
    num_frames = len(keypoints)
    frames = np.arange(num_frames)[:, None]
    before = np.maximum.accumulate(np.where(kept, frames, -1), axis=0)
    before = np.concatenate([np.full((1, kept.shape[1]), -1), before[:-1]])
    after = np.minimum.accumulate(np.where(kept, frames, num_frames)[::-1], axis=0)[::-1]
    after = np.concatenate([after[1:], np.full((1, kept.shape[1]), num_frames)])
    has_before, has_after = before >= 0, after < num_frames
    low = np.where(has_before, before, np.where(has_after, after, 0)).clip(0, num_frames - 1)
    high = np.where(has_after, after, low).clip(0, num_frames - 1)
    span = time_s[high] - time_s[low]
    share = np.where(span > 0, (time_s[:, None] - time_s[low]) / np.where(span > 0, span, 1.0), 0.0)
    joints = np.arange(kept.shape[1])
    start, end = keypoints[low, joints], keypoints[high, joints]
    line = start + share[..., None] * (end - start)
    return np.where((has_before | has_after)[..., None], line, np.nan)


def _short(kept: np.ndarray, time_s: np.ndarray) -> np.ndarray:
    """(T, J): whether the kept values round a frame are at most MAX_GAP_S apart (at the ends: away)."""
    num_frames = len(kept)
    frames = np.arange(num_frames)[:, None]
    before = np.maximum.accumulate(np.where(kept, frames, -1), axis=0)
    after = np.minimum.accumulate(np.where(kept, frames, num_frames)[::-1], axis=0)[::-1]
    start = np.where(before >= 0, time_s[before.clip(0)], time_s[0])
    end = np.where(after < num_frames, time_s[after.clip(0, num_frames - 1)], time_s[-1])
    return end - start <= MAX_GAP_S
