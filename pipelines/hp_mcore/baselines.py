"""Predictors that see no video, and how far judges agree: the numbers that stand beside a model's.

Everything works on plain rows, dictionaries with the columns of the clips table, and gives one value per test
row, in their order. Nothing of a test row but its number, difficulty and length is read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from aqa_models.exemplars import rotation_group
from pipelines.datasets.dive_annotations import RATE_HZ
from pipelines.errors import DataError

Row = dict[str, Any]
STEPS = 96  # frames that a performance is resampled to


def score_baselines(train: Sequence[Row], test: Sequence[Row]) -> dict[str, np.ndarray]:
    """Scores of the test rows guessed from what was performed alone.

    Args:
        train: rows with action_type, difficulty and score; those without score are left out.
        test: rows with action_type and difficulty.

    Returns:
        (N,) points by name. A dive number without training dive counts as its rotation group, a difficulty or
        group without one as all training dives. nan where the difficulty is needed and not known.

    Raises:
        DataError: no training row has a score.
    """
    train = [row for row in train if row["score"] is not None]
    if not train:
        raise DataError("training split", "no clip has a score", "train on labelled clips")
    rated = [row for row in train if row["difficulty"]]
    difficulty = np.array([row["difficulty"] or np.nan for row in test], np.float64)
    groups = (_number, _rotation)
    completeness = _means(rated, test, groups, lambda row: row["score"] / row["difficulty"])
    overall = _means(rated, test, (), lambda row: row["score"] / row["difficulty"])
    return {
        "mean of the dive number": _means(train, test, groups, _score),
        "difficulty x completeness of the dive number": difficulty * completeness,
        "mean of the difficulty": _means(train, test, (lambda row: row["difficulty"],), _score),
        "difficulty x mean completeness": difficulty * overall,
        "mean of the rotation group": _means(train, test, (_rotation,), _score),
    }


def transition_baselines(
    train: Sequence[Row], test: Sequence[Row], steps: int = STEPS
) -> dict[str, np.ndarray]:
    """Start of flight and entry guessed as medians of the training dives.

    Args:
        train: rows with action_type, end_s, transitions_s and, if known, procedures.
        test: rows with action_type.
        steps: length of the common time axis.

    Returns:
        (N, 2) positions on an axis of `steps` frames, by name.

    Raises:
        DataError: no training row has transitions.
    """
    known = [(row["action_type"], found) for row in train if (found := flight(row, steps)) is not None]
    if not known:
        raise DataError("training split", "no clip has transitions", "import the steps of the dives")
    overall = np.median([found for _, found in known], axis=0)
    by_number: dict[str | None, list[tuple[int, int]]] = {}
    for number, found in known:
        by_number.setdefault(number, []).append(found)
    medians = {number: np.median(stages, axis=0) for number, stages in by_number.items()}
    return {
        "median of the dive number": np.array([medians.get(row["action_type"], overall) for row in test]),
        "median of all dives": np.tile(overall, (len(test), 1)),
    }


def flight(row: Row, steps: int = STEPS) -> tuple[int, int] | None:
    """First frame of flight and of entry when a dive is resampled to `steps` frames (specification 1.3).

    A dive of more steps is taken as three: take-off, flight, entry. The entry begins where the last of the
    sub-actions that had not been seen before begins.

    Args:
        row: transitions_s and end_s (and start_s) in seconds, procedures if known.

    Returns:
        Positions of [0, steps); None with fewer than two transitions or without the end of the clip.
    """
    times = row["transitions_s"] or []
    if len(times) < 2 or row["end_s"] is None:
        return None
    names = row.get("procedures") or [str(k) for k in range(len(times) + 1)]
    last = max(names.index(name) for name in names)
    start = row.get("start_s") or 0.0
    # Frame k of T is at position i of `steps` with floor(linspace(0, T - 1, steps))[i] = k, in whole frames.
    frames = max(1, round((row["end_s"] - start) * RATE_HZ))
    taken = np.floor(np.linspace(0, frames - 1, steps))
    firsts = [round((times[k] - start) * RATE_HZ) for k in (0, last - 1)]
    first, second = np.minimum(np.searchsorted(taken, firsts), steps - 1).tolist()
    return first, second


def judge_agreement(rows: Sequence[Row], part: int, panel: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """What part of a panel says of each dive, and what the rest of the same panel says: the human ceiling.

    The part is not compared with the published score, because it is in it. Panels of which only the scores
    that counted are known (3 or 5) agree too well and are left out.

    Args:
        rows: with judge_scores and difficulty.
        part: judges in the part: 1 = one against the others.
        panel: size of the panel.

    Returns:
        (K, N) points by the part and (K, N) by the rest, for each of the K ways to choose it; nan for dives
        without such a panel. Points: 3 x difficulty x mean of the scores that are left when equally many
        of the highest and lowest are struck, at most so many that three are left.

    Raises:
        ValueError: part is not between 1 and panel - 1.
    """
    if not 0 < part < panel:
        raise ValueError(f"part must be between 1 and {panel - 1}, got {part}")
    whole = [row["judge_scores"] is not None and len(row["judge_scores"]) == panel for row in rows]
    scores = np.full((len(rows), panel), np.nan)
    for k, row in enumerate(rows):
        if whole[k]:
            scores[k] = row["judge_scores"]
    difficulty = np.array([row["difficulty"] or np.nan for row in rows], np.float64)
    chosen = list(combinations(range(panel), part))
    rest = [[judge for judge in range(panel) if judge not in some] for some in chosen]
    return (
        np.stack([_points(scores[:, some], difficulty) for some in chosen]),
        np.stack([_points(scores[:, some], difficulty) for some in rest]),
    )


def _points(scores: np.ndarray, difficulty: np.ndarray) -> np.ndarray:
    """Points by the scores (N, n) of n judges; of seven, by the official rule."""
    struck = max(0, (scores.shape[1] - 3) // 2)
    kept = np.sort(scores, axis=1)[:, struck : scores.shape[1] - struck]
    return 3 * difficulty * kept.mean(axis=1)


def _score(row: Row) -> float:
    return row["score"]


def _number(row: Row) -> str | None:
    return row["action_type"]


def _rotation(row: Row) -> str | None:
    return rotation_group(row["action_type"] or "") or None


def _means(
    train: Sequence[Row],
    test: Sequence[Row],
    groups: Sequence[Callable[[Row], Hashable]],
    value: Callable[[Row], float],
) -> np.ndarray:
    """(N,) mean value of the training rows of the same group; the first grouping that has any counts."""
    predicted = np.full(len(test), np.mean([value(row) for row in train]) if train else np.nan)
    for group in reversed(groups):
        members: dict[Hashable, list[float]] = {}
        for row in train:
            members.setdefault(group(row), []).append(value(row))
        means = {key: np.mean(values) for key, values in members.items() if key is not None}
        predicted = np.array([means.get(group(row), p) for row, p in zip(test, predicted, strict=True)])
    return predicted
