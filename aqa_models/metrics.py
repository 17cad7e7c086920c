"""How far predicted scores are from the judges': rank correlation, errors, bootstrap intervals.

NumPy in, Python floats out. A metric that is not defined for its input (a rank correlation of a
constant) is nan, never 0: zero would claim that order was tested and found random.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata


def spearman_rho(predicted: np.ndarray, true: np.ndarray) -> float:
    """Spearman's rank correlation in [-1, 1]; ties get their mean rank.

    Args:
        predicted: (N,) scores of the model.
        true: (N,) scores of the judges.

    Returns:
        Pearson's correlation of the ranks; nan if fewer than 2 items or if either side is constant.
    """
    predicted, true = _pair(predicted, true)
    if len(true) < 2 or np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return float("nan")
    a, b = rankdata(predicted), rankdata(true)
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip((a @ b) / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def mae(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean absolute error, in score points."""
    predicted, true = _pair(predicted, true)
    return float(np.abs(predicted - true).mean())


def rmse(predicted: np.ndarray, true: np.ndarray) -> float:
    """Root of the mean squared error, in score points."""
    predicted, true = _pair(predicted, true)
    return float(np.sqrt(np.square(predicted - true).mean()))


def relative_l2(predicted: np.ndarray, true: np.ndarray, score_range: tuple[float, float]) -> float:
    """R-l2 of CoRe (Yu et al., ICCV 2021): mean of (|error| / (highest - lowest score))^2.

    The papers print it times 100. The range belongs to the data set, not to the test items at hand, so
    it is passed in.
    """
    low, high = score_range
    if not high > low:
        raise ValueError(f"score_range must rise, got {score_range}")
    predicted, true = _pair(predicted, true)
    return float(np.square((predicted - true) / (high - low)).mean())


def bootstrap_interval(
    metric: Callable[[np.ndarray, np.ndarray], float],
    predicted: np.ndarray,
    true: np.ndarray,
    clusters: np.ndarray,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a metric when whole clusters (subjects) are drawn with replacement.

    Clips of one person are alike, so drawing single clips would give intervals that are too narrow.

    Args:
        metric: takes (predicted, true), returns a float.
        predicted: (N,) scores of the model.
        true: (N,) scores of the judges.
        clusters: (N,) name of the subject of each item.
        resamples: number of bootstrap draws.
        level: share of the draws inside the interval.
        seed: of the draws.

    Returns:
        (low, high). Draws for which the metric is undefined are left out; (nan, nan) with fewer than 2
        clusters or if all draws are undefined.
    """
    predicted, true = _pair(predicted, true)
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    if len(member) != len(true):
        raise ValueError(f"{len(true)} items but {len(member)} cluster names")
    if len(names) < 2:
        return float("nan"), float("nan")
    rows = [np.flatnonzero(member == k) for k in range(len(names))]
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = np.concatenate([rows[k] for k in generator.integers(len(names), size=len(names))])
        values.append(metric(predicted[drawn], true[drawn]))
    defined = np.asarray(values)[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def _pair(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted, true = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if predicted.ndim != 1 or predicted.shape != true.shape or not len(true):
        raise ValueError(
            f"need two non-empty vectors of one length, got shapes {predicted.shape}, {true.shape}"
        )
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
        raise ValueError("scores must be finite")
    return predicted, true
