"""Confidence and jitter of poses, against values known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.stages.quality import pose_quality

TIME = np.arange(6) / 25


def test_steady_motion_has_no_jitter():
    keypoints = np.stack([np.stack([3.0 * np.arange(6), 5.0 * np.arange(6)], -1)] * 2, axis=1)
    found = pose_quality(keypoints, np.full((6, 2), 0.75), TIME)
    assert found == {"mean_confidence": 0.75, "jitter_px": 0.0}


def test_jitter_is_the_length_of_the_second_difference():
    x = np.array([0, 3, 0, 3, 0, 3.0])  # second differences of 6 px ...
    keypoints = np.stack([x, 4 / 3 * x], axis=-1)[:, None]  # ... and 8 px across: 10
    assert pose_quality(keypoints, np.ones((6, 1)), TIME)["jitter_px"] == pytest.approx(10.0)


def test_unseen_and_missing_joints_do_not_count():
    keypoints = np.zeros((6, 3, 2))
    keypoints[::2, 1] = 100  # jumps, but nobody believes it
    keypoints[:, 2] = np.nan
    confidence = np.tile([0.9, 0.1, 0.8], (6, 1))
    found = pose_quality(keypoints, confidence, TIME)
    assert found["mean_confidence"] == pytest.approx(0.5)
    assert found["jitter_px"] == 0.0


def test_frames_across_a_gap_do_not_count():
    keypoints = np.array([0, 1, 2, 50, 51, 52.0])[:, None, None] * [1.0, 0.0]
    time_s = np.array([0, 1, 2, 50, 51, 52]) / 25
    assert pose_quality(keypoints, np.ones((6, 1)), time_s)["jitter_px"] == 0.0
    assert pose_quality(keypoints, np.ones((6, 1)), TIME)["jitter_px"] > 0


def test_two_frames_or_no_joints_have_no_jitter():
    assert np.isnan(pose_quality(np.zeros((2, 1, 2)), np.ones((2, 1)), TIME[:2])["jitter_px"])
    assert np.isnan(pose_quality(np.full((6, 1, 2), np.nan), np.ones((6, 1)), TIME)["mean_confidence"])
