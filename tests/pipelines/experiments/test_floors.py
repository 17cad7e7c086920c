from __future__ import annotations

import numpy as np
import pytest

from pipelines.experiments.floors import camera_setup, guess_classes, guess_scores, simple_statistics
from pipelines.motion import Motion


def motion(size: float, group: str = "Expert", score: float | None = None) -> Motion:
    """c15 in which everything stands still but the left wrist, which goes up and down by `size`."""
    xyz = np.zeros((41, 15, 3), np.float32)
    xyz[:, :, 0] = np.arange(15)
    xyz[:, 1, :] = [0, 1, 0]  # the trunk is one unit long
    xyz[:, 5, 1] = size * np.sin(np.arange(41) / 4)
    return Motion(
        f"c{size}", f"s{size}", f"s{size}", "Es1", group, "train", score, "c15", xyz, np.arange(41) / 10
    )


def test_statistics_of_three_dimensions_are_157_and_do_not_know_the_unit():
    one = motion(0.5)
    found = simple_statistics(one)
    assert found.shape == (157,)
    assert found[-1] == pytest.approx(np.log(41))
    wide = Motion(**{**one.__dict__, "keypoints": one.keypoints * 7})
    np.testing.assert_allclose(simple_statistics(wide), found, atol=1e-5)


def test_camera_setup_is_where_feet_and_pelvis_are():
    found = camera_setup(motion(0.5))
    np.testing.assert_allclose(found, [(11 + 14) / 2, 0, 0, 0, 0, 0, 11 - 14, 0, 0])


def test_guesses_of_scores_by_hand():
    train = [motion(k / 10, "Expert" if k < 3 else "Stroke", float(k)) for k in range(8)]
    test = [motion(0.15, "Stroke"), motion(0.62, "NotExpert")]
    assert guess_scores("floor_median", train, test, 0).tolist() == [3.5, 3.5]
    assert guess_scores("floor_group", train, test, 0).tolist() == [5.0, 1.0]
    low, high = guess_scores("floor_trees", train, test, 0)
    assert low < 3 < 4 < high
    assert np.ptp(guess_scores("floor_setup", train, test, 0)) == 0  # all stand at the same place


def test_the_most_frequent_class_is_guessed():
    train = [motion(0.1, "low"), motion(0.2, "high"), motion(0.3, "high")]
    assert guess_classes(train, [motion(0.4, "low")] * 2) == ["high", "high"]
