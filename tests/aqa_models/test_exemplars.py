"""Exemplars of made dives, worked out by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from aqa_models.exemplars import (
    Attempt,
    candidates,
    choose_exemplars,
    draw_exemplars,
    rotation_group,
    vote,
)

TRAIN = [
    Attempt("a", "107b", 3.1),
    Attempt("b", "107b", 3.1),
    Attempt("c", "107c", 2.8),
    Attempt("d", "207c", 3.1),
    Attempt("e", "5253b", 3.4),
]


@pytest.mark.parametrize(
    ("query", "rule", "expected"),
    [
        (Attempt("q", "107b", 3.1), "number", ["a", "b"]),
        (Attempt("a", "107b", 3.1), "number", ["b"]),  # never itself
        (Attempt("q", "107b", 3.1), "difficulty", ["a", "b", "d"]),
        (Attempt("q", "107b", 3.1), "rotation", ["a", "b", "c"]),
        (Attempt("q", "107b", 3.1), "any", ["a", "b", "c", "d", "e"]),
        (Attempt("q", "405b", 3.4), "number", []),
        (Attempt("q", "", None), "number", []),
        (Attempt("q", "", None), "rotation", []),
        (Attempt("q", "", None), "difficulty", []),
    ],
)
def test_who_fulfils_a_rule(query, rule, expected):
    assert candidates(query, TRAIN, rule) == expected
    assert candidates(query, TRAIN[::-1], rule) == expected


def test_the_rotation_group_is_the_first_digit():
    assert [rotation_group(number) for number in ("107b", "5253b", "614b", "")] == ["1", "5", "6", ""]


def test_all_are_taken_once_where_there_are_few():
    chosen = choose_exemplars([Attempt("q", "107b")], TRAIN, "number", 10, seed=0)["q"]
    assert sorted(chosen.clip_ids) == ["a", "b"]
    assert chosen.rule == "number"


def test_the_fallback_is_told():
    queries = [Attempt("q", "205b", 1.5), Attempt("r", "301b", 1.5), Attempt("e", "5253b", 3.4)]
    chosen = choose_exemplars(queries, TRAIN, "number", 10, seed=0)
    assert chosen["q"].rule == "rotation"
    assert chosen["q"].clip_ids == ("d",)
    assert [chosen[name].rule for name in "re"] == ["any", "any"]
    assert sorted(chosen["e"].clip_ids) == ["a", "b", "c", "d"]  # the only one of its number and group
    assert choose_exemplars(queries, TRAIN, "difficulty", 1, seed=0)["q"].rule == "any"


def test_nobody_to_compare_with_is_an_error():
    with pytest.raises(ValueError, match="clip a has no exemplar: the training set holds nobody else"):
        choose_exemplars(TRAIN[:1], TRAIN[:1], "any", 1, seed=0)
    with pytest.raises(ValueError, match="count must be 1 or more, got 0"):
        choose_exemplars(TRAIN, TRAIN, "any", 0, seed=0)


def many(count: int = 60) -> list[Attempt]:
    return [Attempt(f"t{k}", "107b" if k % 2 else "207c", 3.0) for k in range(count)]


def test_the_choice_depends_on_query_and_seed_only():
    train, queries = many(), [Attempt("q1", "107b"), Attempt("q2", "107b"), Attempt("q3", "207c")]
    chosen = choose_exemplars(queries, train, "number", 10, seed=3)
    assert all(len(set(choice.clip_ids)) == 10 for choice in chosen.values())
    shuffled = [train[k] for k in np.random.default_rng(0).permutation(len(train))]
    assert choose_exemplars(queries[::-1], shuffled, "number", 10, seed=3) == chosen
    assert choose_exemplars(queries[1:2], train, "number", 10, seed=3)["q2"] == chosen["q2"]
    assert chosen["q1"].clip_ids != chosen["q2"].clip_ids
    assert choose_exemplars(queries, train, "number", 10, seed=4)["q1"] != chosen["q1"]
    # Ten of ten more are the first of more: fewer votes use the first ones.
    assert choose_exemplars(queries, train, "number", 3, seed=3)["q1"].clip_ids == chosen["q1"].clip_ids[:3]


def test_another_process_chooses_the_same():
    """Hashes of text differ between Python processes; the choice may not."""
    code = (
        "from aqa_models.exemplars import *\n"
        "train = [Attempt(f't{k}', '107b') for k in range(30)]\n"
        "print(choose_exemplars([Attempt('q', '107b')], train, 'number', 5, 7)['q'].clip_ids)"
    )
    root = Path(__file__).parents[2]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    train = [Attempt(f"t{k}", "107b") for k in range(30)]
    assert outputs == {f"{choose_exemplars([Attempt('q', '107b')], train, 'number', 5, 7)['q'].clip_ids}\n"}


def test_a_training_draw_is_uniform_over_the_others_and_new_in_each_epoch():
    train = [Attempt(name, "107b") for name in "abcde"]
    drawn = Counter()
    for epoch in range(2000):
        pairs = draw_exemplars(train, "number", seed=1, epoch=epoch)
        assert all(len(choice.clip_ids) == 1 for choice in pairs.values())
        drawn.update((name, choice.clip_ids[0]) for name, choice in pairs.items())
    assert len(drawn) == 20  # every ordered pair, never a dive with itself
    assert all(abs(count - 500) < 5 * np.sqrt(2000 * 0.25 * 0.75) for count in drawn.values())
    assert draw_exemplars(train, "number", 1, 7) == draw_exemplars(train[::-1], "number", 1, 7)


def test_votes_by_hand():
    result = vote(np.array([70.0, 80, 90]), np.array([5.0, -5, -15]))
    assert (result.score, result.low, result.high) == (75.0, 75.0, 75.0)
    result = vote(np.array([10.0, 20, 30, 40, 50]), np.zeros(5), level=0.5)
    assert (result.score, result.low, result.high) == (30.0, 20.0, 40.0)  # the quartiles
    result = vote(np.array([10.0, 20, 30]), np.zeros(3), interval="normal")
    assert result.score == 20.0
    assert (result.high - 20.0, 20.0 - result.low) == pytest.approx((1.959964 * 10,) * 2, rel=1e-6)


def test_votes_do_not_depend_on_their_order():
    random = np.random.default_rng(0)
    scores, deltas = random.normal(60, 9, 10), random.normal(0, 3, 10)
    order = random.permutation(10)
    one, other = vote(scores, deltas), vote(scores[order], deltas[order])
    assert (one.score, one.low, one.high) == pytest.approx((other.score, other.low, other.high), abs=1e-12)


def test_a_single_vote_has_no_interval():
    result = vote(np.array([60.0]), np.array([1.5]))
    assert result.score == 61.5
    assert np.isnan([result.low, result.high]).all()


@pytest.mark.parametrize(
    ("scores", "deltas", "level", "cause"),
    [
        ([], [], 0.95, "need two non-empty vectors of one length"),
        ([1.0, 2.0], [1.0], 0.95, "need two non-empty vectors of one length"),
        ([1.0], [np.nan], 0.95, "votes must be finite"),
        ([1.0], [0.0], 1.0, "level must be above 0 and below 1, got 1.0"),
    ],
)
def test_wrong_votes_are_refused(scores, deltas, level, cause):
    with pytest.raises(ValueError, match=cause):
        vote(np.array(scores), np.array(deltas), level)
