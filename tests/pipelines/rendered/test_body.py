"""Forward kinematics and camera against positions known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.rendered.body import COLUMN, JOINTS, NUM_JOINTS, Camera, Motion, Shape, pose_body, rotation
from pipelines.rendered.poses import random_motion

SHAPE = Shape()
AT = {name: index for index, name in enumerate(JOINTS)}


def joints_of(**angles: float) -> np.ndarray:
    """(16, 3) joints of a body with its pelvis at the origin."""
    motion = Motion.standing(1, 0.0)
    motion.angles[:] = 0
    for name, value in angles.items():
        motion.angles[0, COLUMN[name]] = value
    return pose_body(motion, SHAPE).joints[0]


def test_rest_pose_is_upright_with_the_right_side_at_negative_x():
    joints = joints_of()
    assert joints[AT["thorax"]] == pytest.approx([0, 0.50, 0])
    assert joints[AT["head_top"]] == pytest.approx([0, 0.50 + 0.09 + 0.24, 0])
    assert joints[AT["right_ankle"]] == pytest.approx([-0.11, -0.02 - 0.84, 0])
    assert joints[AT["left_wrist"]] == pytest.approx([0.18, 0.47 - 0.55, 0])


@pytest.mark.parametrize(
    ("angles", "joint", "expected"),
    [
        ({"right_shoulder_flex": np.pi / 2}, "right_wrist", [-0.18, 0.47, 0.55]),  # forward
        ({"right_shoulder_flex": np.pi}, "right_wrist", [-0.18, 0.47 + 0.55, 0]),  # up
        ({"left_shoulder_abduct": np.pi / 2}, "left_wrist", [0.18 + 0.55, 0.47, 0]),  # out to the left
        ({"right_shoulder_abduct": np.pi / 2}, "right_wrist", [-0.18 - 0.55, 0.47, 0]),  # out to the right
        ({"left_elbow": np.pi / 2}, "left_wrist", [0.18, 0.47 - 0.30, 0.25]),  # forearm forward
        ({"left_knee": np.pi / 2}, "left_ankle", [0.11, -0.02 - 0.42, -0.42]),  # shank backward
        ({"right_hip_flex": np.pi / 2}, "right_knee", [-0.11, -0.02, 0.42]),  # thigh forward
        ({"spine_flex": np.pi / 2}, "thorax", [0, 0, 0.50]),  # bow forward
        ({"spine_side": np.pi / 2}, "thorax", [0.50, 0, 0]),  # tilt to the left
    ],
)
def test_single_angles_move_joints_where_the_docstring_says(angles, joint, expected):
    assert joints_of(**angles)[AT[joint]] == pytest.approx(expected, abs=1e-12)


def test_bone_lengths_do_not_depend_on_the_pose():
    motion = random_motion(np.random.default_rng(0), 40)
    joints = pose_body(motion, SHAPE).joints
    lengths = {
        ("right_hip", "right_knee"): SHAPE.thigh,
        ("left_knee", "left_ankle"): SHAPE.shank,
        ("right_shoulder", "right_elbow"): SHAPE.upper_arm,
        ("left_elbow", "left_wrist"): SHAPE.forearm,
        ("pelvis", "thorax"): SHAPE.trunk,
        ("upper_neck", "head_top"): SHAPE.head,
    }
    for (first, second), length in lengths.items():
        found = np.linalg.norm(joints[:, AT[first]] - joints[:, AT[second]], axis=-1)
        assert found == pytest.approx(np.full(40, length), abs=1e-9)
    width = np.linalg.norm(joints[:, AT["right_shoulder"]] - joints[:, AT["left_shoulder"]], axis=-1)
    assert width == pytest.approx(np.full(40, SHAPE.shoulder_width))


def test_rotation_is_orthogonal_and_right_handed():
    for axis in "xyz":
        matrix = rotation(axis, 0.7)
        assert matrix @ matrix.T == pytest.approx(np.eye(3))
        assert np.linalg.det(matrix) == pytest.approx(1)
    assert rotation("z", np.pi / 2) @ [1, 0, 0] == pytest.approx([0, 1, 0])


def test_camera_projects_by_the_pinhole_equation():
    camera = Camera.looking(np.array([[0.0, 1, 4]]), np.array([[0.0, 1, 0]]), np.array([200.0]), (256, 128))
    points = np.array([[[0.0, 1, 0], [1.0, 1, 0], [0.0, 2, 0], [1.0, 1, 2]]])
    pixels, scale = camera.project(points)
    centre = np.array([127.5, 63.5])
    assert pixels[0, 0] == pytest.approx(centre)
    assert pixels[0, 1] == pytest.approx(centre + np.array([50, 0]))  # 200 px * 1 m / 4 m
    assert pixels[0, 2] == pytest.approx(centre + np.array([0, -50]))  # up is up
    assert pixels[0, 3] == pytest.approx(centre + np.array([100, 0]))
    assert scale[0] == pytest.approx([50, 50, 50, 100])
    assert camera.depth(points)[0] == pytest.approx([4, 4, 4, 2])


def test_a_body_facing_the_camera_shows_its_right_side_on_the_left():
    camera = Camera.looking(np.array([[0.0, 0, 4]]), np.zeros((1, 3)), np.array([200.0]), (256, 256))
    pixels, _ = camera.project(joints_of()[None])
    assert pixels.shape == (1, NUM_JOINTS, 2)
    assert pixels[0, AT["right_shoulder"], 0] < pixels[0, AT["left_shoulder"], 0]


def test_shapes_differ_and_stay_human():
    heights = []
    for seed in range(30):
        shape = Shape.sample(np.random.default_rng(seed))
        heights.append(shape.leg + shape.trunk + shape.neck + shape.head + 0.1)
    assert min(heights) > 1.4
    assert max(heights) < 2.15
    assert np.std(heights) > 0.05
