"""The angles expert: body angles read by kernels, trees and a small network, averaged and calibrated.

Everything that is chosen - kernel width, cost, tube, what exercises share, epochs, weights of the average,
lines of the calibration, weight of a person's other exercises - is chosen by cross-validation by subject
inside the recordings given to `fit_expert`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aqa_models.angles_expert.calibration import (
    choose_pooling,
    choose_weights,
    least_absolute_lines,
    merit,
    pool_person,
)
from aqa_models.angles_expert.kernel_member import KernelMember, fit_kernel
from aqa_models.angles_expert.network_member import NetworkMember, fit_network
from aqa_models.angles_expert.performance import Performance
from aqa_models.angles_expert.scaled_view import REPETITIONS, VIEWS, ScaledView, fit_view
from aqa_models.angles_expert.tree_member import TreeMember, fit_tree_member

FOLDS = 6
TREE_VIEWS = ("posture", "extremes")


@dataclass(frozen=True)
class AnglesExpert:
    """A fitted expert.

    Attributes:
        exercises: names, in the order of the indices (E).
        mean, deviation, median: (E,) of the training scores, in points.
        views: name -> view.
        members: view -> kernel regression on it; `trees` on `TREE_VIEWS`; `network` if there is one.
            The view of repetitions is there if it was asked for.
        weights: (M,) shares of the members in the average.
        lines: (E, 2) intercept and slope from the average to points.
        pooling: weight of a person's other exercises.
        pooled_lines: (E, 2) likewise after pooling.
        held_out: name -> merit of the members, the average and the pooled average on held-out subjects.
    """

    exercises: tuple[str, ...]
    mean: np.ndarray
    deviation: np.ndarray
    median: np.ndarray
    views: dict[str, ScaledView]
    members: dict[str, KernelMember | TreeMember | NetworkMember]
    weights: np.ndarray
    lines: np.ndarray
    pooling: float
    pooled_lines: np.ndarray
    held_out: dict[str, float]

    def predict(self, performances: Sequence[Performance]) -> np.ndarray:
        """(N,) scores in points, each recording on its own.

        Raises:
            ValueError: an exercise is unknown, or the expert reads repetitions and none are marked.
        """
        exercise = self.index(performances)
        return _apply(self.lines, self._average(performances, exercise), exercise)

    def predict_pooled(self, performances: Sequence[Performance]) -> np.ndarray:
        """(N,) scores in points from all recordings of the person in `performances`; no score is read.

        A recording of somebody who did nothing else gets what `predict` says.
        """
        exercise = self.index(performances)
        average = self._average(performances, exercise)
        names = np.array([performance.subject for performance in performances])
        alone = np.array(
            [not ((names == n) & (exercise != e)).any() for n, e in zip(names, exercise, strict=True)]
        )
        pooled = _apply(
            self.pooled_lines, pool_person(average, exercise, list(names), self.pooling), exercise
        )
        return np.where(alone, _apply(self.lines, average, exercise), pooled)

    def index(self, performances: Sequence[Performance]) -> np.ndarray:
        """(N,) index of each exercise; ValueError for an unknown one."""
        unknown = sorted({p.exercise for p in performances} - set(self.exercises))
        if unknown:
            raise ValueError(f"unknown exercise {unknown[0]!r}; known: {', '.join(self.exercises)}")
        return np.array([self.exercises.index(performance.exercise) for performance in performances])

    def _average(self, performances: Sequence[Performance], exercise: np.ndarray) -> np.ndarray:
        seen = {name: view(performances, exercise) for name, view in self.views.items()}
        answers = []
        for name, member in self.members.items():
            if isinstance(member, NetworkMember):
                answers.append(member.predict([p.channels for p in performances], exercise))
            else:
                answers.append(member.predict(*_side_by_side(seen, _read_by(name)), exercise))
        return self.weights @ np.stack(answers)


def fit_expert(
    performances: Sequence[Performance],
    rate_hz: float,
    network_seeds: int,
    epochs: int,
    seed: int,
    *,
    repetitions: bool = False,
) -> AnglesExpert:
    """Fits all members, and all that is chosen, to scored performances.

    Args:
        performances: with scores, of at least 3 subjects; a score per exercise is not required of each.
        rate_hz: frames per second of the channels.
        network_seeds: networks that are averaged; 0 = none, which takes a fifth of the time.
        epochs: most passes of a network.
        seed: of folds and networks.
        repetitions: read the marked repetitions besides; then those it scores must have them too.

    Raises:
        ValueError: fewer than 3 subjects, a score is missing, or repetitions are to be read and not marked.
    """
    scores = np.array([np.nan if p.score is None else p.score for p in performances], dtype=np.float64)
    subjects = [performance.subject for performance in performances]
    if len(set(subjects)) < 3 or not np.isfinite(scores).all():
        raise ValueError("the angles expert learns from scored performances of at least 3 subjects")
    exercises = tuple(sorted({performance.exercise for performance in performances}))
    exercise = np.array([exercises.index(performance.exercise) for performance in performances])
    groups = [scores[exercise == index] for index in range(len(exercises))]
    mean, median = np.array([g.mean() for g in groups]), np.array([np.median(g) for g in groups])
    # Scores that are all equal stay at their mean instead of dividing by zero.
    deviation = np.array([g.std() or 1.0 for g in groups])
    target = (scores - mean[exercise]) / deviation[exercise]
    folds = fold_subjects(subjects, target, FOLDS, seed)
    names = (*VIEWS, REPETITIONS) if repetitions else VIEWS
    views = {name: fit_view(name, performances, exercise, rate_hz) for name in names}
    seen = {name: view(performances, exercise) for name, view in views.items()}
    members: dict[str, KernelMember | TreeMember | NetworkMember] = {}
    answers: dict[str, np.ndarray] = {}
    for name in names:
        members[name], answers[name] = fit_kernel(*seen[name], exercise, target, folds)
    beside = _side_by_side(seen, TREE_VIEWS)
    members["trees"], answers["trees"] = fit_tree_member(*beside, exercise, target, folds, seed)
    if network_seeds:
        recordings = [performance.channels for performance in performances]
        members["network"], answers["network"] = fit_network(
            recordings, exercise, target, folds, rate_hz, network_seeds, epochs, seed
        )
    weights = choose_weights(np.stack(list(answers.values())), target, exercise)
    average = weights @ np.stack(list(answers.values()))
    pooling = choose_pooling(average, target, exercise, subjects)
    pooled = pool_person(average, exercise, subjects, pooling)
    told = {**answers, "average": average, "pooled": pooled}
    return AnglesExpert(
        exercises=exercises,
        mean=mean,
        deviation=deviation,
        median=median,
        views=views,
        members=members,
        weights=weights,
        lines=least_absolute_lines(average, scores, exercise, deviation),
        pooling=pooling,
        pooled_lines=least_absolute_lines(pooled, scores, exercise, deviation),
        held_out={name: merit(answer, target, exercise) for name, answer in told.items()},
    )


def fold_subjects(subjects: Sequence[str], target: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(N,) fold of each recording: every subject in one, each fold over the whole range of mean targets."""
    draws = np.random.default_rng(seed)
    names = np.asarray(subjects)
    order = sorted(set(subjects), key=lambda name: (target[names == name].mean(), name))
    folds = min(folds, len(order))
    of: dict[str, int] = {}
    for begin in range(0, len(order), folds):
        of |= dict(zip(order[begin : begin + folds], draws.permutation(folds).tolist(), strict=False))
    return np.array([of[name] for name in subjects])


def _read_by(member: str) -> tuple[str, ...]:
    return TREE_VIEWS if member == "trees" else (member,)


def _side_by_side(
    seen: dict[str, tuple[np.ndarray, np.ndarray]], names: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Features of several views, of the recordings and of their mirror images."""
    straight, crossed = (np.concatenate([seen[name][k] for name in names], axis=1) for k in (0, 1))
    return straight, crossed


def _apply(lines: np.ndarray, predicted: np.ndarray, exercise: np.ndarray) -> np.ndarray:
    return lines[exercise, 0] + lines[exercise, 1] * predicted
