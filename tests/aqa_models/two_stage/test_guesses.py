from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from aqa_models.skeletons import flip_sides, skeleton
from aqa_models.two_stage.config import NonExpertConfig
from aqa_models.two_stage.guesses import guess_mean_pose, guess_mirrored, mean_pose
from aqa_models.two_stage.pretext import LIMBS, PretextBatch, limb_columns, make_batch

BODY = skeleton("c15")


def symmetric_body(frames: int) -> np.ndarray:
    """(T, 15, 3): moving, and in every frame its own mirror image in the plane x = 0."""
    generator = np.random.default_rng(1)
    xyz = generator.normal(size=(frames, 15, 3)).cumsum(axis=0) * 0.1
    xyz[:, [j for j in range(15) if BODY.flip_order[j] == j], 0] = 0.0
    return (xyz + flip_sides(xyz, "c15")) / 2


def batch(xyz: np.ndarray, seed: int = 0) -> PretextBatch:
    x = xyz.reshape(len(xyz), -1).astype(np.float32)
    config, seen = NonExpertConfig(pace=False), [np.ones(15, dtype=bool)]
    return make_batch([x], seen, config, limb_columns("c15", 3), [np.random.default_rng(seed)])


@pytest.mark.parametrize("seed", range(6))
def test_the_mirror_is_exact_for_a_symmetric_body_however_it_stands(seed):
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    data = batch(symmetric_body(12) @ turn.T + [1.0, 2.0, 3.0], seed)
    torch.testing.assert_close(guess_mirrored(data, "c15"), data.slowed, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("limb", range(4))
def test_the_mirror_reads_nothing_of_the_masked_limb(limb):
    data = replace(batch(symmetric_body(12)), limb=torch.tensor([limb]))
    hidden = limb_columns("c15", 3)[limb]
    changed = replace(data, slowed=data.slowed.masked_fill(hidden, 7.0))
    first, second = guess_mirrored(data, "c15"), guess_mirrored(changed, "c15")
    assert torch.equal(first[..., hidden], second[..., hidden])
    assert torch.equal(first[..., ~hidden], data.slowed[..., ~hidden])


def test_the_mirror_of_a_lifted_arm_hangs_on_the_other_side():
    xyz = np.zeros((1, 15, 3))
    place = {
        "left_hip": (1, 0, 0),
        "right_hip": (-1, 0, 0),
        "right_shoulder": (-1, 5, 0),
        "right_wrist": (-4, 6, 2),
    }
    for joint, at in place.items():
        xyz[0, BODY.index(joint)] = at
    data = replace(batch(xyz), limb=torch.tensor([LIMBS.index("LA")]))
    guess = guess_mirrored(data, "c15").view(1, 15, 3)[0]
    assert guess[BODY.index("left_shoulder")].tolist() == [1, 5, 0]
    assert guess[BODY.index("left_wrist")].tolist() == [4, 6, 2]


def test_hips_in_one_point_leave_a_copy():
    data = replace(batch(np.ones((2, 15, 3))), limb=torch.tensor([0]))
    assert guess_mirrored(data, "c15").unique().tolist() == [1.0]


def test_mean_pose_by_hand():
    a, b = np.zeros((2, 15, 3)), np.ones((1, 15, 3))
    b[:, BODY.index("head")] = 4.0
    pose = mean_pose([x.reshape(len(x), -1).astype(np.float32) for x in (a, b)], "c15")
    assert pose[BODY.index("head")].tolist() == [1.0, 1.0, 1.0]  # (0 + 0 + (4 - 1)) / 3
    assert pose[BODY.index("pelvis")].tolist() == [0.0, 0.0, 0.0]
    guess = guess_mean_pose(batch(b), pose, "c15").view(1, 15, 3)[0]
    assert guess[BODY.index("head")].tolist() == [2.0, 2.0, 2.0]
    assert guess[BODY.index("left_knee")].tolist() == [1.0, 1.0, 1.0]
