"""How a person is bent and what they reach, in a frame of their own body: 49 channels per frame.

Judges of exercises score posture and reached position. Joint coordinates relative to the root hide both
behind where the camera stood and how tall the person is; angles between segments, and positions in trunk
lengths in a frame that is turned to face the way the person faces, show them.

Origin in the middle of the ankles, x to the person's left along the line of hips and ankles, y up, z forward.
The frame is fixed for a whole recording, so that the person's own turning and leaning stays visible. Then a
median filter and a low-pass, so that the sensor's noise is not mistaken for motion.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import median_filter

from aqa_models.skeletons import map_keypoints, skeleton

_BODY = "c20"
_LOW_PASS_HZ = 5.0
_MEDIAN_S = 0.15  # 5 frames of a camera with 26 to 30 frames a second
_NEEDED = ("pelvis", "shoulder_center", "left_hip", "right_hip", "left_ankle", "right_ankle")

_WHOLE = (
    *("trunk_forward", "trunk_left", "trunk_inclination", "spine_bend"),
    *("shoulders_yaw", "shoulders_tilt", "hips_yaw", "hips_tilt", "knees_yaw", "knees_tilt", "twist"),
    *("head_forward", "head_left"),
    *("pelvis_x", "pelvis_y", "pelvis_z", "upper_spine_x", "upper_spine_y", "upper_spine_z"),
    *("wrist_distance", "ankle_distance", "knee_distance", "knees_per_ankles"),
)
_SIDE = (
    *("elbow", "shoulder_to_trunk", "shoulder_to_vertical", "arm_frontal", "arm_sagittal"),
    *("wrist_height", "wrist_outward", "wrist_forward"),
    *("knee", "hip", "thigh_to_vertical", "knee_over_ankle_outward", "knee_over_ankle_forward"),
)
CHANNELS: tuple[str, ...] = _WHOLE + tuple(f"{side}_{name}" for side in ("left", "right") for name in _SIDE)
"""Names of the channels in order: 23 of the whole body, 13 of the left and the same 13 of the right side.

Angles are radians, everything else trunk lengths. A joint's angle is pi when the limb is straight; `outward`
is away from the middle of the body on either side, so that left and right are alike.
"""


def body_channels(
    keypoints: np.ndarray, skeleton_name: str, rate_hz: float
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Body-frame angles and positions of one recording.

    Args:
        keypoints: (T, J, 3) of one person, any length unit, in a right-handed frame with the second
            coordinate up; NaN = not available.
        skeleton_name: name of the joint set of the keypoints (aqa_models/skeletons.py). Joints are taken by
            name, missing ones derived where that is possible.
        rate_hz: frames per second, uniform.

    Returns:
        (T, 49) float32, and `CHANNELS`. Gaps of a joint are bridged linearly and its ends held. The
        channels of a joint that is never seen, and that cannot be derived, are NaN in all frames; all others
        are finite.

    Raises:
        ValueError: the keypoints are two-dimensional or empty, the joints that fix the frame are never seen,
            or the person has no extent; the rate is not positive.
    """
    keypoints = np.asarray(keypoints, dtype=np.float64)
    if keypoints.ndim != 3 or keypoints.shape[2] != 3:
        raise ValueError(
            f"body angles need 3-D keypoints of shape (T, J, 3), got {keypoints.shape}; "
            "2-D poses do not show which way a person faces"
        )
    if not len(keypoints):
        raise ValueError("there are no frames")
    if not rate_hz > 0:
        raise ValueError(f"rate_hz must be positive, got {rate_hz}")
    xyz = _in_body_frame(bridge_gaps(map_keypoints(keypoints, skeleton_name, _BODY)))
    body = _Body(smooth(xyz, rate_hz))
    whole = _whole_body(body)
    sides = [_one_side(body, side) for side in ("left", "right")]
    return np.stack([*whole, *sides[0], *sides[1]], axis=1).astype(np.float32), CHANNELS


def bridge_gaps(xyz: np.ndarray) -> np.ndarray:
    """(T, J, 3): gaps filled linearly, ends held; a coordinate that is never finite stays NaN."""
    flat = xyz.reshape(len(xyz), -1).copy()
    frames = np.arange(len(flat))
    for column in flat.T:
        finite = np.isfinite(column)
        if finite.any() and not finite.all():
            column[:] = np.interp(frames, frames[finite], column[finite])
    return flat.reshape(xyz.shape)


def smooth(xyz: np.ndarray, rate_hz: float) -> np.ndarray:
    """(T, ...) without single wrong frames and without what is faster than 5 Hz.

    A median over about 0.15 s, then a Butterworth filter of second order run forward and backward. Recordings
    of fewer than 11 frames a second hold nothing faster, and only the median is taken.
    """
    window = 1 + 2 * round(_MEDIAN_S / 2 * rate_hz)
    smoothed = median_filter(xyz, size=(window,) + (1,) * (xyz.ndim - 1), mode="nearest")
    if 0.45 * rate_hz > _LOW_PASS_HZ and len(xyz) > 2:
        # Here, because it takes 1.5 s to import, and every worker of a training imports this file.
        from scipy.signal import butter, sosfiltfilt

        sections = butter(2, _LOW_PASS_HZ, fs=rate_hz, output="sos")
        smoothed = sosfiltfilt(sections, smoothed, axis=0, padlen=min(9, len(xyz) - 1))
    return np.asarray(smoothed)


class _Body:
    """The joints (T, 3) by name."""

    def __init__(self, xyz: np.ndarray):
        self._joints = dict(zip(skeleton(_BODY).joints, np.moveaxis(xyz, 1, 0), strict=True))

    def __getitem__(self, joint: str) -> np.ndarray:
        return self._joints[joint]

    def bone(self, start: str, end: str) -> np.ndarray:
        return self[end] - self[start]


def _in_body_frame(xyz: np.ndarray) -> np.ndarray:
    """(T, J, 3) turned about the vertical, moved and scaled: x left, y up, z forward, in trunk lengths."""
    seen = _Body(xyz)
    for joint in _NEEDED:
        if not np.isfinite(seen[joint]).all():
            raise ValueError(f"the joint {joint!r} is never seen, and it fixes the frame of the body")
    line = seen.bone("right_hip", "left_hip") + seen.bone("right_ankle", "left_ankle")
    trunk = np.median(np.linalg.norm(seen.bone("pelvis", "shoulder_center"), axis=1))
    # As complex numbers, so that the median of the directions does not depend on where angles wrap.
    across = line[:, 0] + 1j * line[:, 2]
    mean = across.sum()
    if not (abs(mean) > 0 and trunk > 0):
        raise ValueError("the hips and ankles, or pelvis and shoulders, lie in one point")
    yaw = np.angle(mean) + np.median(np.angle(across / mean))
    left = np.array([np.cos(yaw), 0.0, np.sin(yaw)])
    up = np.array([0.0, 1.0, 0.0])
    turned = xyz @ np.stack([left, up, np.cross(left, up)], axis=1) / trunk
    body = _Body(turned)
    return turned - np.median((body["left_ankle"] + body["right_ankle"]) / 2, axis=0)


def _whole_body(body: _Body) -> list[np.ndarray]:
    trunk, lower = body.bone("pelvis", "shoulder_center"), body.bone("pelvis", "spine")
    head = body.bone("shoulder_center", "head")
    lines = [body.bone(f"right_{joint}", f"left_{joint}") for joint in ("shoulder", "hip", "knee")]
    turns = [np.unwrap(_yaw(line)) if np.isfinite(line).all() else _yaw(line) for line in lines]
    tilts = [np.arctan2(line[:, 1], np.hypot(line[:, 0], line[:, 2])) for line in lines]
    apart = {
        joint: np.linalg.norm(body.bone(f"left_{joint}", f"right_{joint}"), axis=1)
        for joint in ("wrist", "ankle", "knee")
    }
    return [
        np.arctan2(trunk[:, 2], trunk[:, 1]),
        np.arctan2(trunk[:, 0], trunk[:, 1]),
        _angle(trunk, np.array([0.0, 1.0, 0.0])),
        _angle(lower, body.bone("spine", "shoulder_center")),
        *(part for pair in zip(turns, tilts, strict=True) for part in pair),
        np.angle(np.exp(1j * (turns[0] - turns[1]))),
        np.arctan2(head[:, 2], head[:, 1]),
        np.arctan2(head[:, 0], head[:, 1]),
        *body["pelvis"].T,
        *body["shoulder_center"].T,
        apart["wrist"],
        apart["ankle"],
        apart["knee"],
        # Feet together would make the ratio of knees to ankles explode and say nothing more.
        apart["knee"] / np.maximum(apart["ankle"], 0.1),
    ]


def _one_side(body: _Body, side: str) -> list[np.ndarray]:
    outward = 1.0 if side == "left" else -1.0

    def bone(start: str, end: str) -> np.ndarray:
        return body.bone(f"{side}_{start}", f"{side}_{end}")

    upper_arm, thigh, shank = bone("shoulder", "elbow"), bone("hip", "knee"), bone("ankle", "knee")
    down = np.array([0.0, -1.0, 0.0])
    wrist = body[f"{side}_wrist"]
    return [
        _angle(-upper_arm, bone("elbow", "wrist")),
        _angle(upper_arm, body.bone("shoulder_center", "pelvis")),
        _angle(upper_arm, down),
        np.arctan2(outward * upper_arm[:, 0], -upper_arm[:, 1]),
        np.arctan2(upper_arm[:, 2], -upper_arm[:, 1]),
        wrist[:, 1],
        outward * wrist[:, 0],
        wrist[:, 2],
        _angle(-thigh, -shank),
        _angle(thigh, body.bone("pelvis", "shoulder_center")),
        _angle(thigh, down),
        outward * shank[:, 0],
        shank[:, 2],
    ]


def _yaw(line: np.ndarray) -> np.ndarray:
    """(T,) turn of a line from right to left about the vertical; positive = the left side ahead."""
    return np.arctan2(line[:, 2], line[:, 0])


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(T,) angle between vectors (..., 3), exact near 0 and pi where arccos is not."""
    across = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.arctan2(across, (a * b).sum(axis=-1))
