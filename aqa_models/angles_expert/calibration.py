"""What is done with predictions of held-out subjects: weights of an average, the unit, pooling over a person.

All functions read standardised predictions (mean 0, deviation 1 of the training scores of the exercise) that
were made for subjects the models had not seen, so that nothing here flatters a model for learning by heart.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linprog

from aqa_models.metrics import spearman_rho

_STEPS = 10  # weights are multiples of a tenth
_KEPT = 0.3  # share of the best combinations that are averaged: the very best is best by luck
# Slopes of a calibration: the order of the predictions is kept, and few people cannot blow them up.
_FLATTEST, _STEEPEST = 0.1, 2.0


def merit(predicted: np.ndarray, target: np.ndarray, exercise: np.ndarray) -> float:
    """How good predictions are: mean over exercises of Spearman's correlation minus the mean absolute error.

    Both in units of about 1, so that neither order nor error is bought with the other. A correlation that is
    not defined counts as 0.

    Args:
        predicted, target: (N,) standardised.
        exercise: (N,) index.
    """
    found = []
    for index in np.unique(exercise):
        rows = exercise == index
        rho = spearman_rho(predicted[rows], target[rows])
        found.append((0.0 if np.isnan(rho) else rho) - np.abs(predicted[rows] - target[rows]).mean())
    return float(np.mean(found))


def choose_weights(members: np.ndarray, target: np.ndarray, exercise: np.ndarray) -> np.ndarray:
    """Shares of an average of models.

    Args:
        members: (M, N) predictions of the models.
        target, exercise: (N,).

    Returns:
        (M,), not negative, sum 1: the mean of the best three tenths of all shares in steps of a tenth.
    """
    cuts = itertools.combinations(range(_STEPS + len(members) - 1), len(members) - 1)
    shares = np.array([np.diff((-1, *cut, _STEPS + len(members) - 1)) - 1 for cut in cuts]) / _STEPS
    merits = np.array([merit(share @ members, target, exercise) for share in shares])
    best = np.argsort(-merits)[: max(1, round(_KEPT * len(shares)))]
    return shares[best].mean(axis=0)


def least_absolute_lines(
    predicted: np.ndarray, score: np.ndarray, exercise: np.ndarray, deviation: np.ndarray
) -> np.ndarray:
    """Lines from standardised predictions to points that minimise the sum of |error| / deviation.

    Every exercise has an intercept of its own; the slope, in deviations, is one for all, because a slope for
    each was worse on held-out subjects (docs/papers.md).

    Args:
        predicted: (N,) standardised.
        score: (N,) points.
        exercise: (N,) index, every index from 0 to the highest occurs.
        deviation: (E,) of the scores of each exercise, points.

    Returns:
        (E, 2) intercept and slope in points; slopes of 0.1 to 2 deviations. Exact, by
        linear programming.
    """
    items, kinds = len(predicted), len(deviation)
    weigh = 1 / deviation[exercise]
    rows = np.zeros((items, kinds + 1))
    rows[np.arange(items), exercise] = weigh
    rows[:, kinds] = predicted
    cost = np.concatenate([np.zeros(kinds + 1), np.ones(items)])
    above, below = np.hstack([rows, -np.eye(items)]), np.hstack([-rows, -np.eye(items)])
    bounds = [(None, None)] * kinds + [(_FLATTEST, _STEEPEST)] + [(0, None)] * items
    wanted = score * weigh
    found = linprog(cost, np.vstack([above, below]), np.concatenate([wanted, -wanted]), bounds=bounds)
    return np.stack([found.x[:kinds], found.x[kinds] * deviation], axis=1)


def pool_person(
    predicted: np.ndarray, exercise: np.ndarray, subjects: Sequence[str], weight: float
) -> np.ndarray:
    """Adds what a person's other exercises say: (own + weight * mean of the others) / (1 + weight).

    Recordings of the same exercise by the same person are not `others`: they would say nothing of the person
    that the exercise does not say already. A recording without others keeps its own prediction.

    Args:
        predicted: (N,) standardised.
        exercise: (N,) index.
        subjects: (N,) names.
        weight: of the others, not negative.

    Returns:
        (N,).
    """
    names = np.asarray(subjects)
    pooled = np.array(predicted, dtype=np.float64)
    for row in range(len(pooled)):
        others = (names == names[row]) & (exercise != exercise[row])
        if others.any():
            pooled[row] = (predicted[row] + weight * predicted[others].mean()) / (1 + weight)
    return pooled


def choose_pooling(
    predicted: np.ndarray, target: np.ndarray, exercise: np.ndarray, subjects: Sequence[str]
) -> float:
    """The weight of `pool_person`, 0 to 3, with the best rank correlation, mean over exercises."""

    def gain(weight: float) -> float:
        pooled = pool_person(predicted, exercise, subjects, weight)
        rhos = [spearman_rho(pooled[exercise == k], target[exercise == k]) for k in np.unique(exercise)]
        return float(np.nanmean(rhos)) if np.isfinite(rhos).any() else 0.0

    return max((0.0, 0.5, 1.0, 1.5, 2.0, 3.0), key=gain)
