"""Poses of an articulated body seen from the side or the front, without a camera: angles are known."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.rendered.body import Motion, Shape, pose_body


def pose_of(angles: dict[str, np.ndarray], time_s: np.ndarray, view: str = "side") -> dict[str, Any]:
    """A pose as `Recording.pose` gives it; (T,) radians by the names of `body.ANGLES`, 100 px per metre."""
    motion = Motion.standing(len(time_s), 1.0)
    motion.angles[:] = 0
    for name, values in angles.items():
        motion[name][:] = values
    joints = pose_body(motion, Shape()).joints
    across = joints[..., 2] if view == "side" else -joints[..., 0]
    keypoints = 100 * np.stack([across + 2, 3 - joints[..., 1]], axis=-1)
    return {
        "keypoints": keypoints.astype(np.float32),
        "confidence": np.full(keypoints.shape[:2], 0.9, np.float32),
        "skeleton": "mpii16",
        "time_s": np.asarray(time_s, np.float64),
        "width_px": 400,
        "height_px": 300,
    }
