from __future__ import annotations

import numpy as np
import pytest
from sklearn.svm import SVR

from aqa_models.angles_expert.kernel import (
    across_exercises,
    fit_scaling,
    fit_svr,
    mirror_kernel,
    squared_distances,
)

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((120, 8))
Y = X[:, 0] + 0.5 * np.sin(3 * X[:, 1]) + 0.3 * GENERATOR.standard_normal(120)


def test_regression_is_scikit_learns():
    kernel = np.exp(-0.5 * squared_distances(X, X))
    cost, tube = np.array([0.5, 2.0, 10.0]), np.array([0.1, 0.3, 0.05])
    coefficients, intercepts = fit_svr(kernel, Y, cost, tube)
    assert np.abs(coefficients.sum(axis=0)).max() < 1e-2
    assert (np.abs(coefficients) <= cost).all()
    for column in range(3):
        reference = SVR(kernel="precomputed", C=cost[column], epsilon=tube[column], tol=1e-6).fit(kernel, Y)
        ours = kernel @ coefficients[:, column] + intercepts[column]
        np.testing.assert_allclose(ours, reference.predict(kernel), atol=1e-3)


def test_regression_of_an_impossible_kernel_is_refused():
    with pytest.raises(ValueError, match="did not converge"):
        fit_svr(-0.9 * np.eye(3), np.array([1.0, -2.0, 1.0]), np.ones(1), np.zeros(1))
    with pytest.raises(ValueError, match="infs or NaNs"):
        fit_svr(np.full((3, 3), np.nan), np.zeros(3), np.ones(1), np.zeros(1))


def test_the_kernel_does_not_see_which_side_is_which():
    mirrored = X[:, ::-1]
    own = np.square(X - mirrored).mean(axis=1)
    kernel = mirror_kernel(squared_distances(X, X), squared_distances(X, mirrored), own, own, 0.3)
    swapped = mirror_kernel(
        squared_distances(mirrored, X), squared_distances(mirrored, mirrored), own, own, 0.3
    )
    np.testing.assert_allclose(swapped, kernel, atol=1e-12)
    np.testing.assert_allclose(np.diag(kernel), 1)
    assert np.linalg.eigvalsh(kernel).min() > -1e-9
    both = across_exercises(kernel, np.arange(120) % 2, np.arange(120) % 2, 0.4)
    assert both[0, 1] == pytest.approx(0.4 * kernel[0, 1])
    assert both[0, 2] == kernel[0, 2]


def test_scaling_is_by_exercise_and_gaps_are_as_usual():
    exercise = np.arange(400) % 2
    features = np.random.default_rng(1).normal(size=(400, 3)) * (1 + 9 * exercise)[:, None] + 5
    features[0, 0] = np.nan
    scaling = fit_scaling(features, features, exercise)
    scaled = scaling(features, exercise)
    for kind in (0, 1):
        inner = scaled[exercise == kind]
        np.testing.assert_allclose(np.median(inner, axis=0), 0, atol=0.05)
        np.testing.assert_allclose(inner.std(axis=0), 1, atol=0.15)
    assert scaled[0, 0] == 0
    assert np.abs(scaled).max() <= 3
