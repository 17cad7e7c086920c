from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_1samp

from aqa_models.metrics import (
    average_iou,
    bootstrap_difference,
    bootstrap_interval,
    mae,
    procedure_iou,
    relative_l2,
    resampled_interval,
    resampled_t_test,
    rmse,
    spearman_rho,
    temporal_iou,
)


@pytest.mark.parametrize("seed", range(20))
def test_spearman_equals_scipy_with_and_without_ties(seed):
    generator = np.random.default_rng(seed)
    size = int(generator.integers(2, 40))
    a = generator.normal(size=size) if seed % 2 else generator.integers(0, 5, size).astype(float)
    b = a + generator.normal(size=size).round(seed % 3)
    if np.ptp(a) and np.ptp(b):
        assert spearman_rho(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_spearman_by_hand():
    assert spearman_rho(np.array([1.0, 2, 3]), np.array([10.0, 20, 30])) == 1
    assert spearman_rho(np.array([1.0, 2, 3]), np.array([1.0, 3, 2])) == pytest.approx(0.5)
    assert spearman_rho(np.array([3.0, 2, 1]), np.array([10.0, 20, 30])) == -1


def test_spearman_of_a_constant_is_undefined_not_zero():
    assert math.isnan(spearman_rho(np.ones(4), np.arange(4.0)))
    assert math.isnan(spearman_rho(np.arange(4.0), np.ones(4)))
    assert math.isnan(spearman_rho(np.ones(1), np.ones(1)))


def test_errors_by_hand():
    predicted, true = np.array([1.0, 2, 6]), np.array([1.0, 4, 5])
    assert mae(predicted, true) == 1
    assert rmse(predicted, true) == pytest.approx(math.sqrt(5 / 3))
    assert relative_l2(predicted, true, (0, 10)) == pytest.approx((0.04 + 0.01) / 3)


def test_relative_l2_needs_a_rising_range():
    with pytest.raises(ValueError, match=r"score_range must rise, got \(5, 5\)"):
        relative_l2(np.ones(2), np.ones(2), (5, 5))


def test_bootstrap_draws_whole_clusters():
    true = np.zeros(6)
    predicted = np.array([0.0, 0, 0, 3, 3, 3])  # two subjects: error 0 and error 3
    low, high = bootstrap_interval(mae, predicted, true, np.array(list("aaabbb")), resamples=2000)
    assert (low, high) == (0, 3)  # only 0, 1.5 and 3 can be drawn; each extreme has a share of 1/4
    single = bootstrap_interval(mae, predicted, true, np.arange(6), resamples=2000)
    assert 0 < single[0] < 1.5 < single[1] < 3


def test_bootstrap_covers_the_textbook_interval():
    generator = np.random.default_rng(1)
    errors = generator.normal(size=400)
    low, high = bootstrap_interval(
        lambda p, t: float((p - t).mean()), errors, np.zeros(400), np.arange(400), resamples=4000
    )
    half = 1.96 * errors.std() / 20
    assert low == pytest.approx(errors.mean() - half, abs=0.012)
    assert high == pytest.approx(errors.mean() + half, abs=0.012)


def test_bootstrap_is_seeded_and_needs_two_clusters():
    a, b = np.arange(5.0), np.array([1.0, 0, 2, 4, 3])
    first = bootstrap_interval(spearman_rho, a, b, np.arange(5), seed=3)
    assert first == bootstrap_interval(spearman_rho, a, b, np.arange(5), seed=3)
    assert all(math.isnan(x) for x in bootstrap_interval(mae, a, b, np.zeros(5)))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="two non-empty vectors"):
        mae(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="scores must be finite"):
        rmse(np.array([np.nan]), np.ones(1))
    with pytest.raises(ValueError, match="2 items but 3 cluster names"):
        bootstrap_interval(mae, np.ones(2), np.ones(2), np.arange(3))


def test_paired_difference_is_narrower_than_either_interval():
    generator = np.random.default_rng(0)
    true = generator.normal(size=200) * 10
    shared = generator.normal(size=200) * 5  # both models err on the same items
    a, b = true + shared, true + shared + np.sign(shared)
    low, high = bootstrap_difference(mae, a, b, true, np.arange(200))
    assert (low, high) == pytest.approx((-1, -1))
    single = bootstrap_interval(mae, a, true, np.arange(200))
    assert single[1] - single[0] > 0.5
    assert bootstrap_difference(spearman_rho, a, a, true, np.arange(200)) == (0, 0)
    with pytest.raises(ValueError, match="200 items but 3 cluster names"):
        bootstrap_difference(mae, a, b, true, np.arange(3))


def test_temporal_iou_by_hand():
    predicted = np.array([[0, 10], [0, 10], [0, 10], [20, 30], [5, 5]])
    true = np.array([[0, 10], [5, 15], [2, 4], [0, 10], [5, 5]])
    assert temporal_iou(predicted, true).tolist() == pytest.approx([1, 1 / 3, 0.2, 0, 0])


def test_procedure_iou_of_the_flight_and_of_all_procedures():
    predicted, true = np.array([[30, 60], [20, 40]]), np.array([[30, 70], [20, 40]])
    assert procedure_iou(predicted, true).tolist() == [0.75, 1]
    everything = procedure_iou(predicted, true, frames=100)
    assert everything.tolist() == pytest.approx([(1 + 0.75 + 30 / 40) / 3, 1])


def test_procedure_iou_skips_slots_not_used():
    predicted, true = np.array([[30, -1, 60], [-1, -1, 50]]), np.array([[30, -1, 70], [-1, -1, 40]])
    assert procedure_iou(predicted, true, frames=100).tolist() == pytest.approx(
        [(1 + 0.75 + 0.75) / 3, (40 / 50 + 50 / 60) / 2]
    )
    assert procedure_iou(predicted[:1], true[:1]).tolist() == [0.75]
    with pytest.raises(ValueError, match="needs two transitions; give `frames`"):
        procedure_iou(predicted, true)
    with pytest.raises(ValueError, match="must use the same slots"):
        procedure_iou(np.array([[30, 40, 60]]), true[:1])


def test_average_iou_in_both_published_variants():
    ious = np.array([[0.4, 0.8], [0.5, 0.5], [0.1, 0.6]])
    assert average_iou(ious, 0.5) == pytest.approx(4 / 6)  # every pair of query and voter
    assert average_iou(ious, 0.5, voters_first=True) == pytest.approx(2 / 3)  # means 0.6, 0.5, 0.35
    assert average_iou(ious, 0.75) == pytest.approx(1 / 6)
    assert average_iou(ious, 0.75, voters_first=True) == 0
    assert average_iou(ious[:, 0], 0.5) == average_iou(ious[:, 0], 0.5, voters_first=True)
    with pytest.raises(ValueError, match="at least one IoU"):
        average_iou(np.array([]), 0.5)


def test_resampled_t_test_by_hand():
    differences = np.array([0.1, 0.2, 0.3, 0.4])
    # Mean .25, variance 1/60, corrected error sqrt(1/60 (1/4 + 1/4)).
    statistic, p = resampled_t_test(differences, train=40, test=10)
    assert statistic == pytest.approx(0.25 / math.sqrt(1 / 120))
    # Two-sided tail of Student's t with 3 degrees of freedom, in closed form.
    angle = math.atan(statistic / math.sqrt(3))
    assert p == pytest.approx(1 - 2 / math.pi * (angle + math.sin(angle) * math.cos(angle)))


def test_resampled_t_test_is_the_ordinary_one_when_nothing_is_shared():
    differences = np.random.default_rng(0).normal(0.3, 1, 12)
    ordinary = ttest_1samp(differences, 0)
    statistic, p = resampled_t_test(differences, train=1e12, test=1)
    assert (statistic, p) == pytest.approx((ordinary.statistic, ordinary.pvalue))
    low, high = resampled_interval(differences, train=1e12, test=1)
    assert (low, high) == pytest.approx(tuple(ordinary.confidence_interval(0.95)))
    wide = resampled_interval(differences, train=54, test=23)
    assert wide[0] < low < high < wide[1]


def test_resampled_t_test_of_equal_differences_and_of_too_few():
    assert all(math.isnan(value) for value in resampled_t_test(np.zeros(5), 54, 23))
    with pytest.raises(ValueError, match="at least 2 splits"):
        resampled_t_test(np.array([0.1]), 54, 23)
    with pytest.raises(ValueError, match="train and test must be positive"):
        resampled_interval(np.array([0.1, 0.2]), 0, 23)
