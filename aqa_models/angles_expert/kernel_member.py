"""A kernel regression on one view of the recordings: a member of the angles expert."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from aqa_models.angles_expert.calibration import merit
from aqa_models.angles_expert.kernel import across_exercises, fit_svr, mirror_kernel, squared_distances

GAMMAS, SHARES = (0.1, 0.2, 0.4), (0.3, 0.6)
COSTS, TUBES = (2.0, 5.0, 10.0), (0.1, 0.3)
_KEPT = 0.25  # share of the best settings that are averaged: the very best is best by luck


@dataclass(frozen=True)
class KernelMember:
    """A fitted kernel regression.

    Attributes:
        straight, crossed: (N, F) scaled features of the known recordings and of their mirror images.
        exercise: (N,) of the known recordings.
        shapes: (G, 2) widths and shares between exercises of the kernels that cross-validation kept.
        coefficients: (G, N) of each kernel, see `fit_svr`; they and the intercept are averaged over all kept.
        intercept: a number.
    """

    straight: np.ndarray
    crossed: np.ndarray
    exercise: np.ndarray
    shapes: np.ndarray
    coefficients: np.ndarray
    intercept: float

    def predict(self, straight: np.ndarray, crossed: np.ndarray, exercise: np.ndarray) -> np.ndarray:
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


def fit_kernel(
    straight: np.ndarray, crossed: np.ndarray, exercise: np.ndarray, target: np.ndarray, folds: np.ndarray
) -> tuple[KernelMember, np.ndarray]:
    """Chooses settings by cross-validation and fits the best ones to all recordings.

    Args:
        straight, crossed: (N, F) of a `ScaledView`.
        exercise: (N,) index.
        target: (N,) standardised scores.
        folds: (N,) fold in which each recording is held out; one fold per subject.

    Returns:
        The member, and its predictions (N,) for held-out recordings.
    """
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
    member = KernelMember(straight, crossed, exercise, np.array(used), np.stack(coefficients), intercept)
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
