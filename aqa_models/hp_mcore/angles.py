"""How a body is bent, seen from no side in particular: angles and distances that a turn of the picture keeps.

The graph convolutions of the skeletal encoder read positions. In a dive the whole body turns, and what the
judges look at - bent knees, legs apart, a loose tuck, the line at the entry - is small against that; with few
hundred dives it is learned from angles and not from positions (docs/decisions.md). Our own addition.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aqa_models.hp_mcore.skeletal import SKELETON, body_size, fill_missing

# Cosine of the angle at the middle joint.
BENT = (
    ("right_ankle", "right_knee", "right_hip"),
    ("left_ankle", "left_knee", "left_hip"),
    ("right_knee", "right_hip", "right_shoulder"),
    ("left_knee", "left_hip", "left_shoulder"),
    ("right_wrist", "right_elbow", "right_shoulder"),
    ("left_wrist", "left_elbow", "left_shoulder"),
    ("right_elbow", "right_shoulder", "right_hip"),
    ("left_elbow", "left_shoulder", "left_hip"),
)
# Distance in body sizes.
APART = (
    ("right_ankle", "left_ankle"),
    ("right_knee", "left_knee"),
    ("right_wrist", "left_wrist"),
    ("right_ankle", "right_shoulder"),
    ("left_ankle", "left_shoulder"),
    ("right_hip", "left_hip"),
    ("right_shoulder", "left_shoulder"),
)
NUM_ANGLES = len(BENT) + len(APART) + 2 + 3 * 2
"""A: angles, distances, trunk against legs and arms, and how upright trunk, legs and arms are."""


def joint_angles(keypoints: Tensor) -> Tensor:
    """Bends, distances and the line of the body in every frame.

    Args:
        keypoints: (B, T, 16, 2) px, MPII order, y downwards; NaN = not available (see `fill_missing`).

    Returns:
        (B, T, A), all of the order of 1; the same for the mirrored performance up to left and right.
    """
    body = fill_missing(keypoints)
    body = body / body_size(body)[:, None, None, None]

    def joint(name: str) -> Tensor:
        return body[:, :, SKELETON.index(name)]

    def direction(a: Tensor, b: Tensor) -> Tensor:
        return (b - a) / (b - a).norm(dim=-1, keepdim=True).clamp(min=1e-6)

    bent = [
        (direction(joint(middle), joint(a)) * direction(joint(middle), joint(b))).sum(-1)
        for a, middle, b in BENT
    ]
    apart = [(joint(a) - joint(b)).norm(dim=-1) for a, b in APART]
    trunk = direction(joint("pelvis"), joint("thorax"))
    legs = direction(joint("pelvis"), (joint("right_ankle") + joint("left_ankle")) / 2)
    arms = direction(joint("thorax"), (joint("right_wrist") + joint("left_wrist")) / 2)
    line = [(trunk * legs).sum(-1), (trunk * arms).sum(-1)]
    upright = [part for limb in (trunk, legs, arms) for part in (limb[..., 1], limb[..., 0].abs())]
    return torch.stack([*bent, *apart, *line, *upright], dim=-1)
