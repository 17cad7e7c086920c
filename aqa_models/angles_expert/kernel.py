"""Support vector regression with a kernel that knows mirror images and several exercises.

Two recordings are alike if their features are, or if those of one are like those of the other's mirror image;
recordings of two exercises are less alike by a factor. Features of each exercise are standardised alone, so
that "knees bend more than usual" means the same in both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import inv

_CLIP = 3.0  # deviations: a single wild feature must not decide what is alike
_NORMAL = 1.349  # quartile range of a normal distribution of deviation 1
_STEP, _RELAXED = 0.2, 1.7  # of the solver; others take more rounds on kernels with a diagonal of 1
_ROUNDS, _TOLERANCE = 4000, 1e-4  # of coefficients between 0 and the cost


@dataclass(frozen=True)
class Scaling:
    """Median and spread of every feature in every exercise: (E, F) each."""

    centre: np.ndarray
    spread: np.ndarray

    def __call__(self, features: np.ndarray, exercise: np.ndarray) -> np.ndarray:
        """(N, F) features, (N,) exercises -> (N, F) within [-3, 3]; 0 = as usual, and where NaN."""
        scaled = (features - self.centre[exercise]) / self.spread[exercise]
        return np.clip(np.nan_to_num(scaled), -_CLIP, _CLIP)


def fit_scaling(features: np.ndarray, mirrored: np.ndarray, exercise: np.ndarray) -> Scaling:
    """Median and quartile range by exercise, over recordings and their mirror images.

    Args:
        features, mirrored: (N, F), NaN = not available.
        exercise: (N,) index, every index from 0 to the highest occurs.
    """
    centres, spreads = [], []
    for index in range(int(exercise.max()) + 1):
        both = np.concatenate([features[exercise == index], mirrored[exercise == index]])
        low, centre, high = np.nan_to_num(np.nanquantile(both, (0.25, 0.5, 0.75), axis=0))
        centres.append(centre)
        spreads.append(np.maximum((high - low) / _NORMAL, 1e-6))
    return Scaling(np.stack(centres), np.stack(spreads))


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, F), (M, F) -> (N, M): mean squared difference of the features."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.maximum(squares, 0) / a.shape[1]


def mirror_kernel(
    straight: np.ndarray, crossed: np.ndarray, own: np.ndarray, known: np.ndarray, gamma: float
):
    """Likeness of recordings, the same for mirror images, 1 with itself.

    Args:
        straight: (N, M) squared distances of recordings to known ones.
        crossed: (N, M) squared distances to the mirror images of the known ones.
        own: (N,) squared distance of each recording to its own mirror image; known: (M,) likewise.
        gamma: 1 / gamma is the squared distance at which likeness has fallen to 1 / e.

    Returns:
        (N, M) in (0, 1]: exp(-gamma d) summed over both images, scaled to a diagonal of 1.
    """
    both = np.exp(-gamma * straight) + np.exp(-gamma * crossed)
    return both / np.sqrt(np.outer(1 + np.exp(-gamma * own), 1 + np.exp(-gamma * known)))


def across_exercises(kernel: np.ndarray, a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """(N, M) kernel times 1 within an exercise and `share`, 0 to 1, between two."""
    return kernel * np.where(a[:, None] == b, 1.0, share)


def fit_svr(
    kernel: np.ndarray, target: np.ndarray, cost: np.ndarray, tube: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Epsilon support vector regression (Drucker et al. 1997), several settings at once.

    Minimises b'Kb / 2 - y'b + tube |b|_1 with |b_i| <= cost and sum b = 0, by the alternating direction
    method of multipliers: one inversion, then products with a matrix.

    Args:
        kernel: (N, N) positive semidefinite.
        target: (N,).
        cost: (S,) bound of the coefficients, C of the usual form.
        tube: (S,) error that costs nothing, epsilon of the usual form.

    Returns:
        coefficients (N, S) and intercepts (S,): predictions are k @ coefficients + intercepts.

    Raises:
        ValueError: it does not converge, because the kernel is not positive semidefinite or not finite.
    """
    inverse = inv(kernel + _STEP * np.eye(len(kernel)))
    sums = inverse.sum(axis=0)
    settled = np.zeros((len(kernel), len(cost)))
    dual = np.zeros_like(settled)
    for _ in range(_ROUNDS):
        pull = inverse @ (target[:, None] + _STEP * (settled - dual))
        intercept = pull.sum(axis=0) / sums.sum()
        free = pull - sums[:, None] * intercept
        before, wanted = settled, _RELAXED * free + (1 - _RELAXED) * settled + dual
        settled = np.sign(wanted) * np.maximum(np.abs(wanted) - tube / _STEP, 0)
        settled = np.clip(settled, -cost, cost)
        dual = wanted - settled
        if max(np.abs(free - settled).max(), np.abs(settled - before).max()) < _TOLERANCE:
            return settled, intercept
    raise ValueError(f"support vector regression of {len(kernel)} items did not converge")
