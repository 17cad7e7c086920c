from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from aqa_models.two_stage.config import SequenceConfig
from aqa_models.two_stage.sequence import TORSOS, lost_by, make_sequence, pad_front

C15 = SequenceConfig(skeleton="c15")


def body(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, 15, 3))


def moving(time_s: np.ndarray, function) -> np.ndarray:
    """c15 with a fixed body, whose left wrist (joint 5) moves along x."""
    xyz = np.tile(body(1), (len(time_s), 1, 1))
    xyz[:, 5, 0] = function(time_s)
    return xyz


def test_rate_centre_and_scale():
    time_s = np.arange(61) / 30
    made = make_sequence(body(61), time_s, "c15", C15)
    assert made.x.shape == (21, 45)
    assert made.x.dtype == np.float32
    assert np.abs(made.x).max() == 1
    np.testing.assert_allclose(made.x[0, :3], 0, atol=1e-7)
    assert made.observed.all()


def test_one_scale_keeps_the_proportions():
    time_s = np.arange(31) / 10
    xyz = body(31)
    small = make_sequence(xyz, time_s, "c15", C15)
    large = make_sequence(7 * xyz + 3, time_s, "c15", C15)
    np.testing.assert_allclose(small.x, large.x, atol=1e-6)
    assert large.scale == pytest.approx(7 * small.scale)


def test_irregular_stamps_give_the_motion_of_the_clock():
    """A wrist at constant speed stays at constant speed, whatever frames the sensor dropped."""
    full = np.arange(101) / 25
    kept = full[np.sort(np.random.default_rng(0).choice(np.arange(1, 100), 60, replace=False))]
    kept = np.concatenate([[0.0], kept, [4.0]])
    made = make_sequence(moving(kept, lambda t: t), kept, "c15", C15)
    wrist = made.x[1:-1, 15].astype(float) * made.scale
    np.testing.assert_allclose(np.diff(wrist), 0.1, atol=1e-5)


def test_low_pass_is_the_mean_over_a_fifth_of_a_second():
    time_s = np.array([0.0, 0.07, 0.19, 0.33, 0.41, 0.62, 0.8])
    made = make_sequence(moving(time_s, np.sin), time_s, "c15", C15)
    wrist = made.x[:, 15].astype(float) * made.scale + body(1)[0, 0, 0]
    want = quad(lambda t: np.interp(t, time_s, np.sin(time_s)), 0.3, 0.5, points=[0.33, 0.41])[0] / 0.2
    assert wrist[4] == pytest.approx(want, abs=1e-5)


def test_motion_above_the_new_nyquist_is_removed_not_folded():
    time_s = np.arange(301) / 100
    made = make_sequence(moving(time_s, lambda t: np.sin(2 * np.pi * 10 * t)), time_s, "c15", C15)
    wrist = made.x[1:-1, 15].astype(float) * made.scale
    assert np.ptp(wrist) < 0.02


def test_gaps_are_bridged_and_missing_joints_are_zero():
    time_s = np.arange(31) / 10
    xyz = moving(time_s, lambda t: t)
    whole = make_sequence(xyz, time_s, "c15", C15)
    xyz[10:20, 5] = np.nan
    np.testing.assert_allclose(make_sequence(xyz, time_s, "c15", C15).x, whole.x, atol=1e-6)
    xyz[:, 14] = np.nan
    made = make_sequence(xyz, time_s, "c15", C15)
    assert made.observed.tolist() == [True] * 14 + [False]
    assert (made.x[:, 42:] == 0).all()


def test_long_recordings_lose_their_start_and_repeated_stamps_are_dropped():
    time_s = np.arange(101) / 10
    xyz = moving(time_s, lambda t: t)
    whole = make_sequence(xyz, time_s, "c15", C15)
    short = make_sequence(xyz, time_s, "c15", SequenceConfig(skeleton="c15", max_frames=30))
    np.testing.assert_array_equal(short.x, whole.x[-30:])
    doubled = make_sequence(np.repeat(xyz, 2, axis=0), np.repeat(time_s, 2), "c15", C15)
    np.testing.assert_allclose(doubled.x, whole.x, atol=1e-6)


def test_one_frame_is_enough():
    assert make_sequence(body(1), np.zeros(1), "c15", C15).x.shape == (1, 45)


def test_two_dimensional_keypoints_work():
    xy = np.random.default_rng(0).normal(size=(20, 17, 2)) * 100
    assert make_sequence(xy, np.arange(20) / 10, "coco17", C15).x.shape == (20, 30)


def test_impossible_recordings_are_refused():
    time_s = np.arange(5) / 10
    with pytest.raises(ValueError, match="must not decrease"):
        make_sequence(body(5), time_s[::-1], "c15", C15)
    with pytest.raises(ValueError, match="5 frames but 4 time stamps"):
        make_sequence(body(5), time_s[:4], "c15", C15)
    no_root = body(5)
    no_root[:, 0] = np.nan
    with pytest.raises(ValueError, match="root joint 'pelvis' is never observed"):
        make_sequence(no_root, time_s, "c15", C15)
    with pytest.raises(ValueError, match="all joints lie in one point"):
        make_sequence(np.ones((5, 15, 3)), time_s, "c15", C15)


def test_padding_is_in_front():
    x, valid = pad_front([torch.ones(2, 3), torch.full((4, 3), 2.0)])
    assert x[0, :, 0].tolist() == [0, 0, 1, 1]
    assert valid.tolist() == [[False, False, True, True], [True] * 4]


def with_policy(policy: str, **values: object) -> SequenceConfig:
    return SequenceConfig(skeleton="c15", time_policy=policy, **values)  # type: ignore[arg-type]


def wrist_of(made) -> list[float]:
    """The left wrist's x in the unit of the keypoints."""
    return (made.x[:, 15].astype(float) * made.scale + body(1)[0, 0, 0]).round(4).tolist()


def test_time_policies_choose_frames():
    time_s = np.array([0.0, 1.0, 2.0, 5.0, 6.0, 7.0, 8.0])  # two frames lost between 2 and 5
    xyz = moving(time_s, lambda t: t)
    frames = {
        "stride_k": [0, 2, 6, 8],
        "truncate_front": [2, 5, 6, 7, 8],
        "truncate_back": [0, 1, 2, 5, 6],
        "stretch": [0, 2, 4, 6, 8],
    }
    for policy, expected in frames.items():
        made = make_sequence(xyz, time_s, "c15", with_policy(policy, max_frames=5))
        assert wrist_of(made) == expected, policy
        assert made.cropped == (2 if policy.startswith("truncate") else 0)
    short = make_sequence(xyz, time_s, "c15", with_policy("stride_k", stride=3, max_frames=2))
    assert (wrist_of(short), short.cropped) == ([5, 8], 1)


def test_every_policy_but_the_clock_says_what_it_loses():
    assert lost_by(C15) == ""
    assert "stretched or squeezed to 743 frames: its speed is lost" in lost_by(with_policy("stretch"))
    for policy in ("stride_k", "truncate_front", "truncate_back"):
        assert "whatever their time stamps say" in lost_by(with_policy(policy))


def test_stretching_makes_slow_and_fast_alike():
    slow, fast = np.arange(41) / 10, np.arange(41) / 20
    config = with_policy("stretch", max_frames=9)
    made = [make_sequence(moving(t, lambda t: np.sin(t / t[-1])), t, "c15", config).x for t in (slow, fast)]
    np.testing.assert_allclose(made[0], made[1], atol=1e-6)


def test_centring_every_frame_removes_translation_and_nothing_else():
    time_s = np.arange(11) / 10
    walk = body(1) + np.linspace(0, 5, 11)[:, None, None]
    config = SequenceConfig(skeleton="c15", centre="every_frame")
    made = make_sequence(walk, time_s, "c15", config)
    assert (made.x == made.x[0]).all()
    assert (make_sequence(walk, time_s, "c15", C15).x[-1, :3] > 0.3).all()


def test_scaling_by_axis_fills_every_axis_and_leaves_missing_joints_at_zero():
    xyz = body(30) * [1, 5, 0]
    xyz[:, 14] = np.nan
    made = make_sequence(xyz, np.arange(30) / 10, "c15", SequenceConfig(skeleton="c15", scaling="axis"))
    axes = made.x.reshape(-1, 15, 3)
    for axis in (0, 1):
        assert (axes[..., axis].min(), axes[..., axis].max()) == (-1, 1)
    assert (axes[..., 2] == 0).all()
    assert (axes[:, 14] == 0).all()


def test_scaling_by_the_torso_gives_the_same_to_near_and_far_and_cuts_what_is_beyond():
    xyz = np.zeros((5, 15, 3))
    xyz[:, 1, 1] = 0.5  # shoulder_center half a metre above the pelvis
    xyz[:, 2, 1] = 0.75
    xyz[:, 5, 0] = 9.0
    config = SequenceConfig(skeleton="c15", scaling="torso")
    made = make_sequence(xyz, np.arange(5) / 10, "c15", config)
    assert made.scale == TORSOS * 0.5
    joints = made.x.reshape(-1, 15, 3)[0]
    assert (joints[1, 1], joints[2, 1], joints[5, 0]) == (np.float32(1 / TORSOS), 0.5, 1)
    np.testing.assert_array_equal(made.x, make_sequence(2 * xyz, np.arange(5) / 10, "c15", config).x)
    xyz[:, 1] = 0
    with pytest.raises(
        ValueError, match="torso, from pelvis to shoulder_center, is never observed or has no"
    ):
        make_sequence(xyz, np.arange(5) / 10, "c15", config)


def test_bridged_frames_are_marked():
    time_s = np.arange(11) / 10
    xyz = body(11)
    xyz[4:6, 5] = np.nan
    xyz[:, 14] = np.nan
    valid = make_sequence(xyz, time_s, "c15", C15).valid
    assert valid[:, 5].tolist() == [True] * 4 + [False] * 2 + [True] * 5
    assert not valid[:, 14].any()
    assert valid[:, 0].all()
    between = make_sequence(xyz, time_s, "c15", with_policy("stretch", max_frames=21)).valid[:, 5]
    assert np.flatnonzero(~between).tolist() == [7, 8, 9, 10, 11]


@pytest.mark.parametrize("name", ["rate_hz", "max_frames", "stride"])
def test_settings_that_are_no_sizes_are_refused(name: str):
    with pytest.raises(ValueError, match=f"{name} is 0, must be above 0"):
        SequenceConfig(**{name: 0})


def test_heading_of_the_body_hides_where_the_camera_stood_and_keeps_turning():
    time_s, facing = np.arange(31) / 10, SequenceConfig(heading="body", scaling="torso")
    still = np.random.default_rng(0).normal(size=(31, 20, 3))
    still[:, [4, 12], 0] += 8  # left shoulder and hip
    angles = np.linspace(0, 0.5, 31)  # the person turns

    def turned(xyz: np.ndarray, yaw: np.ndarray) -> np.ndarray:
        c, s, zero = np.cos(yaw), np.sin(yaw), 0 * yaw
        rows = [[c, zero, s], [zero, zero + 1, zero], [-s, zero, c]]
        return np.einsum("tij,tkj->tki", np.moveaxis(np.array(rows), 2, 0), xyz)

    first = make_sequence(turned(still, angles), time_s, "kinect20", facing).x
    second = make_sequence(turned(still, angles + 2.2), time_s, "kinect20", facing).x
    np.testing.assert_allclose(first, second, atol=1e-5)
    xyz = first.reshape(31, 20, 3)
    line = (xyz[:, [4, 12]] - xyz[:, [8, 16]]).sum(axis=(0, 1))
    assert line[0] > 0
    assert abs(line[2]) < 1e-4 * line[0]
    unlike = make_sequence(still, time_s, "kinect20", facing).x
    assert np.abs(unlike - first).max() > 0.1


def test_heading_of_the_body_needs_three_dimensions_and_hips_and_shoulders():
    config = SequenceConfig(skeleton="c15", heading="body")
    flat, hidden, point = body(4)[:, :, :2], body(4), np.zeros((4, 15, 3))
    hidden[:, 9] = np.nan  # the left hip
    point[:, 0, 1] = 1
    for xyz, why in (
        (flat, "needs 3-D"),
        (hidden, "needs 3-D keypoints that show both"),
        (point, "one point"),
    ):
        with pytest.raises(ValueError, match=why):
            make_sequence(xyz, np.arange(4) / 10, "c15", config)
