"""Scores by comparison: what they may depend on, and how often a dive is encoded."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from made_dives import SEGMENTING, SMALL, changed, make_tables, settings

from aqa_models.exemplars import vote
from aqa_models.hp_mcore.model import HpMcore
from aqa_models.hp_mcore.regression import StageRegression
from pipelines.errors import DataError
from pipelines.hp_mcore.dives import Dives, dive_table
from pipelines.hp_mcore.score import Prediction, score_dives, segmentation_metrics

CPU = torch.device("cpu")
TRAIN, TEST = [0, 1, 2, 5, 6, 7, 10, 11, 12], [3, 4, 8, 9, 13, 14]


@pytest.fixture(scope="module")
def tables() -> tuple[pa.Table, dict[str, pa.Table]]:
    return make_tables(train=3, val=0, test=2)


@pytest.fixture(scope="module")
def dives(tables) -> Dives:
    return Dives(dive_table(*tables, 96))


@pytest.fixture(scope="module")
def model() -> HpMcore:
    torch.manual_seed(0)
    return HpMcore(SEGMENTING, encoders=False)


def score(model, dives, queries=TEST, pool=TRAIN, **changes) -> list[Prediction]:
    return score_dives(model, dives, queries, pool, settings(model.config, **changes), CPU)


def with_clips(tables, change) -> Dives:
    return Dives(dive_table(changed(tables[0], change), tables[1], 96))


def assert_alike(found: Prediction, expected: Prediction) -> None:
    """The same up to the rounding of sums in batches of another size."""
    same = ("row", "transitions", "exemplars", "rule")
    assert [getattr(found, name) for name in same] == [getattr(expected, name) for name in same]
    for name in ("score", "low", "high", "contributions", "votes"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4)


def test_a_dive_alone_is_scored_as_among_others_in_any_order(model, dives):
    together = score(model, dives)
    assert [found.row for found in together] == TEST
    assert len({found.score for found in together}) == len(TEST)
    for expected in together[::2]:
        (alone,) = score(model, dives, [expected.row])
        assert_alike(alone, expected)
    for found, expected in zip(score(model, dives, TEST[::-1]), together[::-1], strict=True):
        assert_alike(found, expected)
    for found, expected in zip(score(model, dives, pool=TRAIN[::-1]), together, strict=True):
        assert_alike(found, expected)


def test_batches_do_not_show(model, dives, monkeypatch):
    expected = score(model, dives)
    monkeypatch.setattr("pipelines.hp_mcore.score.ENCODED_AT_A_TIME", 2)
    monkeypatch.setattr("pipelines.hp_mcore.score.PAIRS_AT_A_TIME", 3)
    for one, other in zip(score(model, dives), expected, strict=True):
        assert_alike(one, other)


def test_a_querys_own_score_and_transitions_are_not_read(model, dives, tables):
    asked = {dives.facts[row].clip_id for row in TEST}
    lies = {"score": 1e6, "transitions_s": [0.2, 0.4, 0.8, 3.0], "procedures": None}
    other = with_clips(tables, lambda row: lies if row["clip_id"] in asked else {})
    assert other.facts[TEST[0]].transitions == (5, 10, 20, 75)
    assert score(model, other) == score(model, dives)
    unknown = {"score": None, "transitions_s": None, "procedures": None}
    nothing = with_clips(tables, lambda row: unknown if row["clip_id"] in asked else {})
    assert nothing.facts[TEST[0]].transitions == ()
    assert score(model, nothing) == score(model, dives)


def test_the_comparison_above_would_notice(model, dives, tables):
    """Control: what exemplars score, and where they are cut, does change the predictions."""
    asked = {dives.facts[row].clip_id for row in TEST}
    for lies in ({"score": 1e6}, {"transitions_s": [0.2, 0.4]}):
        other = with_clips(tables, lambda row: {} if row["clip_id"] in asked else lies)  # noqa: B023
        assert all(a.score != b.score for a, b in zip(score(model, other), score(model, dives), strict=True))


def test_exemplars_may_be_cut_at_their_own_or_at_predicted_transitions(model, dives, tables):
    predicted = score(model, dives, exemplar_transitions="predicted")
    assert [p.score for p in predicted] != [p.score for p in score(model, dives)]
    other = with_clips(tables, lambda row: {"transitions_s": [0.2, 0.4]})
    assert score(model, other, exemplar_transitions="predicted") == predicted


def test_nobody_is_its_own_exemplar(model, dives):
    for found in score(model, dives, TRAIN, num_exemplars=10):
        assert found.row not in found.exemplars
        assert len(found.exemplars) == 2  # of three dives of its number


def test_votes_average_to_the_score_and_contributions_add_up(model, dives):
    for by_difficulty in (False, True):
        for found in score(model, dives, by_difficulty=by_difficulty, num_exemplars=3):
            assert len(found.votes) == len(found.exemplars) == 3
            assert found.score == pytest.approx(np.mean(found.votes))
            low, high = np.quantile(found.votes, [0.025, 0.975])
            assert (found.low, found.high) == pytest.approx((low, high))
            known = [dives.facts[row].score for row in found.exemplars]
            if by_difficulty:
                own = dives.facts[found.row].difficulty
                known = [
                    own * s / dives.facts[r].difficulty for s, r in zip(known, found.exemplars, strict=True)
                ]
            assert sum(found.contributions) == pytest.approx(found.score - np.mean(known), abs=1e-4)
            assert abs(sum(found.contributions)) > 1e-3


def test_differences_are_multiplied_by_the_querys_difficulty(model, dives, tables):
    """Twice the difficulty of query and exemplars, twice the score: by degree of difficulty it is all one."""
    twice = with_clips(tables, lambda row: {"score": 2 * row["score"], "difficulty": 2 * row["difficulty"]})
    for one, other in zip(
        score(model, dives, by_difficulty=True), score(model, twice, by_difficulty=True), strict=True
    ):
        assert other.score == pytest.approx(2 * one.score)
        assert other.contributions == pytest.approx([2 * c for c in one.contributions])
    easy = with_clips(
        tables, lambda row: {"difficulty": row["difficulty"] / (4 if row["split"] == "test" else 1)}
    )
    for one, other in zip(
        score(model, dives, by_difficulty=True), score(model, easy, by_difficulty=True), strict=True
    ):
        assert other.score == pytest.approx(one.score / 4)


@pytest.mark.parametrize("difficulty", [None, 0.0, -1.0])
def test_a_difficulty_that_is_needed_and_not_known_is_an_error(model, tables, difficulty):
    wrong = with_clips(tables, lambda row: {"difficulty": difficulty} if row["clip_id"] == "107b_3" else {})
    with pytest.raises(
        DataError,
        match=f"clip 107b_3: has difficulty {difficulty}, but the model compares scores per degree of "
        "difficulty. Fill the column difficulty, or train with --no-by-difficulty",
    ):
        score(model, wrong, by_difficulty=True)
    assert len(score(model, wrong)) == len(TEST)


def test_a_single_vote_has_no_interval(model, dives):
    for found in score(model, dives, num_exemplars=1):
        assert (len(found.exemplars), len(found.votes)) == (1, 1)
        assert np.isnan([found.low, found.high]).all()


def test_fewer_exemplars_than_wanted_are_taken_and_a_fallback_is_told(model, dives, tables):
    numbers = {"107b_3": "105c", "107b_4": "612b", "407c_0": "405b", "407c_1": "405b"}
    other = with_clips(
        tables, lambda r: {"action_type": numbers[r["clip_id"]]} if r["clip_id"] in numbers else {}
    )
    found = {other.facts[p.row].clip_id: p for p in score(model, other, num_exemplars=4)}
    assert [(p.rule, len(p.exemplars)) for p in found.values()] == [
        ("rotation", 3),  # 105c is forward as 107b
        ("any", 4),  # nobody else starts from an armstand
        ("number", 1),
        ("number", 1),
        ("number", 3),
        ("number", 3),
    ]
    assert {other.facts[row].action_type for row in found["107b_3"].exemplars} == {"107b"}


def test_without_anybody_else_it_is_an_error(model, dives):
    with pytest.raises(DataError, match="clips table: clip 107b_0 has no exemplar: .*Add scored training"):
        score(model, dives, [0], [0])


def test_each_dive_is_encoded_once(model, dives, monkeypatch):
    encoded = []
    real = HpMcore.encode

    def counted(self, performances, transitions=None):
        encoded.append(len(performances.static))
        return real(self, performances, transitions)

    monkeypatch.setattr(HpMcore, "encode", counted)
    score(model, dives, num_exemplars=3)
    assert sum(encoded) == len(TEST) + len(TRAIN)
    encoded.clear()
    found = score(model, dives, TEST[:2], num_exemplars=2)
    assert sum(encoded) == 2 + len({row for p in found for row in p.exemplars})


def test_pairs_are_compared_with_their_own_exemplars(dives, monkeypatch):
    """A model whose differences are known: the mean of the first channel, less that of the exemplar."""
    model = HpMcore(SMALL, encoders=False)
    level = dives.stream("static", list(range(15)))[..., 0].mean(axis=1)

    def difference(self, query, exemplar, present):
        from aqa_models.hp_mcore.regression import Comparison

        share = (query["static"] - exemplar["static"]).mean(dim=(2, 3)) / 3
        return Comparison(share.sum(dim=1), share, {"static": share})

    def steps(features, cuts, present):
        known = features.static[..., 0].mean(dim=1)[:, None, None, None].expand(-1, 3, 2, 1)
        return known, known, None

    monkeypatch.setattr(StageRegression, "forward", difference)
    monkeypatch.setattr(model, "_steps", steps)
    for found in score(model, dives, num_exemplars=3):
        others = np.array(found.exemplars)
        known = np.array([dives.facts[row].score for row in others])
        expected = vote(known, level[found.row] - level[others])
        assert found.score == pytest.approx(expected.score, abs=1e-4)
        assert found.votes == pytest.approx(known + level[found.row] - level[others], abs=1e-4)


def test_streams_alone_mix_to_the_score(model, dives):
    """With plain averaging the score is the mean of what the streams say."""
    for found in score(model, dives, num_exemplars=3):
        assert found.streams
        assert found.score == pytest.approx(np.mean(list(found.streams.values())), abs=1e-3)


def prediction(row: int, *transitions: int) -> Prediction:
    return Prediction(
        row, 0.0, 0.0, 0.0, (0.0,) * (len(transitions) + 1), transitions, (0,), (0.0,), "any", {}
    )


def three_cut(tables, *steps: tuple[int, ...]) -> Dives:
    """The first dives with these transitions in frames."""
    given = dict(itertools.zip_longest(tables[0]["clip_id"].to_pylist(), steps))
    return with_clips(
        tables,
        lambda r: {"transitions_s": [k / 25 for k in given[r["clip_id"]]]} if given[r["clip_id"]] else {},
    )


def test_segmentation_by_hand(tables):
    dives = three_cut(tables, (20, 60), (20, 60), (20, 60))
    found = [prediction(0, 20, 60), prediction(1, 40, 60), prediction(2, 20, 92)]
    # Flight 20-60 against itself, half of it, and 20-92: overlap 1, 1/2 and 40/72.
    metrics = segmentation_metrics(dives, found, 3)
    assert metrics["aiou_50"] == pytest.approx(1.0)
    assert metrics["aiou_75"] == pytest.approx(1 / 3)
    assert metrics["transition_error"] == pytest.approx((0 + 0 + 20 + 0 + 0 + 32) / 6)
    # All procedures: (1 + 1 + 1) / 3; (20/40 + 20/40 + 1) / 3 = .67; (1 + 40/72 + 4/36) / 3 = .56.
    assert metrics["aiou_50_all"] == pytest.approx(1.0)
    assert metrics["aiou_75_all"] == pytest.approx(1 / 3)


def test_segmentation_of_dives_with_other_numbers_of_procedures(tables):
    dives = three_cut(tables, (30,), (20, 40, 60))
    # One cut: the first procedure, 0-30 against 0-60. Four slots were announced for a dive of four.
    metrics = segmentation_metrics(dives, [prediction(0, -1, -1, 60), prediction(1, 20, 40, 60)], 4)
    assert metrics["aiou_50"] == pytest.approx(1.0)
    assert metrics["aiou_75"] == pytest.approx(0.5)
    assert metrics["transition_error"] == pytest.approx(30 / 4)
    # A dive for which another number of procedures was announced counts for the flight only.
    other = segmentation_metrics(dives, [prediction(1, 20, -1, 60)], 4)
    assert other == {"aiou_50": 1.0, "aiou_75": 1.0, "transition_error": 0.0}


def test_the_usual_number_of_procedures_of_the_exemplars_is_announced(tables):
    model = HpMcore(replace(SEGMENTING, num_procedures=4), encoders=False)
    steps = {"107b_0": [1.0, 1.5, 2.0], "107b_1": [1.0, 1.5, 2.0], "107b_2": [1.0, 2.0]}
    dives = with_clips(
        tables, lambda r: {"transitions_s": steps[r["clip_id"]]} if r["clip_id"] in steps else {}
    )
    first, _, third, *_ = score(model, dives, num_exemplars=3)
    assert min(first.transitions) >= 1
    assert first.transitions == tuple(sorted(first.transitions))
    assert third.transitions[1] == -1
