"""One view of the recordings with its kernel regression: a member of the angles expert."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aqa_models.angles_expert.calibration import merit
from aqa_models.angles_expert.kernel import (
    Scaling,
    across_exercises,
    fit_scaling,
    fit_svr,
    mirror_kernel,
    squared_distances,
)
from aqa_models.angles_expert.mirror import mirror
from aqa_models.angles_expert.views import Movement, coordination, extremes, find_movement, posture

VIEWS = ("posture", "extremes", "coordination")
GAMMAS, SHARES = (0.1, 0.2, 0.4), (0.3, 0.6)
COSTS, TUBES = (2.0, 5.0, 10.0), (0.1, 0.3)
_KEPT = 0.25  # share of the best settings that are averaged: the very best is best by luck


@dataclass(frozen=True)
class KernelMember:
    """A fitted kernel regression.

    Attributes:
        view: posture, extremes or coordination.
        rate_hz: frames per second of the recordings.
        movements: of each exercise; empty unless the view is `extremes`.
        scaling: of the features.
        straight, crossed: (N, F) scaled features of the known recordings and of their mirror images.
        exercise: (N,) of the known recordings.
        shapes: (G, 2) widths and shares between exercises of the kernels that cross-validation kept.
        coefficients: (G, N) of each kernel, see `fit_svr`; they and the intercept are averaged over all kept.
        intercept: a number.
    """

    view: str
    rate_hz: float
    movements: tuple[Movement, ...]
    scaling: Scaling
    straight: np.ndarray
    crossed: np.ndarray
    exercise: np.ndarray
    shapes: np.ndarray
    coefficients: np.ndarray
    intercept: float

    def predict(self, recordings: Sequence[np.ndarray], exercise: np.ndarray) -> np.ndarray:
        """(N,) standardised scores of (T_b, 49) recordings."""
        features = (
            look(self.view, recordings, exercise, self.rate_hz, self.movements, side)
            for side in (False, True)
        )
        straight, crossed = (self.scaling(part, exercise) for part in features)
        return self.predict_features(straight, crossed, exercise)

    def predict_features(self, straight: np.ndarray, crossed: np.ndarray, exercise: np.ndarray) -> np.ndarray:
        """(N,) standardised scores of scaled features (N, F) and those of the mirror images."""
        distances = (
            squared_distances(straight, self.straight),
            squared_distances(straight, self.crossed),
            _own(straight, crossed),
            _own(self.straight, self.crossed),
        )
        answer = np.full(len(exercise), self.intercept)
        for (gamma, share), coefficients in zip(self.shapes, self.coefficients, strict=True):
            kernel = mirror_kernel(*distances, gamma)
            answer += across_exercises(kernel, exercise, self.exercise, share) @ coefficients
        return answer


def look(
    view: str,
    recordings: Sequence[np.ndarray],
    exercise: np.ndarray,
    rate_hz: float,
    movements: Sequence[Movement],
    mirrored: bool,
) -> np.ndarray:
    """(N, F) features of a view, of the recordings or of their mirror images."""
    found = []
    for recording, index in zip(recordings, exercise, strict=True):
        channels = mirror(recording) if mirrored else recording
        if view == "posture":
            found.append(posture(channels, rate_hz))
        elif view == "extremes":
            found.append(extremes(channels, movements[index]))
        else:
            found.append(coordination(channels))
    return np.stack(found)


def fit_kernel(
    view: str,
    recordings: Sequence[np.ndarray],
    exercise: np.ndarray,
    target: np.ndarray,
    folds: np.ndarray,
    rate_hz: float,
) -> tuple[KernelMember, np.ndarray]:
    """Chooses the settings by cross-validation and fits them to all recordings.

    Args:
        view: one of `VIEWS`.
        recordings: (T_b, 49) each.
        exercise: (N,) index, every index from 0 to the highest occurs.
        target: (N,) standardised scores.
        folds: (N,) fold in which each recording is held out; one fold per subject.
        rate_hz: frames per second.

    Returns:
        The member, and its predictions (N,) for held-out recordings.
    """
    movements: tuple[Movement, ...] = ()
    if view == "extremes":
        of = [
            [r for r, e in zip(recordings, exercise, strict=True) if e == k]
            for k in range(exercise.max() + 1)
        ]
        movements = tuple(find_movement(part) for part in of)
    plain, other = (look(view, recordings, exercise, rate_hz, movements, side) for side in (False, True))
    scaling = fit_scaling(plain, other, exercise)
    # Rounded as the bundle holds them, so that a loaded member answers what this one answers.
    straight, crossed = (scaling(part, exercise).astype(np.float32) for part in (plain, other))
    own = _own(straight, crossed)
    distances = squared_distances(straight, straight), squared_distances(straight, crossed), own, own
    shapes, pairs = list(itertools.product(GAMMAS, SHARES)), np.array(list(itertools.product(COSTS, TUBES)))
    kernels = [
        across_exercises(mirror_kernel(*distances, gamma), exercise, exercise, share)
        for gamma, share in shapes
    ]
    answers = np.stack([_held_out(kernel, target, folds, pairs) for kernel in kernels])
    merits = np.array([[merit(one, target, exercise) for one in part.T] for part in answers])
    kept = merits >= np.sort(merits.ravel())[-round(_KEPT * merits.size)]
    used, coefficients, intercept = [], [], 0.0
    for kernel, shape, columns in zip(kernels, shapes, kept, strict=True):
        if columns.any():
            found, intercepts = fit_svr(kernel, target, *pairs[columns].T)
            used.append(shape)
            coefficients.append(found.sum(axis=1) / kept.sum())
            intercept += float(intercepts.sum()) / kept.sum()
    known = straight, crossed, exercise
    member = KernelMember(
        view, rate_hz, movements, scaling, *known, np.array(used), np.stack(coefficients), intercept
    )
    return member, np.mean([answers[group][:, column] for group, column in np.argwhere(kept)], axis=0)


def _held_out(kernel: np.ndarray, target: np.ndarray, folds: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(N, S) predictions of each recording by regressions on the other folds."""
    answers = np.zeros((len(target), len(pairs)))
    for fold in np.unique(folds):
        out, rest = folds == fold, folds != fold
        coefficients, intercepts = fit_svr(kernel[np.ix_(rest, rest)], target[rest], *pairs.T)
        answers[out] = kernel[np.ix_(out, rest)] @ coefficients + intercepts
    return answers


def _own(straight: np.ndarray, crossed: np.ndarray) -> np.ndarray:
    return np.square(straight - crossed).mean(axis=1)
