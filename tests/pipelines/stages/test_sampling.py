"""Which frames are taken and where a box lies, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.stages.sampling import PersonBoxes, sample_indices


def test_all_keeps_start_and_drops_end():
    times = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    assert sample_indices(times, "all").tolist() == [0, 1, 2, 3, 4]
    assert sample_indices(times, "all", 0.1, 0.3).tolist() == [1, 2]
    assert sample_indices(times, "all", 0.5, None).tolist() == []


def test_uniform_is_floor_of_linspace_and_repeats():
    times = np.arange(10) / 10
    assert sample_indices(times, "uniform:4").tolist() == [0, 3, 6, 9]
    assert sample_indices(times, "uniform:5").tolist() == [0, 2, 4, 6, 9]  # 0 2.25 4.5 6.75 9
    assert sample_indices(times[:2], "uniform:5").tolist() == [0, 0, 0, 0, 1]
    assert sample_indices(times, "uniform:1", 0.2).tolist() == [2]


def test_fps_takes_the_nearest_frame_of_each_tick():
    at_30 = np.arange(31) / 30
    assert sample_indices(at_30, "fps:10").tolist() == list(range(0, 31, 3))
    at_25 = np.arange(26) / 25  # ticks 0, 2.5, 5, ... frames; a tie goes to the earlier frame
    assert sample_indices(at_25, "fps:10").tolist() == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25]
    uneven = np.array([0.0, 0.04, 0.21, 0.26, 0.9])  # ticks 0 .1 .2 .3 .4 .5 | .6 .7 .8 .9
    assert sample_indices(uneven, "fps:10").tolist() == [0, 1, 2, 3, 4]


def test_fps_beyond_the_source_gives_each_frame_once():
    assert sample_indices(np.arange(5) / 5, "fps:1000000000").tolist() == [0, 1, 2, 3, 4]
    assert sample_indices(np.arange(5) / 5, "fps:0.1").tolist() == [0]


def test_fps_ticks_start_with_the_clip():
    assert sample_indices(np.arange(100) / 50, "fps:10", 1.06, 1.5).tolist() == [53, 58, 63, 68, 73]


@pytest.mark.parametrize("sampling", ["every:3", "fps:0", "fps:x", "uniform:0", "uniform:-3", "fps:"])
def test_unknown_sampling_is_named(sampling):
    with pytest.raises(ValueError, match="is none of all, fps:R, uniform:M"):
        sample_indices(np.arange(3.0), sampling)


def test_more_than_a_million_frames_are_refused():
    with pytest.raises(ValueError, match="asks for more than 1000000 frames"):
        sample_indices(np.arange(3.0), "uniform:1000001")


def test_boxes_are_linear_between_frames_and_constant_beyond():
    person = PersonBoxes(2, np.array([10, 20]), np.array([[0, 0, 10, 20], [10, 40, 30, 50]]))
    expected = [[0, 0, 10, 20], [0, 0, 10, 20], [1, 4, 12, 23], [5, 20, 20, 35], [10, 40, 30, 50]]
    np.testing.assert_allclose(person.at(np.array([0, 10, 11, 15, 99])), expected, rtol=1e-6)
    again = PersonBoxes(**person.as_json())
    np.testing.assert_array_equal(again.at(np.arange(30)), person.at(np.arange(30)))


@pytest.mark.parametrize(
    ("frames", "boxes", "message"),
    [
        ([], np.zeros((0, 4)), "n ascending frames"),
        ([3, 3], [[0, 0, 1, 1]] * 2, "n ascending frames"),
        ([3], [[0, 0, 1, 1]] * 2, "n ascending frames"),
        ([0, 1], [[0, 0, 1, 1], [5, 5, 5, 9]], r"box \(5.0, 5.0, 5.0, 9.0\) is empty"),
        ([0], [[float("nan"), 0, 1, 1]], "is empty"),
    ],
)
def test_wrong_boxes_are_named(frames, boxes, message):
    with pytest.raises(ValueError, match=message):
        PersonBoxes(0, np.array(frames), np.array(boxes))
