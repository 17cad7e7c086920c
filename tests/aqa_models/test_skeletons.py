from __future__ import annotations

import numpy as np
import pytest

from aqa_models.skeletons import SKELETONS, derived_joints, flip_sides, map_keypoints, skeleton


def numbered(name: str, frames: int = 2) -> np.ndarray:
    """Keypoints whose three coordinates are (joint, frame, 10 * joint)."""
    joints = len(skeleton(name).joints)
    xyz = np.zeros((frames, joints, 3), dtype=np.float32)
    xyz[..., 0] = np.arange(joints)
    xyz[..., 1] = np.arange(frames)[:, None]
    xyz[..., 2] = 10 * np.arange(joints)
    return xyz


@pytest.mark.parametrize(
    ("name", "joints", "left_arm", "right_leg"),
    [
        ("coco17", 17, (5, 7, 9), (12, 14, 16)),
        ("mpii16", 16, (13, 14, 15), (2, 1, 0)),
        ("halpe26", 26, (5, 7, 9), (12, 14, 16, 21)),
        ("body25", 25, (5, 6, 7), (9, 10, 11, 22)),
        ("openpose18", 18, (5, 6, 7), (8, 9, 10)),
        ("uwa3d15", 15, (3, 4, 5), (12, 13, 14)),
        ("uiprmd22", 22, (7, 8, 9), (18, 19, 20, 21)),
        ("kinect20", 20, (4, 5, 6, 7), (16, 17, 18, 19)),
        ("kinect25", 25, (4, 5, 6, 7, 21, 22), (16, 17, 18, 19)),
        ("c20", 20, (4, 5, 6, 7), (16, 17, 18, 19)),
        ("c15", 15, (3, 4, 5), (12, 13, 14)),
    ],
)
def test_order_and_limbs_are_the_published_ones(name, joints, left_arm, right_leg):
    body = skeleton(name)
    assert len(body.joints) == len(set(body.joints)) == joints
    assert body.limbs["LA"] == left_arm
    assert body.limbs["RL"] == right_leg


@pytest.mark.parametrize("name", list(SKELETONS))
def test_bones_form_one_tree_and_pairs_are_left_right(name):
    body = skeleton(name)
    children = [child for _, child in body.bones]
    assert len(children) == len(set(children)) or name == "coco17"
    reached = {body.bones[0][0]}
    for _ in body.joints:
        reached |= {b for a, b in body.bones if a in reached} | {a for a, b in body.bones if b in reached}
    if name != "coco17":  # its face is not tied to its shoulders
        assert reached == set(range(len(body.joints)))
    for left, right in body.flip_pairs:
        assert body.joints[left].removeprefix("left") == body.joints[right].removeprefix("right")


def test_kimore_to_c20_takes_the_joints_of_the_table():
    mapped = map_keypoints(numbered("kinect25"), "kinect25", "c20")
    assert mapped[0, :, 0].tolist() == [0, 1, 20, 3, *range(4, 20)]
    assert mapped.dtype == np.float32


def test_kinect20_and_c20_are_the_same_order():
    np.testing.assert_array_equal(map_keypoints(numbered("kinect20"), "kinect20", "c20"), numbered("c20"))


def test_coco_to_c15_derives_pelvis_neck_and_head():
    mapped = map_keypoints(numbered("coco17"), "coco17", "c15")
    assert mapped[0, :, 0].tolist() == [11.5, 5.5, 3.5, 5, 7, 9, 6, 8, 10, 11, 13, 15, 12, 14, 16]


def test_mpii_to_c15_uses_its_own_pelvis_and_thorax():
    mapped = map_keypoints(numbered("mpii16"), "mpii16", "c15")
    assert mapped[0, :3, 0].tolist() == [6, 7, 8.5]


def test_missing_joints_are_nan_and_spine_is_between_hips_and_shoulders():
    mapped = map_keypoints(numbered("coco17"), "coco17", "c20")
    body = skeleton("c20")
    for joint in ("left_hand", "right_hand", "left_foot", "right_foot"):
        assert np.isnan(mapped[:, body.index(joint)]).all()
    assert mapped[0, body.index("spine"), 0] == (5 + 6 + 11 + 12) / 4


def test_a_derived_joint_is_nan_where_a_part_is():
    xyz = numbered("coco17")
    xyz[1, 11] = np.nan
    mapped = map_keypoints(xyz, "coco17", "c15")
    assert np.isfinite(mapped[0, 0]).all()
    assert np.isnan(mapped[1, 0]).all()


def test_flip_swaps_sides_and_negates_x():
    xyz = numbered("c15")
    flipped = flip_sides(xyz, "c15")
    assert flipped[0, 3].tolist() == [-6, 0, 60]
    assert flipped[0, 0].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(flip_sides(flipped, "c15"), xyz)


def test_unknown_names_give_the_nearest():
    with pytest.raises(
        ValueError, match=r"unknown skeleton 'kinekt25'; known: coco17, .*did you mean 'kinect25'"
    ):
        skeleton("kinekt25")
    with pytest.raises(ValueError, match=r"'c15' has no joint 'left_knees'.*did you mean 'left_knee'"):
        skeleton("c15").index("left_knees")


def test_wrong_shape_and_type_are_refused():
    with pytest.raises(ValueError, match=r"'coco17' needs shape \(T, 17, C\), got \(2, 16, 3\)"):
        map_keypoints(np.zeros((2, 16, 3)), "coco17", "c15")
    with pytest.raises(TypeError, match="must be floating point, got int64"):
        map_keypoints(np.zeros((2, 17, 3), dtype=np.int64), "coco17", "c15")


def test_halpe_to_kinect_has_its_own_neck_and_takes_feet_from_toes():
    mapped = map_keypoints(numbered("halpe26"), "halpe26", "kinect25")
    body = skeleton("kinect25")
    values = {joint: mapped[0, body.index(joint), 0] for joint in body.joints}
    assert values["pelvis"] == 19
    assert values["neck"] == 18
    assert values["head"] == (3 + 4) / 2
    assert values["shoulder_center"] == (5 + 6) / 2
    assert values["left_foot"] == (20 + 22) / 2
    assert values["right_foot"] == (21 + 23) / 2
    assert np.isnan(values["left_hand_tip"])


def test_body25_to_coco_is_the_published_order():
    mapped = map_keypoints(numbered("body25"), "body25", "coco17")
    assert mapped[0, :, 0].tolist() == [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11]
    assert not derived_joints("body25", "coco17").any()


def test_derived_joints_are_marked_and_missing_ones_are_not():
    made = dict(zip(skeleton("c20").joints, derived_joints("coco17", "c20").tolist(), strict=True))
    assert {joint for joint, derived in made.items() if derived} == {
        "pelvis",
        "spine",
        "shoulder_center",
        "head",
    }
    assert np.isnan(
        map_keypoints(numbered("coco17"), "coco17", "c20")[0, skeleton("c20").index("left_hand")]
    ).all()
    assert not derived_joints("kinect20", "c20").any()


@pytest.mark.parametrize("name", list(SKELETONS))
def test_flip_order_is_its_own_inverse_and_pairs_every_side(name):
    body = skeleton(name)
    order = body.flip_order
    assert [order[order[joint]] for joint in range(len(order))] == list(range(len(order)))
    for joint, other in zip(body.joints, (body.joints[index] for index in order), strict=True):
        swapped = joint.replace("left_", "L_").replace("right_", "left_").replace("L_", "right_")
        assert other == swapped


@pytest.mark.parametrize(
    ("source", "joints"),
    [
        ("body25", [8, 1, 17.5, 5, 6, 7, 2, 3, 4, 12, 13, 14, 9, 10, 11]),
        ("openpose18", [9.5, 1, 16.5, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10]),
        ("uwa3d15", [10.5, 1, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]),
        ("uiprmd22", [0, 2, 4, 7, 8, 9, 11, 12, 13, 14, 15, 16, 18, 19, 20]),
        ("kinect20", [0, 2, 3, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18]),
        ("kinect25", [0, 20, 3, 4, 5, 6, 8, 9, 10, 12, 13, 14, 16, 17, 18]),
    ],
)
def test_every_set_of_the_two_stage_model_fills_c15(source: str, joints: list[float]):
    mapped = map_keypoints(numbered(source), source, "c15")
    assert mapped[0, :, 0].tolist() == joints
