"""Guesses without video: a few dives by hand, and the published annotations."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from aqa_models.metrics import relative_l2, spearman_rho
from pipelines.datasets.fine_diving import read_fine_diving
from pipelines.datasets.mtl_aqa import read_mtl_aqa
from pipelines.errors import DataError
from pipelines.hp_mcore.baselines import flight, judge_agreement, score_baselines, transition_baselines

DATA = Path(os.environ.get("AQA_TEST_DATA", "."))
needs_data = pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")


def row(
    number: str = "107b",
    difficulty: float | None = 3.0,
    score: float | None = 60.0,
    transitions: list[float] | None = None,
    end: float | None = 4.0,
    **more,
) -> dict:
    return {
        "action_type": number, "difficulty": difficulty, "score": score, "transitions_s": transitions,
        "end_s": end, "start_s": None, "procedures": None, "judge_scores": None, **more,
    }  # fmt: skip


TRAIN = [
    row("107b", 3.0, 60.0),
    row("107b", 2.0, 80.0),
    row("105b", 2.0, 40.0),
    row("205b", 2.5, 50.0),
    row("205b", 2.5, None),
]


def test_scores_by_hand():
    test = [row("107b", 2.0, None), row("109c", 4.0, None), row("405b", 3.0, None), row("", None, None)]
    guesses = score_baselines(TRAIN, test)
    # 109c: nobody of its number, so the mean of group 1; 405b: nor of its group, so the mean of all.
    assert guesses["mean of the dive number"] == pytest.approx([70, 60, 57.5, 57.5])
    assert guesses["mean of the rotation group"] == pytest.approx([60, 60, 57.5, 57.5])
    assert guesses["mean of the difficulty"] == pytest.approx([60, 57.5, 60, 57.5])
    # Completeness: 20 and 40 of 107b, 20 of 105b, 20 of 205b.
    expected = [2 * 30, 4 * 80 / 3, 3 * 25, np.nan]
    assert guesses["difficulty x completeness of the dive number"] == pytest.approx(expected, nan_ok=True)
    expected = [2 * 25, 4 * 25, 3 * 25, np.nan]
    assert guesses["difficulty x mean completeness"] == pytest.approx(expected, nan_ok=True)


def test_scores_of_test_dives_are_not_read():
    test = [row("107b", 2.0, 1.0), row("205b", 2.0, 99.0)]
    other = [dict(dive, score=55.0) for dive in test]
    for name, guess in score_baselines(TRAIN, test).items():
        np.testing.assert_array_equal(guess, score_baselines(TRAIN, other)[name])


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(DataError, match="training split: no clip has a score. Train on labelled clips"):
        score_baselines([row(score=None)], [row()])
    with pytest.raises(DataError, match="training split: no clip has transitions. Import the steps"):
        transition_baselines([row()], [row()])


@pytest.mark.parametrize(
    ("dive", "expected"),
    [
        (row(transitions=[0.4, 1.2], end=96 / 25), (10, 30)),  # 96 frames: nothing is resampled
        (row(transitions=[0.4, 1.2], end=48 / 25), (21, 61)),  # first i with floor(47 i / 95) = 10, and 30
        (row(transitions=[0.4, 1.2], end=191 / 25), (5, 15)),  # every second frame
        (row(transitions=[2.4, 3.2], end=5.84, start_s=2.0), (10, 30)),
        (row(transitions=[0.4, 0.8, 1.2], end=96 / 25), (10, 30)),
        (row(transitions=[0.4, 0.8, 1.2], end=96 / 25, procedures=["a", "b", "c", "b"]), (10, 20)),
        (row(transitions=[0.4, 0.8, 1.2], end=96 / 25, procedures=["a", "b", "a", "c"]), (10, 30)),
        (row(transitions=[0.4]), None),
        (row(transitions=None), None),
        (row(transitions=[0.4, 1.2], end=None), None),
    ],
)
def test_flight_by_hand(dive, expected):
    assert flight(dive) == expected


def test_transitions_by_hand():
    train = [
        row("107b", transitions=[0.04 * a, 0.04 * b], end=3.84) for a, b in ((10, 30), (20, 60), (12, 40))
    ]
    train += [row("205b", transitions=[0.04 * 50, 0.04 * 70], end=3.84), row("205b")]
    guesses = transition_baselines(train, [row("205b"), row("107b"), row("614b")])
    assert guesses["median of the dive number"].tolist() == [[50, 70], [12, 40], [16, 50]]
    assert guesses["median of all dives"].tolist() == [[16, 50]] * 3


def test_judges_by_hand():
    judges = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]
    rows = [row(difficulty=2.0, judge_scores=judges), row(judge_scores=[7.0, 7.0, 7.0]), row()]
    one, others = judge_agreement(rows, 1)
    assert one.shape == others.shape == (7, 3)
    assert one[:, 0].tolist() == [6 * score for score in judges]
    # Of six, one is struck at each end: without the first judge 7, 6, 5, 4 are left.
    assert others[0, 0] == 6 * 5.5
    assert np.isnan(one[:, 1:]).all()
    assert np.isnan(others[:, 1:]).all()
    half, rest = judge_agreement(rows, 3)
    assert half.shape == (35, 3)
    assert (half[0, 0], rest[0, 0]) == (6 * 8.0, 6 * 4.5)
    with pytest.raises(ValueError, match="part must be between 1 and 6, got 7"):
        judge_agreement(rows, 7)


def overlap(guess: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Temporal intersection over union of flights (N, 2)."""
    inner = np.clip(np.minimum(guess[:, 1], true[:, 1]) - np.maximum(guess[:, 0], true[:, 0]), 0, None)
    return inner / (np.diff(guess)[:, 0] + np.diff(true)[:, 0] - inner + 1e-9)


def halves(clips) -> tuple[list[dict], list[dict]]:
    rows = clips.to_pylist()
    return [r for r in rows if r["split"] == "train"], [r for r in rows if r["split"] == "test"]


@pytest.mark.data
@needs_data
def test_fine_diving_without_video():
    train, test = halves(read_fine_diving(DATA / "finediving")[0])
    true = np.array([dive["score"] for dive in test])
    rows = {
        name: (spearman_rho(guess, true), 100 * relative_l2(guess, true, (true.min(), true.max())))
        for name, guess in score_baselines(train, test).items()
    }
    assert rows["mean of the dive number"] == pytest.approx((0.5882, 1.3352), abs=5e-5)
    assert rows["difficulty x completeness of the dive number"] == pytest.approx((0.5941, 1.283), abs=5e-4)
    assert rows["difficulty x mean completeness"] == pytest.approx((0.5652, 1.350), abs=5e-4)
    assert rows["mean of the rotation group"] == pytest.approx((0.1963, 1.999), abs=5e-4)
    flights = np.array([flight(dive) for dive in test])
    shares = {
        name: tuple(100 * np.mean(overlap(guess, flights) >= share) for share in (0.5, 0.75))
        for name, guess in transition_baselines(train, test).items()
    }
    assert shares["median of the dive number"] == pytest.approx((82.51, 43.93), abs=5e-3)
    assert shares["median of all dives"] == pytest.approx((78.37, 31.38), abs=5e-3)


@pytest.mark.data
@needs_data
def test_fine_diving_flights():
    """The starts of flight and entry have the promised percentiles; the labels give the same."""
    from pipelines.datasets.fine_diving import read_dives

    clips, _ = read_fine_diving(DATA / "finediving")
    flights = np.array([flight(dive) for dive in clips.to_pylist()])
    assert len(flights) == 3000
    points = np.percentile(flights, [0, 1, 5, 50, 95, 99, 100], axis=0).T
    assert np.round(points).tolist() == [[1, 5, 11, 29, 46, 51, 58], [35, 44, 49, 62, 77, 83, 88]]
    labels = {dive.clip_id: dive.labels for dive in read_dives(DATA / "finediving").values()}
    for clip_id, found in zip(clips["clip_id"].to_pylist(), flights.tolist(), strict=True):
        of_clip = labels[clip_id]
        assert of_clip is not None
        shown = of_clip[np.floor(np.linspace(0, len(of_clip) - 1, 96)).astype(int)].tolist()
        order = list(dict.fromkeys(shown))
        assert [shown.index(order[1]), shown.index(order[-1])] == found, clip_id


@pytest.mark.data
@needs_data
def test_mtl_aqa_without_video_and_its_judges():
    train, test = halves(read_mtl_aqa(DATA / "mtl_aqa")[0])
    true = np.array([dive["score"] for dive in test])
    guesses = score_baselines(train, test)
    bounds = (true.min(), true.max())
    for name, expected in (
        ("mean of the dive number", (0.5963, 2.004)),
        ("mean of the difficulty", (0.5763, 2.012)),
    ):
        found = spearman_rho(guesses[name], true), 100 * relative_l2(guesses[name], true, bounds)
        assert found == pytest.approx(expected, abs=5e-4)
    one, others = judge_agreement(test, 1)
    agreement = [spearman_rho(a, b) for a, b in zip(one, others, strict=True)]
    assert np.mean(agreement) == pytest.approx(0.9726, abs=5e-4)
    half, rest = judge_agreement(test, 3)
    agreement = [spearman_rho(a, b) for a, b in zip(half, rest, strict=True)]
    assert np.mean(agreement) == pytest.approx(0.9858, abs=5e-4)
