from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from aqa_models.body_angles import CHANNELS, body_channels, bridge_gaps, smooth
from aqa_models.skeletons import map_keypoints, skeleton

# A person of trunk length 1 who faces +z: left is +x. Arms hang, legs straight, feet 0.4 apart.
STANDING = {
    "pelvis": (0, 2, 0),
    "spine": (0, 2.5, 0),
    "shoulder_center": (0, 3, 0),
    "neck": (0, 3.1, 0),
    "head": (0, 3.4, 0),
    "shoulder": (0.4, 3, 0),
    "elbow": (0.4, 2.4, 0),
    "wrist": (0.4, 1.8, 0),
    "hand": (0.4, 1.7, 0),
    "hip": (0.2, 2, 0),
    "knee": (0.2, 1, 0),
    "ankle": (0.2, 0, 0),
    "foot": (0.2, -0.1, 0.3),
    "hand_tip": (0.4, 1.6, 0),
    "thumb": (0.4, 1.7, 0.1),
}


def person(name: str = "c20", frames: int = 1, **moved: tuple[float, float, float]) -> np.ndarray:
    """(T, J, 3): the standing person with some joints put elsewhere."""
    places = []
    for joint in skeleton(name).joints:
        side, _, bare = joint.partition("_")
        if side in ("left", "right"):
            x, y, z = STANDING[bare]
            place = (x if side == "left" else -x, y, z)
        else:
            place = STANDING[joint]
        places.append(moved.get(joint, place))
    return np.repeat(np.array(places, dtype=float)[None], frames, axis=0)


def channels(xyz: np.ndarray, name: str = "c20", rate_hz: float = 25.0) -> dict[str, np.ndarray]:
    values, names = body_channels(xyz, name, rate_hz)
    assert values.shape == (len(xyz), len(names))
    assert values.dtype == np.float32
    return dict(zip(names, values.T, strict=True))


def test_there_are_49_names_and_each_once():
    assert len(CHANNELS) == len(set(CHANNELS)) == 49


def test_a_standing_person():
    found = {name: float(value[0]) for name, value in channels(person()).items()}
    straight = {"left_elbow", "right_elbow", "left_knee", "right_knee", "left_hip", "right_hip"}
    expected = dict.fromkeys(CHANNELS, 0.0) | dict.fromkeys(straight, np.pi)
    expected |= {"pelvis_y": 2, "upper_spine_y": 3, "wrist_distance": 0.8, "ankle_distance": 0.4}
    expected |= {"knee_distance": 0.4, "knees_per_ankles": 1}
    for side in ("left", "right"):
        expected |= {f"{side}_wrist_height": 1.8, f"{side}_wrist_outward": 0.4}
    assert found == pytest.approx(expected, abs=1e-6)


def test_an_arm_raised_to_the_side():
    found = channels(person(left_elbow=(1.0, 3, 0), left_wrist=(1.0, 3.6, 0)))
    right_angle = pytest.approx(np.pi / 2, abs=1e-6)
    for name in ("left_elbow", "left_shoulder_to_trunk", "left_shoulder_to_vertical", "left_arm_frontal"):
        assert found[name][0] == right_angle, name
    assert found["right_shoulder_to_trunk"][0] == pytest.approx(0, abs=1e-6)
    assert found["left_wrist_outward"][0] == pytest.approx(1.0)


def test_a_person_who_bends_turns_and_squats():
    bent = channels(person(shoulder_center=(0, 2 + np.cos(0.5), np.sin(0.5))))
    assert bent["trunk_forward"][0] == pytest.approx(0.5, abs=1e-6)
    assert bent["trunk_inclination"][0] == pytest.approx(0.5, abs=1e-6)
    assert bent["trunk_left"][0] == pytest.approx(0, abs=1e-6)
    c, s = 0.4 * np.cos(0.3), 0.4 * np.sin(0.3)
    turned = channels(person(left_shoulder=(c, 3, s), right_shoulder=(-c, 3, -s)))
    assert turned["shoulders_yaw"][0] == turned["twist"][0] == pytest.approx(0.3, abs=1e-6)
    squat = channels(person(left_knee=(0.3, 1, 0.5), right_knee=(-0.3, 1, 0.5)))
    for side in ("left", "right"):
        assert squat[f"{side}_knee_over_ankle_forward"][0] == pytest.approx(0.5)
        assert squat[f"{side}_knee_over_ankle_outward"][0] == pytest.approx(0.1)
        assert squat[f"{side}_knee"][0] < np.pi


def test_where_the_camera_stood_and_how_tall_the_person_is_do_not_matter():
    generator = np.random.default_rng(0)
    moving = person(frames=40) + 0.05 * generator.standard_normal((40, 20, 3)).cumsum(axis=0) / 5
    seen = moving @ Rotation.from_euler("y", 1.1).as_matrix().T * 0.6 + (3.0, -1.0, 4.0)
    ours, theirs = channels(moving), channels(seen)
    for name in CHANNELS:
        np.testing.assert_allclose(theirs[name], ours[name], atol=2e-4, err_msg=name)


def test_the_mirrored_person_has_left_and_right_swapped():
    generator = np.random.default_rng(1)
    moving = person(frames=30) + 0.1 * generator.standard_normal((30, 20, 3))
    mirrored = (moving * (-1, 1, 1))[:, skeleton("c20").flip_order]
    ours, theirs = channels(moving), channels(mirrored)
    for name in CHANNELS:
        if name.startswith("left_"):
            other = name.replace("left_", "right_")
            np.testing.assert_allclose(theirs[other], ours[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["kinect25", "kinect20"])
def test_other_joint_sets_give_the_same(name):
    generator = np.random.default_rng(2)
    xyz = person(name, frames=20) + 0.05 * generator.standard_normal((20, len(skeleton(name).joints), 3))
    ours, _ = body_channels(xyz, name, 25.0)
    canonical, _ = body_channels(map_keypoints(xyz, name, "c20"), "c20", 25.0)
    np.testing.assert_array_equal(ours, canonical)
    assert np.isfinite(ours).all()


def test_gaps_are_bridged_and_a_joint_never_seen_leaves_its_channels_empty():
    xyz = person(frames=9)
    xyz[:, 3, 1] = np.arange(9)
    gappy = xyz.copy()
    gappy[[0, 4, 5]] = np.nan
    filled = bridge_gaps(gappy)
    np.testing.assert_allclose(filled[1:], xyz[1:])
    assert filled[0, 3, 1] == 1  # the end is held
    xyz[:, skeleton("c20").index("left_wrist")] = np.nan
    found = channels(xyz)
    empty = {name for name, value in found.items() if np.isnan(value).all()}
    assert empty == {
        "wrist_distance",
        "left_elbow",
        "left_wrist_height",
        "left_wrist_outward",
        "left_wrist_forward",
    }
    assert all(np.isfinite(value).all() for name, value in found.items() if name not in empty)


def test_smoothing_keeps_slow_motion_and_takes_out_spikes_and_fast_motion():
    time = np.arange(200) / 25
    slow = np.sin(2 * np.pi * 0.5 * time)
    fast = slow + 0.5 * np.sin(2 * np.pi * 10 * time)
    spiky = slow.copy()
    spiky[80] += 5
    wide = slice(20, -20)
    for signal in (slow, fast, spiky):
        np.testing.assert_allclose(smooth(signal[:, None], 25.0)[wide, 0], slow[wide], atol=0.12)
    assert smooth(np.ones((1, 2, 3)), 25.0).shape == (1, 2, 3)
    np.testing.assert_allclose(smooth(slow[:, None], 10.0)[wide, 0], slow[wide], atol=0.12)


@pytest.mark.parametrize(
    ("xyz", "rate", "text"),
    [
        (person()[..., :2], 25.0, "2-D poses do not show which way a person faces"),
        (person()[:0], 25.0, "no frames"),
        (person(), 0.0, "rate_hz must be positive"),
        (person() * 0, 25.0, "lie in one point"),
        (
            np.where(np.arange(20)[None, :, None] == 12, np.nan, person()),
            25.0,
            "'left_hip' is never seen, and it fixes",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(xyz, rate, text):
    with pytest.raises(ValueError, match=text):
        body_channels(xyz, "c20", rate)
