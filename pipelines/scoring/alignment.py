"""Two performances laid over each other procedure by procedure: each is stretched to the other's length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Alignment:
    """Where the procedures of two performances begin and end.

    Attributes:
        own: (P + 1,) seconds of the one performance, never falling: where a short video
            shows frames twice, a procedure may have no length.
        other: (P + 1,) seconds of the other one, rising.
    """

    own: np.ndarray
    other: np.ndarray

    def __post_init__(self) -> None:
        """Raises ValueError unless both have as many procedures, one rises and the other does not fall."""
        if len(self.own) != len(self.other) or len(self.own) < 2:
            raise ValueError(f"{len(self.own) - 1} procedures do not fit {len(self.other) - 1}")
        if (np.diff(self.own) < 0).any() or (np.diff(self.other) <= 0).any():
            raise ValueError("the procedures do not rise")

    def to_other(self, time_s: np.ndarray | float) -> np.ndarray:
        """Seconds of the other performance at which it is as far in the same procedure."""
        return np.asarray(np.interp(time_s, self.own, self.other))

    def part_of(self, time_s: np.ndarray) -> np.ndarray:
        """(T,) procedure of each own second; the first and the last one reach beyond their ends."""
        return np.clip(np.searchsorted(self.own, time_s, side="right") - 1, 0, len(self.own) - 2)


def aligned(values: np.ndarray, time_s: np.ndarray, wanted_s: np.ndarray) -> np.ndarray:
    """(T,) values of another performance at seconds of its own, linear in between; NaN stays NaN."""
    seen = np.isfinite(values)
    if seen.sum() < 2:
        return np.full(len(wanted_s), np.nan)
    found = np.interp(wanted_s, time_s[seen], values[seen])
    # Nothing is made up where the joint was not seen for a while.
    nearest = np.abs(wanted_s[:, None] - time_s[seen][None]).min(axis=1)
    return np.where(nearest <= 3 * np.median(np.diff(time_s)) + 1e-9, found, np.nan)
