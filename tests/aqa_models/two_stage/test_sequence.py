from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from aqa_models.two_stage.config import SequenceConfig
from aqa_models.two_stage.sequence import make_sequence, pad_front

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
