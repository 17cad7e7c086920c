"""One recording of an exercise, as the angles expert reads it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Performance:
    """What was seen, what was done, by whom, and the judged score if known.

    Attributes:
        channels: (T, 49) of `body_channels`.
        exercise: name of what was done.
        subject: name of the person.
        score: in points; None = not judged.
        repetitions: first frame and the one behind the last of each repetition; empty = not marked.
    """

    channels: np.ndarray
    exercise: str
    subject: str
    score: float | None = None
    repetitions: tuple[tuple[int, int], ...] = ()
