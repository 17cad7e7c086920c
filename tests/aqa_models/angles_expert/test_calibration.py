from __future__ import annotations

import numpy as np
import pytest

from aqa_models.angles_expert.calibration import (
    choose_pooling,
    choose_weights,
    least_absolute_lines,
    merit,
    pool_person,
)

TWO = np.arange(60) % 2


def test_merit_of_perfect_opposite_and_constant_predictions():
    target = np.random.default_rng(0).normal(size=60)
    assert merit(target, target, TWO) == pytest.approx(1)
    size = np.mean([np.abs(target[k == TWO]).mean() for k in (0, 1)])
    assert merit(-target, target, TWO) == pytest.approx(-1 - 2 * size)
    assert merit(np.zeros(60), target, TWO) == pytest.approx(-size)


def test_a_member_that_knows_nothing_gets_little_weight():
    generator = np.random.default_rng(1)
    target = generator.normal(size=60)
    good = target + 0.3 * generator.normal(size=60)
    weights = choose_weights(np.stack([good, generator.normal(size=60)]), target, TWO)
    assert weights.sum() == pytest.approx(1)
    assert weights[0] > 0.8
    np.testing.assert_allclose(choose_weights(good[None], target, TWO), [1])


def test_the_lines_minimise_the_absolute_error():
    generator = np.random.default_rng(2)
    predicted = generator.normal(size=60)
    score = np.where(TWO == 0, 20 + 4 * predicted, 35 + 8 * predicted)
    wild = score.copy()
    wild[[3, 10]] += 500  # a least squares line would follow these
    lines = least_absolute_lines(predicted, wild, TWO, np.array([2.0, 4.0]))
    np.testing.assert_allclose(lines, [[20, 4], [35, 8]], atol=1e-6)


def test_the_order_of_the_predictions_is_kept_even_where_they_are_wrong():
    predicted = np.linspace(-1, 1, 60)
    lines = least_absolute_lines(predicted, -predicted, TWO, np.ones(2))
    np.testing.assert_allclose(lines[:, 1], 0.1)


def test_pooling_adds_the_mean_of_the_other_exercises():
    predicted = np.array([1.0, 3.0, 5.0, 7.0, 2.0])
    exercise = np.array([0, 1, 2, 0, 0])
    pooled = pool_person(predicted, exercise, ["a", "a", "a", "b", "a"], weight=1.0)
    # The last one repeats exercise 0, so it is no other exercise of the first.
    np.testing.assert_allclose(pooled, [(1 + 4) / 2, (3 + 8 / 3) / 2, (5 + 2) / 2, 7, (2 + 4) / 2])


def test_pooling_is_chosen_where_people_differ_and_not_where_they_do_not():
    generator = np.random.default_rng(3)
    subjects = [f"s{k // 4}" for k in range(160)]
    exercise = np.arange(160) % 4
    person = np.repeat(generator.normal(size=40), 4)
    noise = generator.normal(size=160)
    assert choose_pooling(person + noise, person, exercise, subjects) >= 1.5
    assert choose_pooling(noise + 0.1 * person, noise, exercise, subjects) == 0
