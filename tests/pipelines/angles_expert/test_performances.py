from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aqa_models.body_angles import body_channels
from pipelines.angles_expert.performances import at_rate, make_performances
from pipelines.errors import DataError
from pipelines.motion import load_motions


def test_a_clock_that_limps_is_made_even():
    time_s = np.array([0.0, 0.1, 0.15, 0.5, 1.0])
    keypoints = np.stack([time_s, 2 * time_s], axis=1)[:, None]
    even = at_rate(keypoints, time_s, 10.0)
    np.testing.assert_allclose(even[:, 0, 0], np.arange(11) / 10)
    np.testing.assert_allclose(even[:, 0, 1], np.arange(11) / 5)


def test_gaps_are_bridged_and_what_is_never_seen_stays_missing():
    time_s = np.arange(6) / 10
    keypoints = np.tile(time_s[:, None, None], (1, 2, 3))
    keypoints[2:4, 0] = np.nan
    keypoints[:, 1] = np.nan
    even = at_rate(keypoints, time_s, 10.0)
    np.testing.assert_allclose(even[:, 0, 0], time_s)
    assert np.isnan(even[:, 1]).all()


def test_motions_become_channels_with_their_facts(waving_tables):
    motions = load_motions(*waving_tables)
    performances = make_performances(motions, rate_hz=10.0, repetitions=False)
    assert len(performances) == len(motions) == 28
    first = performances[0]
    expected, _ = body_channels(motions[0].keypoints, "c15", 10.0)
    np.testing.assert_allclose(first.channels, expected, atol=1e-4)
    assert (first.exercise, first.subject, first.score) == ("wave", "waves/P00", motions[0].score)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: {"keypoints": m.keypoints[..., :2]}, "has 2-D poses, and body angles need 3-D ones"),
        (lambda m: {"keypoints": m.keypoints * np.nan}, "is never seen"),
        (lambda m: {"time_s": m.time_s[::-1]}, "must not decrease"),
        (lambda m: {"skeleton": "c51"}, "unknown skeleton"),
    ],
)
def test_a_clip_that_cannot_be_used_is_named(waving_tables, change, text):
    motion = load_motions(*waving_tables)[3]
    with pytest.raises(DataError, match=f"clip P01_1: .*{text}"):
        make_performances([replace(motion, **change(motion))], 10.0, False)


def test_marked_repetitions_become_frames(waving_tables):
    motion = load_motions(*waving_tables)[0]
    late = replace(
        motion,
        time_s=motion.time_s + 2.0,
        repetitions=((0.0, 1.5, ""), (0.0, 2.5, ""), (2.5, 3.0, ""), (3.0, 999.0, "1"), (998.0, 999.0, "")),
    )
    performance = make_performances([late], 10.0, True)[0]
    assert performance.repetitions == ((0, 6), (5, 11), (10, len(performance.channels)))
    assert make_performances([late], 10.0, False)[0].repetitions == ()


def test_unmarked_repetitions_are_refused_where_they_are_read(waving_tables):
    motions = load_motions(*waving_tables)
    with pytest.raises(
        DataError, match=r"clip P00_0: has no marked repetitions.*train without `--repetitions`"
    ):
        make_performances(motions, 10.0, True)
