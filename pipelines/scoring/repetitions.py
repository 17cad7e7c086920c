"""Where the repetitions of an exercise begin and end, found from the movement alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

RATE_HZ = 25.0
SHORTEST_S = 0.8
"""A repetition lasts at least so long."""
REPEATS = 0.35
"""Least correlation of the movement with itself one repetition later."""


def find_repetitions(curves: dict[str, np.ndarray], time_s: np.ndarray) -> list[tuple[float, float]]:
    """Start and end of each repetition in seconds; empty if nothing repeats at least once.

    The period is where the curves, all together, are most like themselves later; a repetition runs from one
    turning point of their common movement (first principal component) to the next one on the same side.
    Halves at the ends are left out.

    Args:
        curves: name -> (T,) numbers of one unit; NaN = not seen, bridged.
        time_s: (T,) seconds.
    """
    grid = np.arange(time_s[0], time_s[-1], 1 / RATE_HZ)
    known = [np.interp(grid, time_s[seen], curve[seen]) for curve in curves.values()
             if (seen := np.isfinite(curve)).sum() > len(curve) / 2]  # fmt: skip
    if not known or len(grid) < 2 * SHORTEST_S * RATE_HZ:
        return []
    table = gaussian_filter1d(np.stack(known, axis=1), 0.1 * RATE_HZ, axis=0)
    table = table - table.mean(axis=0)
    period = _period(table)
    if period is None:
        return []
    common = gaussian_filter1d(_common(table), period / 12)
    # From rest to rest: the start of the recording is nearer to rest than to the turning point.
    if common[: max(1, period // 5)].mean() > np.median(common):
        common = -common
    reach = np.ptp(common)
    padded = np.concatenate([[common.max()], common, [common.max()]])  # the ends can be turning points
    turns = find_peaks(-padded, distance=max(1, round(0.6 * period)), prominence=0.25 * reach)[0] - 1
    spans = [(grid[a], grid[b]) for a, b in pairwise(turns)]
    return [(float(a), float(b)) for a, b in spans if 0.6 < (b - a) * RATE_HZ / period < 1.7]


def _period(table: np.ndarray) -> int | None:
    """Frames after which the movement (T, K) is most like itself; None if it never is."""
    count = len(table)
    spectrum = np.abs(np.fft.rfft(table, 2 * count, axis=0)) ** 2
    alike = np.fft.irfft(spectrum.sum(axis=1))[:count]
    alike = alike / max(alike[0], 1e-12) * count / (count - np.arange(count))
    first, last = round(SHORTEST_S * RATE_HZ), int(0.75 * count)
    peaks, _ = find_peaks(alike[first:last], height=REPEATS)
    if not len(peaks):
        return None
    heights = alike[first:last][peaks]
    # The first of those that are nearly as high: twice the period fits as well.
    return int(peaks[np.flatnonzero(heights > 0.8 * heights.max())[0]] + first)


def _common(table: np.ndarray) -> np.ndarray:
    """(T,) first principal component of (T, K)."""
    _, _, axes = np.linalg.svd(table, full_matrices=False)
    return table @ axes[0]
