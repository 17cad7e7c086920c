"""Standardised scores and classes, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.motion import Motion
from pipelines.targets import class_counts, class_of, standardise, target_statistics


def motion(
    score: float | None = None, action: str = "squat", group: str = "low", subject: str = "A"
) -> Motion:
    return Motion(
        clip_id=f"{subject}_{action}",
        subject=subject,
        subject_id=subject,
        action_type=action,
        group=group,
        split="train",
        score=score,
        skeleton="c15",
        keypoints=np.zeros((2, 15, 3), np.float32),
        time_s=np.arange(2) / 10,
    )


def test_scores_are_standardised_with_the_numbers_of_their_action_type():
    scores = [("squat", 10.0), ("squat", 20.0), ("squat", 60.0), ("lunge", 1.0), ("lunge", 3.0)]
    statistics = target_statistics([motion(score, action) for action, score in scores])
    assert statistics["lunge"] == {"mean": 2.0, "deviation": 1.0, "median": 2.0, "count": 2}
    squat = statistics["squat"]
    assert (squat["mean"], squat["median"], squat["count"]) == (30.0, 20.0, 3)
    assert squat["deviation"] == pytest.approx(np.sqrt((400 + 100 + 900) / 3))
    assert standardise(motion(5.0, "lunge"), statistics) == 3.0
    assert standardise(motion(30.0), statistics) == 0.0


def test_scores_that_cannot_be_standardised_are_refused():
    for scores in ([7.0], [7.0, 7.0, 7.0]):
        with pytest.raises(
            DataError,
            match=f"action type 'squat': has {len(scores)} training scores, all of one value. "
            "Train on action types with at least two different scores",
        ):
            target_statistics([motion(score) for score in scores])
    known = target_statistics([motion(1.0), motion(2.0)])
    with pytest.raises(
        DataError,
        match=r"clip A_lunge: has action type 'lunge', but training had \['squat'\]. Give training clips of",
    ):
        standardise(motion(1.0, "lunge"), known)


def test_classes_are_the_groups_in_the_order_of_their_names():
    rows = [("low", "A"), ("high", "B"), ("low", "C"), ("high", "D"), ("low", "A")]
    counts = class_counts([motion(group=group, subject=subject) for group, subject in rows])
    assert list(counts.items()) == [("high", 2), ("low", 3)]
    assert [class_of(motion(group=name), list(counts)) for name in ("low", "high")] == [1, 0]


def test_groups_that_are_no_classes_are_refused():
    needed = "classes need at least two groups of two people each. Fill the column `group`, or leave"
    with pytest.raises(DataError, match=f"clips table: training people by group: low 2; {needed}"):
        class_counts([motion(subject="A"), motion(subject="B")])
    lonely = [("low", "A"), ("low", "B"), ("high", "C"), ("high", "C")]  # two clips, but of one person
    with pytest.raises(DataError, match=f"training people by group: high 1, low 2; {needed}"):
        class_counts([motion(group=group, subject=subject) for group, subject in lonely])
    with pytest.raises(
        DataError, match=r"clip A_squat: has group 'odd', but training had \['high', 'low'\]. Give training"
    ):
        class_of(motion(group="odd"), ["high", "low"])
