"""A view of performances as regressions read it: standardised by exercise, beside the mirror images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aqa_models.angles_expert.kernel import Scaling, fit_scaling
from aqa_models.angles_expert.mirror import mirror
from aqa_models.angles_expert.performance import Performance
from aqa_models.angles_expert.views import (
    Movement,
    coordination,
    extremes,
    find_movement,
    posture,
    repetition_posture,
)

VIEWS = ("posture", "extremes", "coordination")
REPETITIONS = "repetitions"


@dataclass(frozen=True)
class ScaledView:
    """A view that knows what is usual in each exercise.

    Attributes:
        name: one of `VIEWS`, or `REPETITIONS`.
        rate_hz: frames per second of the recordings.
        movements: of each exercise; empty unless the view is `extremes`.
        scaling: of the features.
    """

    name: str
    rate_hz: float
    movements: tuple[Movement, ...]
    scaling: Scaling

    def __call__(
        self, performances: Sequence[Performance], exercise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scaled features (N, F) float32, and those of the mirror images.

        Raises:
            ValueError: the view reads repetitions, and a performance has none.
        """
        both = (
            _look(self.name, performances, exercise, self.rate_hz, self.movements, m) for m in (False, True)
        )
        straight, crossed = (self.scaling(part, exercise).astype(np.float32) for part in both)
        return straight, crossed


def fit_view(
    name: str, performances: Sequence[Performance], exercise: np.ndarray, rate_hz: float
) -> ScaledView:
    """Finds what is usual; no score is read.

    Args:
        name: one of `VIEWS`, or `REPETITIONS`.
        performances: to learn from.
        exercise: (N,) index, every index from 0 to the highest occurs.
        rate_hz: frames per second.
    """
    movements: tuple[Movement, ...] = ()
    if name == "extremes":
        kinds = range(int(exercise.max()) + 1)
        of = [
            [p.channels for p, e in zip(performances, exercise, strict=True) if e == kind] for kind in kinds
        ]
        movements = tuple(find_movement(part) for part in of)
    plain, other = (_look(name, performances, exercise, rate_hz, movements, m) for m in (False, True))
    return ScaledView(name, rate_hz, movements, fit_scaling(plain, other, exercise))


def _look(
    name: str,
    performances: Sequence[Performance],
    exercise: np.ndarray,
    rate_hz: float,
    movements: Sequence[Movement],
    mirrored: bool,
) -> np.ndarray:
    """(N, F) features, of the performances or of their mirror images."""
    found = []
    for performance, index in zip(performances, exercise, strict=True):
        channels = mirror(performance.channels) if mirrored else performance.channels
        if name == "posture":
            found.append(posture(channels, rate_hz))
        elif name == "extremes":
            found.append(extremes(channels, movements[index]))
        elif name == "coordination":
            found.append(coordination(channels))
        elif performance.repetitions:
            found.append(repetition_posture(channels, performance.repetitions, rate_hz))
        else:
            raise ValueError(f"no repetitions of {performance.subject} in {performance.exercise} are marked")
    return np.stack(found)
