"""Poses as another camera and another pose network might have given them, for training on stored poses."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aqa_models.skeletons import skeleton

TURN, SHAKE, STRETCH = 0.15, 0.03, 0.1
"""Largest turn of the camera in radians; error of a joint in torso lengths; deviation of the log size."""


def vary_poses(keypoints: Tensor, seeds: list[list[int]]) -> Tensor:
    """Mirrors every other performance, turns and stretches each as a whole, and moves every joint a little.

    Args:
        keypoints: (B, T, 16, 2) px, MPII order; NaN = not available.
        seeds: of each performance; the same seed gives the same pose.

    Returns:
        (B, T, 16, 2) of the same dtype.
    """
    body = skeleton("mpii16")
    pelvis, thorax = body.index("pelvis"), body.index("thorax")
    varied = []
    for pose, seed in zip(keypoints.numpy(), seeds, strict=True):
        random = np.random.default_rng(seed)
        middle = np.nanmean(pose, axis=(0, 1))
        centred = pose - middle
        if random.random() < 0.5:
            centred = centred[:, body.flip_order] * np.array([-1, 1])
        angle, size = random.uniform(-TURN, TURN), np.exp(random.normal(0, STRETCH))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * size
        torso = np.nanmedian(np.linalg.norm(centred[:, thorax] - centred[:, pelvis], axis=-1))
        shaken = centred @ turn + random.normal(0, SHAKE * np.nan_to_num(torso), pose.shape)
        varied.append(shaken + middle)
    return torch.from_numpy(np.stack(varied)).to(keypoints.dtype)
