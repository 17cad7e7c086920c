"""A view of recordings as regressions read it: standardised by exercise, beside the mirror images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aqa_models.angles_expert.kernel import Scaling, fit_scaling
from aqa_models.angles_expert.mirror import mirror
from aqa_models.angles_expert.views import Movement, coordination, extremes, find_movement, posture

VIEWS = ("posture", "extremes", "coordination")


@dataclass(frozen=True)
class ScaledView:
    """A view that knows what is usual in each exercise.

    Attributes:
        name: posture, extremes or coordination.
        rate_hz: frames per second of the recordings.
        movements: of each exercise; empty unless the view is `extremes`.
        scaling: of the features.
    """

    name: str
    rate_hz: float
    movements: tuple[Movement, ...]
    scaling: Scaling

    def __call__(
        self, recordings: Sequence[np.ndarray], exercise: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scaled features (N, F) float32 of (T_b, 49) recordings, and those of their mirror images."""
        both = (
            _look(self.name, recordings, exercise, self.rate_hz, self.movements, m) for m in (False, True)
        )
        straight, crossed = (self.scaling(part, exercise).astype(np.float32) for part in both)
        return straight, crossed


def fit_view(name: str, recordings: Sequence[np.ndarray], exercise: np.ndarray, rate_hz: float) -> ScaledView:
    """Finds what is usual; no score is read.

    Args:
        name: one of `VIEWS`.
        recordings: (T_b, 49) each.
        exercise: (N,) index, every index from 0 to the highest occurs.
        rate_hz: frames per second.
    """
    movements: tuple[Movement, ...] = ()
    if name == "extremes":
        kinds = range(int(exercise.max()) + 1)
        of = [[r for r, e in zip(recordings, exercise, strict=True) if e == kind] for kind in kinds]
        movements = tuple(find_movement(part) for part in of)
    plain, other = (_look(name, recordings, exercise, rate_hz, movements, m) for m in (False, True))
    return ScaledView(name, rate_hz, movements, fit_scaling(plain, other, exercise))


def _look(
    name: str,
    recordings: Sequence[np.ndarray],
    exercise: np.ndarray,
    rate_hz: float,
    movements: Sequence[Movement],
    mirrored: bool,
) -> np.ndarray:
    """(N, F) features, of the recordings or of their mirror images."""
    found = []
    for recording, index in zip(recordings, exercise, strict=True):
        channels = mirror(recording) if mirrored else recording
        if name == "posture":
            found.append(posture(channels, rate_hz))
        elif name == "extremes":
            found.append(extremes(channels, movements[index]))
        else:
            found.append(coordination(channels))
    return np.stack(found)
