from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import savgol_filter

from pipelines.pose_labels.repair import HALF_WINDOW, repair, repair_clip, smooth

TIME = np.arange(30) / 25.0


def moving() -> tuple[np.ndarray, np.ndarray]:
    """Four joints of a body 100 wide that drifts along a line; all confident."""
    body = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [50.0, 50.0]])
    return body + TIME[:, None, None] * [20.0, 10.0], np.full((30, 4), 0.9)


def test_a_jump_of_an_unsure_joint_is_put_back_on_the_line():
    truth, confidence = moving()
    found = truth.copy()
    found[10, 2] += [60.0, -40.0]
    found[20:22, 0] += [80.0, 0.0]
    confidence[10, 2], confidence[20:22, 0] = 0.4, 0.3
    repaired, replaced = repair(found, confidence, TIME)
    assert np.argwhere(replaced).tolist() == [[10, 2], [20, 0], [21, 0]]
    assert np.allclose(repaired, truth)


def test_a_jump_the_network_was_sure_of_stays():
    found, confidence = moving()
    found[10, 2] += 60.0
    repaired, replaced = repair(found, confidence, TIME)
    assert not replaced.any()
    assert np.array_equal(repaired, found)


def test_an_unsure_joint_on_the_line_stays():
    found, confidence = moving()
    confidence[10, 2] = 0.2
    assert not repair(found, confidence, TIME)[1].any()


def test_uneven_times_are_respected():
    time = np.sort(np.random.default_rng(0).uniform(0, 2, 30))
    truth = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]]) + time[:, None, None] * [30.0, 5.0]
    found, confidence = truth.copy(), np.full((30, 3), 0.9)
    found[12, 1] += 70.0
    confidence[12, 1] = 0.3
    assert np.allclose(repair(found, confidence, time)[0], truth)


def test_a_missing_joint_stays_missing():
    found, confidence = moving()
    found[:, 3], confidence[:, 3] = np.nan, np.nan
    found[10, 2] += 60.0
    confidence[10, 2] = 0.3
    repaired, replaced = repair_clip(found, confidence, TIME, "smooth")
    assert np.argwhere(replaced).tolist() == [[10, 2]]
    assert np.isnan(repaired[:, 3]).all()
    assert np.isfinite(repaired[:, :3]).all()


def test_clips_of_one_or_two_frames_are_left_alone():
    found, confidence = moving()
    for count in (1, 2):
        again, replaced = repair_clip(found[:count], confidence[:count], TIME[:count], "smooth")
        assert np.array_equal(again, found[:count])
        assert not replaced.any()


def test_equal_confidence_gives_the_filter_of_savitzky_and_golay():
    noisy = moving()[0] + np.random.default_rng(1).normal(0, 5, (30, 4, 2))
    wanted = savgol_filter(noisy, 2 * HALF_WINDOW + 1, 2, axis=0, mode="interp")
    assert np.allclose(smooth(noisy, np.full((30, 4), 0.7), TIME), wanted, atol=1e-5)


def test_a_parabola_is_left_as_it_is_at_uneven_times():
    time = np.sort(np.random.default_rng(2).uniform(0, 2, 30))
    falling = np.stack([3 * time, 5 * time**2], axis=-1)[:, None]
    confidence = np.random.default_rng(3).uniform(0.2, 1, (30, 1))
    assert np.allclose(smooth(falling, confidence, time), falling, atol=1e-6)


def test_smoothing_trusts_sure_values_more():
    truth, confidence = moving()
    found = truth.copy()
    found[15, 1] += 40.0
    sure = np.abs(smooth(found, confidence, TIME)[15, 1] - truth[15, 1]).max()
    confidence[15, 1] = 0.1
    unsure = np.abs(smooth(found, confidence, TIME)[15, 1] - truth[15, 1]).max()
    assert unsure < 0.1 * sure


def test_modes():
    found, confidence = moving()
    same, replaced = repair_clip(found, confidence, TIME, "none")
    assert same is found
    assert not replaced.any()
    with pytest.raises(ValueError, match="none, repair or smooth"):
        repair_clip(found, confidence, TIME, "more")
