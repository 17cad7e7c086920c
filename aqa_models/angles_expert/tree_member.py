"""Extremely randomised trees for each exercise: a member of the angles expert."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aqa_models.angles_expert.trees import Trees, fit_trees

TREES, LEAF = 100, 4  # each recording counts twice, with its mirror image
_TRIED = 1 / 3  # share of the features


@dataclass(frozen=True)
class TreeMember:
    """Trees of each exercise, on several views side by side."""

    forests: tuple[Trees, ...]

    def predict(self, straight: np.ndarray, crossed: np.ndarray, exercise: np.ndarray) -> np.ndarray:
        """(N,) standardised scores of scaled features (N, F) and those of the mirror images."""
        answer = np.zeros(len(exercise))
        for kind in np.unique(exercise):
            rows = exercise == kind
            forest = self.forests[kind]
            answer[rows] = (forest.predict(straight[rows]) + forest.predict(crossed[rows])) / 2
        return answer


def fit_tree_member(
    straight: np.ndarray,
    crossed: np.ndarray,
    exercise: np.ndarray,
    target: np.ndarray,
    folds: np.ndarray,
    seed: int,
) -> tuple[TreeMember, np.ndarray]:
    """Grows trees; nothing is chosen.

    Arguments and result: see `kernel_member.fit_kernel`; seed: of the draws. An exercise of which a fold
    holds all recordings is predicted at its mean there.
    """
    kinds = range(int(exercise.max()) + 1)
    held_out = np.zeros(len(target))
    for fold in np.unique(folds):
        out, rest = folds == fold, folds != fold
        for kind in np.unique(exercise[out]):
            known, asked = rest & (exercise == kind), out & (exercise == kind)
            if known.any():
                forest = _grow(straight[known], crossed[known], target[known], (seed, int(fold), int(kind)))
                held_out[asked] = (forest.predict(straight[asked]) + forest.predict(crossed[asked])) / 2
    forests = []
    for kind in kinds:
        rows = exercise == kind
        forests.append(_grow(straight[rows], crossed[rows], target[rows], (seed, -1 % 2**32, kind)))
    return TreeMember(tuple(forests)), held_out


def _grow(straight: np.ndarray, crossed: np.ndarray, target: np.ndarray, seed: tuple[int, int, int]) -> Trees:
    x, y = np.concatenate([straight, crossed]), np.concatenate([target, target])
    return fit_trees(x, y, TREES, max(1, round(_TRIED * x.shape[1])), LEAF, seed)
