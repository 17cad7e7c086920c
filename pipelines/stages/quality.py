"""Figures that say how far a clip's poses can be trusted."""

from __future__ import annotations

import numpy as np

SEEN = 0.3
"""Least confidence of a joint that counts for the jitter (MMPose's threshold for drawing)."""


def pose_quality(keypoints: np.ndarray, confidence: np.ndarray, time_s: np.ndarray) -> dict[str, float]:
    """Quality columns of a row of poses.

    Args:
        keypoints: (T, J, C) px; NaN = joint not available.
        confidence: (T, J) in [0, 1].
        time_s: (T,) seconds, ascending.

    Returns:
        mean_confidence: mean over frames and available joints; NaN if there is none.
        jitter_px: median length of the joints' second differences over three frames in a row, px per frame
            squared; of available joints with confidence of at least `SEEN` in all three, in frames evenly
            spaced (each step within a quarter of the clip's median step). NaN if there are none. It holds
            true acceleration too: compare clips of one action, not a dive with a squat.
    """
    available = np.isfinite(keypoints).all(axis=-1)
    mean = float(confidence[available].mean()) if available.any() else float("nan")
    if len(time_s) < 3:
        return {"mean_confidence": mean, "jitter_px": float("nan")}
    seen = available & (confidence >= SEEN)
    step = np.diff(time_s)
    even = np.abs(step - np.median(step)) <= 0.25 * np.median(step)
    use = seen[:-2] & seen[1:-1] & seen[2:] & (even[:-1] & even[1:])[:, None]
    second = np.linalg.norm(keypoints[2:] - 2 * keypoints[1:-1] + keypoints[:-2], axis=-1)[use]
    return {"mean_confidence": mean, "jitter_px": float(np.median(second)) if len(second) else float("nan")}
