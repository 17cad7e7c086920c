"""Asynchronous successive halving (ASHA, arXiv 1810.05934): which trials are not worth their other epochs.

After `first`, `first * reduction`, `first * reduction ** 2`, ... epochs a trial goes on only if it is not
worse than the best 1/reduction of the other trials were after as many. It is the rule of Ray Tune's
AsyncHyperBandScheduler; that one keeps what it knows in memory and in pickles and decides by who happens to
be first, this one decides from the metrics on disk, so that a killed sweep decides the same again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def is_rung(epochs_done: int, first: int, reduction: int) -> bool:
    """Whether trials are compared after this many epochs."""
    rung = first
    while rung < epochs_done:
        rung *= reduction
    return rung == epochs_done


def is_worse(value: float, others: Sequence[float], reduction: int, mode: str) -> bool:
    """Whether a trial is to be stopped.

    Args:
        value: its objective at a rung.
        others: objectives of the other trials at this rung; none = go on.
        reduction: one in so many goes on.
        mode: min or max.
    """
    if not others:
        return False
    sign = 1.0 if mode == "max" else -1.0
    cutoff = np.percentile(sign * np.asarray(others, dtype=float), (1 - 1 / reduction) * 100)
    return bool(sign * value < cutoff)
