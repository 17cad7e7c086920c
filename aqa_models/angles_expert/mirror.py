"""The same performance seen in a mirror: what is left of a body becomes right.

Exercises are judged alike on both sides, so a score must not change in a mirror; with few patients to learn
from this is worth knowing and not learning.
"""

from __future__ import annotations

import numpy as np

from aqa_models.body_angles import CHANNELS

# Channels of the middle of the body that point to one side: the mirror turns their sign.
SIDEWAYS = (
    *("trunk_left", "head_left", "twist", "pelvis_x", "upper_spine_x"),
    *("shoulders_yaw", "shoulders_tilt", "hips_yaw", "hips_tilt", "knees_yaw", "knees_tilt"),
)
_SWAP = {"left": "right_", "right": "left_"}
_ORDER = np.array(
    [
        CHANNELS.index(_SWAP[name.partition("_")[0]] + name.partition("_")[2])
        if name.partition("_")[0] in _SWAP
        else column
        for column, name in enumerate(CHANNELS)
    ]
)
_SIGN = np.where(np.isin(CHANNELS, SIDEWAYS), -1.0, 1.0).astype(np.float32)


def mirror(channels: np.ndarray) -> np.ndarray:
    """(..., 49) channels of `body_channels` -> those of the mirrored person."""
    return channels[..., _ORDER] * _SIGN
