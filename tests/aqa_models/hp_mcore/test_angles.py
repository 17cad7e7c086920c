from __future__ import annotations

import math

import torch

from aqa_models.hp_mcore.angles import APART, BENT, NUM_ANGLES, joint_angles
from aqa_models.skeletons import skeleton

MPII = skeleton("mpii16")


def standing() -> torch.Tensor:
    """(1, 1, 16, 2) px: a person seen from the front, arms hanging, right knee bent by 90 degrees."""
    at = {
        "pelvis": (0, 0), "right_hip": (-10, 0), "left_hip": (10, 0), "thorax": (0, -50),
        "upper_neck": (0, -60), "head_top": (0, -80),
        "right_shoulder": (-15, -50), "left_shoulder": (15, -50),
        "right_elbow": (-15, -20), "left_elbow": (15, -20), "right_wrist": (-15, 10), "left_wrist": (15, 10),
        "right_knee": (-10, 40), "left_knee": (10, 40), "right_ankle": (-50, 40), "left_ankle": (10, 80),
    }  # fmt: skip
    return torch.tensor([at[name] for name in MPII.joints], dtype=torch.float32)[None, None]


def test_hand_worked_angles():
    found = joint_angles(standing())[0, 0]
    assert found.shape == (NUM_ANGLES,)
    knee_right, knee_left = found[0], found[1]
    assert abs(knee_right) < 1e-6  # 90 degrees
    assert abs(knee_left + 1) < 1e-6  # straight: the cosine of 180 degrees
    hip_right = found[2]  # knee straight down, shoulder 5 px outwards and 50 px up
    assert abs(hip_right - -50 / math.hypot(5, 50)) < 1e-5
    apart = found[len(BENT) : len(BENT) + len(APART)]
    hips, ankles = apart[5], apart[0]
    assert abs(ankles / hips - math.hypot(60, 40) / 20) < 1e-5
    trunk_up = found[len(BENT) + len(APART) + 2]
    assert abs(trunk_up + 1) < 1e-6  # y points downwards


def test_neither_place_nor_size_matters():
    body = standing()
    torch.testing.assert_close(joint_angles(3 * body + 100), joint_angles(body), atol=1e-5, rtol=0)


def test_a_mirrored_body_has_its_sides_exchanged():
    body = standing()
    mirrored = (body * torch.tensor([-1.0, 1.0]))[:, :, MPII.flip_order]
    ours, theirs = joint_angles(body)[0, 0], joint_angles(mirrored)[0, 0]
    swapped = torch.cat([ours[: len(BENT)].view(-1, 2).flip(1).flatten(), ours[len(BENT) :]])
    swapped[len(BENT) + 3], swapped[len(BENT) + 4] = ours[len(BENT) + 4], ours[len(BENT) + 3]
    torch.testing.assert_close(theirs, swapped, atol=1e-6, rtol=0)


def test_a_turned_picture_changes_only_how_upright_the_limbs_are():
    body = standing()
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    ours, theirs = joint_angles(body)[0, 0], joint_angles(body @ turn)[0, 0]
    torch.testing.assert_close(ours[:-6], theirs[:-6], atol=1e-5, rtol=0)
    assert (ours[-6:] - theirs[-6:]).abs().max() > 0.5


def test_missing_joints_give_numbers():
    body = standing().repeat(1, 3, 1, 1)
    body[0, 1, 3] = torch.nan
    assert joint_angles(body).isfinite().all()
    torch.testing.assert_close(joint_angles(body)[0, 1], joint_angles(body)[0, 0])
