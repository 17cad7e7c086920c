"""Extremely randomised trees (Geurts, Ernst & Wehenkel 2006) for regression.

They cut one feature at a time where kernels look at all at once, so they err elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAF = -1


@dataclass(frozen=True)
class Trees:
    """Trees one after another in one array of nodes.

    Attributes:
        roots: (R,) first node of each tree.
        feature: (N,) feature that a node cuts; -1 = leaf.
        threshold: (N,) values below go left.
        children: (N, 2) left and right node.
        value: (N,) mean target of the training items of the node.
    """

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    children: np.ndarray
    value: np.ndarray

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(M, F) -> (M,): the mean over the trees."""
        node = np.tile(self.roots, (len(x), 1))
        rows = np.arange(len(x))[:, None]
        while (inner := self.feature[node] != _LEAF).any():
            right = x[rows, self.feature[node]] >= self.threshold[node]
            node = np.where(inner, self.children[node, right.astype(int)], node)
        return self.value[node].mean(axis=1)


def fit_trees(x: np.ndarray, y: np.ndarray, trees: int, tried: int, leaf: int, seed: Sequence[int]) -> Trees:
    """Grows trees on all items; every cut is the best of some random ones.

    Args:
        x: (M, F) finite features.
        y: (M,) targets.
        trees: R, how many.
        tried: features that are drawn for a cut, each with one random threshold.
        leaf: fewest items in a leaf.
        seed: of all draws.
    """
    draws = np.random.default_rng(list(seed))
    nodes: list[tuple[int, float, int, int, float]] = []
    roots = [_grow(x, y, np.arange(len(y)), draws, tried, leaf, nodes) for _ in range(trees)]
    feature, threshold, left, right, value = (np.array(column) for column in zip(*nodes, strict=True))
    return Trees(np.array(roots), feature, threshold, np.stack([left, right], axis=1), value)


def _grow(
    x: np.ndarray,
    y: np.ndarray,
    rows: np.ndarray,
    draws: np.random.Generator,
    tried: int,
    leaf: int,
    nodes: list[tuple[int, float, int, int, float]],
) -> int:
    """Appends the tree of these items to `nodes`; returns its first node."""
    here = len(nodes)
    nodes.append((_LEAF, 0.0, here, here, float(y[rows].mean())))
    cut = _cut(x, y[rows], rows, draws, tried, leaf) if len(rows) >= 2 * leaf else None
    if cut is not None:
        feature, threshold = cut
        below = x[rows, feature] < threshold
        left, right = (_grow(x, y, part, draws, tried, leaf, nodes) for part in (rows[below], rows[~below]))
        nodes[here] = (feature, threshold, left, right, nodes[here][4])
    return here


def _cut(
    x: np.ndarray, y: np.ndarray, rows: np.ndarray, draws: np.random.Generator, tried: int, leaf: int
) -> tuple[int, float] | None:
    """The random cut that leaves the least variance; None if none leaves enough items on both sides."""
    features = draws.choice(x.shape[1], size=min(tried, x.shape[1]), replace=False)
    values = x[rows[:, None], features]
    low, high = values.min(axis=0), values.max(axis=0)
    thresholds = low + draws.random(len(features)) * (high - low)
    below = values < thresholds
    count = below.sum(axis=0)
    possible = (count >= leaf) & (len(rows) - count >= leaf)
    if not possible.any():
        return None
    centred = (
        y - y.mean()
    )  # both sums of squares then differ by the same constant from the variance that is left
    total = centred @ below
    gain = np.where(
        possible, total**2 / np.maximum(count, 1) + total**2 / np.maximum(len(rows) - count, 1), -1
    )
    best = int(gain.argmax())
    return int(features[best]), float(thresholds[best])
