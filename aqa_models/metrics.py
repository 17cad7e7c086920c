"""How far predicted scores are from the judges': rank correlation, errors, bootstrap intervals.

Also how far predicted transitions are from annotated ones.

NumPy in, Python floats out. A metric that is not defined for its input (a rank correlation of a
constant) is nan, never 0: zero would claim that order was tested and found random.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student_t


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


def micro_f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """Micro-averaged F1 of one label per item, which is the share of right ones.

    Args:
        predicted: (N,) class of the model.
        true: (N,) class of the judges.
    """
    predicted, true = _pair(predicted, true)
    return float((predicted == true).mean())


def macro_f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean over the classes of F1 = 2 hits / (times predicted + times true).

    Classes that neither side names do not count; one that only one side names counts as 0.

    Args:
        predicted: (N,) class of the model.
        true: (N,) class of the judges.
    """
    predicted, true = _pair(predicted, true)
    scores = []
    for name in np.union1d(predicted, true):
        hits = ((predicted == name) & (true == name)).sum()
        scores.append(2 * hits / ((predicted == name).sum() + (true == name).sum()))
    return float(np.mean(scores))


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
    return _percentiles(
        lambda rows: metric(predicted[rows], true[rows]), clusters, len(true), resamples, level, seed
    )


def bootstrap_difference(
    metric: Callable[[np.ndarray, np.ndarray], float],
    predicted: np.ndarray,
    rival: np.ndarray,
    true: np.ndarray,
    clusters: np.ndarray,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of metric(predicted) - metric(rival) when both are judged on the same draws.

    Two models err on the same items, so their difference is known better than either value alone: compare
    models by this interval, not by whether two intervals overlap.

    Args:
        metric: takes (predicted, true), returns a float.
        predicted: (N,) scores of the model.
        rival: (N,) scores of the other model for the same items.
        true: (N,) scores of the judges.
        clusters: as for `bootstrap_interval`, and likewise the rest.
    """
    predicted, true = _pair(predicted, true)
    rival, _ = _pair(rival, true)

    def gain(rows: np.ndarray) -> float:
        return metric(predicted[rows], true[rows]) - metric(rival[rows], true[rows])

    return _percentiles(gain, clusters, len(true), resamples, level, seed)


def _percentiles(
    value: Callable[[np.ndarray], float],
    clusters: np.ndarray,
    items: int,
    resamples: int,
    level: float,
    seed: int,
) -> tuple[float, float]:
    """Percentile interval of value(rows) over draws of whole clusters."""
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    if len(member) != items:
        raise ValueError(f"{items} items but {len(member)} cluster names")
    if len(names) < 2:
        return float("nan"), float("nan")
    rows = [np.flatnonzero(member == k) for k in range(len(names))]
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = np.concatenate([rows[k] for k in generator.integers(len(names), size=len(names))])
        values.append(value(drawn))
    defined = np.asarray(values)[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def resampled_t_test(differences: np.ndarray, train: float, test: float) -> tuple[float, float]:
    """Corrected resampled t-test (Nadeau & Bengio 2003) of a difference over random splits.

    Splits of the same items share most of their training items, so their differences are not independent, and
    an ordinary paired t-test finds significance too often. The variance of the mean is taken as
    (1 / n + test / train) times that of one difference instead of 1 / n times.

    Args:
        differences: (n,) metric of one model minus that of the other, one per split.
        train: items (subjects) trained on in a split, mean over the splits.
        test: items tested on.

    Returns:
        (t, p): statistic with n - 1 degrees of freedom, two-sided p value; nan if all differences are equal.

    Raises:
        ValueError: fewer than 2 splits, or sizes that are not positive.
    """
    mean, error = _resampled_mean(differences, train, test)
    if not error > 0:
        return float("nan"), float("nan")
    statistic = mean / error
    return statistic, float(2 * student_t.sf(abs(statistic), len(differences) - 1))


def resampled_interval(
    values: np.ndarray, train: float, test: float, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean of a metric over random splits, widened as in `resampled_t_test`.

    Arguments and errors: see there; values: (n,) of a metric or of a difference.
    """
    mean, error = _resampled_mean(values, train, test)
    half = error * float(student_t.ppf((1 + level) / 2, len(values) - 1))
    return mean - half, mean + half


def _resampled_mean(values: np.ndarray, train: float, test: float) -> tuple[float, float]:
    """Mean over splits, and its standard error."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"need the values of at least 2 splits, got shape {values.shape}")
    if not (train > 0 and test > 0):
        raise ValueError(f"train and test must be positive, got {train} and {test}")
    variance = values.var(ddof=1) * (1 / len(values) + test / train)
    return float(values.mean()), float(np.sqrt(variance))


def temporal_iou(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Intersection over union of intervals of time.

    Args:
        predicted: (..., 2) first frame and first frame after the interval.
        true: (..., 2) likewise.

    Returns:
        (...) in [0, 1]; 0 where both are empty.
    """
    predicted, true = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    shared = np.minimum(predicted[..., 1], true[..., 1]) - np.maximum(predicted[..., 0], true[..., 0])
    shared = np.maximum(shared, 0)
    union = np.ptp(predicted, axis=-1) + np.ptp(true, axis=-1) - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def procedure_iou(predicted: np.ndarray, true: np.ndarray, frames: int | None = None) -> np.ndarray:
    """Temporal IoU of the procedures of performances.

    Args:
        predicted: (..., P - 1) transitions: first frames of the procedures in slots 1 to P - 1; -1 = slot
            not used.
        true: (..., P - 1) likewise, with the same slots used.
        frames: T, to count all procedures; None = as published, the single interval between the first
            and the last transition used (the flight of a dive).

    Returns:
        (...) IoU of the interval, or the mean over the procedures used.

    Raises:
        ValueError: the two do not use the same slots; fewer than two transitions without `frames`.
    """
    predicted, true = np.broadcast_arrays(np.asarray(predicted), np.asarray(true))
    used = true >= 0
    if ((predicted >= 0) != used).any():
        raise ValueError("predicted and true transitions must use the same slots")
    if frames is None:
        if (used.sum(axis=-1) < 2).any():
            raise ValueError("the published IoU needs two transitions; give `frames` to count all procedures")
        return temporal_iou(_flight(predicted, used), _flight(true, used))
    ious = temporal_iou(_intervals(predicted, used, frames), _intervals(true, used, frames))
    counted = np.concatenate([np.ones_like(used[..., :1]), used], axis=-1)
    return (ious * counted).sum(axis=-1) / counted.sum(axis=-1)


def average_iou(ious: np.ndarray, threshold: float, voters_first: bool = False) -> float:
    """AIoU@threshold: the share of temporal IoUs that reach the threshold (an accuracy, no mean IoU).

    Args:
        ious: (N,) per query, or (N, V) per query and voter (exemplar).
        threshold: 0.5 or 0.75 in the papers.
        voters_first: False = every pair of query and voter counts (HP-MCoRe); True = the mean over the voters
            of a query is compared with the threshold (MCoRe).
    """
    ious = np.asarray(ious, dtype=np.float64)
    if not ious.size or not np.isfinite(ious).all():
        raise ValueError("need at least one IoU, all of them finite")
    if voters_first and ious.ndim == 2:
        ious = ious.mean(axis=1)
    return float((ious >= threshold).mean())


def _flight(transitions: np.ndarray, used: np.ndarray) -> np.ndarray:
    """(..., 2): first and last transition used."""
    first = np.take_along_axis(transitions, used.argmax(axis=-1)[..., None], axis=-1)
    return np.concatenate([first, transitions.max(axis=-1, keepdims=True)], axis=-1)


def _intervals(transitions: np.ndarray, used: np.ndarray, frames: int) -> np.ndarray:
    """(..., P, 2): first frame and first frame after each procedure; anything in slots not used."""
    starts = np.concatenate([np.zeros_like(transitions[..., :1]), transitions], axis=-1)
    counted = np.concatenate([np.ones_like(used[..., :1]), used], axis=-1)
    # The next start of a slot in use, seen from behind.
    after = np.minimum.accumulate(np.where(counted, starts, frames)[..., ::-1], axis=-1)[..., ::-1]
    ends = np.concatenate([after[..., 1:], np.full_like(after[..., :1], frames)], axis=-1)
    return np.stack([starts, ends], axis=-1)


def _pair(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted, true = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if predicted.ndim != 1 or predicted.shape != true.shape or not len(true):
        raise ValueError(
            f"need two non-empty vectors of one length, got shapes {predicted.shape}, {true.shape}"
        )
    if not (np.isfinite(predicted).all() and np.isfinite(true).all()):
        raise ValueError("scores must be finite")
    return predicted, true
