"""What a masked limb could be guessed to be without any training: floors of the inpainting error."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aqa_models.skeletons import skeleton
from aqa_models.two_stage.pretext import LIMBS, PretextBatch

_OTHER = {"LA": "RA", "RA": "LA", "LL": "RL", "RL": "LL"}
_ACROSS = {"LA": ("LL", "RL"), "RA": ("LL", "RL"), "LL": ("LA", "RA"), "RL": ("LA", "RA")}


def mean_pose(sequences: list[np.ndarray], skeleton_name: str) -> Tensor:
    """Mean offset of each joint from the root over all frames of B arrays (n_b, J * C) -> (J, C)."""
    body = skeleton(skeleton_name)
    frames = np.concatenate(sequences).reshape(sum(map(len, sequences)), len(body.joints), -1)
    offsets = frames - frames[:, [body.index(body.root)]]
    return torch.from_numpy(offsets.mean(axis=0, dtype=np.float64)).float()


def guess_mean_pose(batch: PretextBatch, pose: Tensor, skeleton_name: str) -> Tensor:
    """(J, C) of `mean_pose` put at the root of each frame -> (B, T, J * C)."""
    body = skeleton(skeleton_name)
    joints = batch.slowed.unflatten(2, (len(body.joints), -1))
    return (joints[:, :, [body.index(body.root)]] + pose).flatten(2)


def guess_mirrored(batch: PretextBatch, skeleton_name: str) -> Tensor:
    """The other limb, reflected in the body's plane of symmetry in each frame, in place of the masked one.

    The plane's normal is the line between the hips for an arm and between the shoulders for a leg, since
    the mask hides a joint of the limb's own line; it runs through the middle of that line. Where the line
    has no length, the other limb is copied as it is.

    Returns:
        (B, T, J * C), other joints as in the batch.
    """
    body = skeleton(skeleton_name)
    joints = batch.slowed.unflatten(2, (len(body.joints), -1))
    guess = joints.clone()
    for row, number in enumerate(batch.limb.tolist()):
        limb = LIMBS[number]
        a, b = (joints[row, :, body.limbs[name][0]] for name in _ACROSS[limb])
        line = a - b
        normal = line / torch.linalg.vector_norm(line, dim=-1, keepdim=True).clamp(min=1e-6)
        other = joints[row][:, list(body.limbs[_OTHER[limb]])]
        away = ((other - ((a + b) / 2)[:, None]) * normal[:, None]).sum(dim=-1, keepdim=True)
        guess[row][:, list(body.limbs[limb])] = other - 2 * away * normal[:, None]
    return guess.flatten(2)
