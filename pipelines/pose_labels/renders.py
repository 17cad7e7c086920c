"""Rendered divers to learn from beside the labelled frames, drawn anew as the training goes on."""

from __future__ import annotations

import numpy as np

from pipelines.pose_labels.views import shrink
from pipelines.rendered import dives
from pipelines.rendered.body import Shape
from pipelines.rendered.draw import Look
from pipelines.rendered.film import FPS, film_dive
from pipelines.rendered.poses import DIVING
from pipelines.rendered.train_network import render_poses

FIRST_SEED = 50_000_000
"""Seeds of these renders start here, far from those of the built-in data and of the shipped network."""
UNITS, FRESH = 48, 10
"""Units of frames in memory, and steps until the oldest is replaced."""
_BOX = 1.25
"""Side of a labelled box against the extent of the joints (1.1 to 1.5 in the labels of FineDiving-Pose)."""


class RenderPool:
    """A moving window of rendered frames: what it holds depends on seed and step alone, so runs resume.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int):
        self._seed = FIRST_SEED + 1_000_000 * seed
        self._units: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def pick(
        self, random: np.random.Generator, step: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """A frame at training step `step`: image, (16, 2) joints, box centre and side."""
        first = step // FRESH
        for old in [unit for unit in self._units if unit < first]:
            del self._units[old]
        unit = first + int(random.integers(UNITS))
        if unit not in self._units:
            self._units[unit] = render_unit(self._seed + unit)
        frames, joints = self._units[unit]
        index = int(random.integers(len(frames)))
        image, seen = shrink(random, frames[index], joints[index])
        low, high = seen.min(axis=0), seen.max(axis=0)
        return image, seen, 0.5 * (low + high), float((high - low).max()) * _BOX


def render_unit(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Eight frames: every third unit of one filmed dive before the entry, the others of one diver's poses.

    Returns ((8, 256, 256, 3) uint8 RGB, (8, 16, 2) px).
    """
    if seed % 3:
        return render_poses(seed, 8, kinds=DIVING)
    random = np.random.default_rng(seed)
    number = dives.DiveNumber.parse(str(random.choice(dives.PROGRAMME)))
    faults, look = dives.sample_faults(random, random.uniform(0, 0.8)), Look.sample(random, swimwear=True)
    film, dive = film_dive(random, number, faults, Shape.sample(random), look)
    picked = np.sort(random.integers(0, int(dive.entry_s * FPS) + 1, 8))
    return film.frames[picked], film.joints[picked]
