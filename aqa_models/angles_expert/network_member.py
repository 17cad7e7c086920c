"""The network as a member of the angles expert: its epochs by cross-validation, several seeds averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aqa_models.angles_expert.calibration import merit
from aqa_models.angles_expert.kernel import Scaling, fit_scaling
from aqa_models.angles_expert.mirror import mirror
from aqa_models.angles_expert.network import AngleNetwork, Clips, NetworkSizes, predict, train

RATE_HZ = 2.5  # exercises are slow, and a fifth of the frames is a fifth of the time


@dataclass(frozen=True)
class NetworkMember:
    """Networks of several seeds.

    Attributes:
        rate_hz: frames per second of the recordings.
        scaling: of the channels.
        networks: one per seed.
        epochs: what cross-validation chose.
    """

    rate_hz: float
    scaling: Scaling
    networks: tuple[AngleNetwork, ...]
    epochs: int

    def predict(self, recordings: Sequence[np.ndarray], exercise: np.ndarray) -> np.ndarray:
        """(N,) standardised scores of (T_b, 49) recordings: the mean of the networks."""
        inputs = _inputs(coarse(recordings, self.rate_hz), exercise, self.scaling)
        return np.mean([predict(network, inputs, exercise) for network in self.networks], axis=0)


def fit_network(
    recordings: Sequence[np.ndarray],
    exercise: np.ndarray,
    target: np.ndarray,
    folds: np.ndarray,
    rate_hz: float,
    seeds: int,
    epochs: int,
    seed: int,
) -> tuple[NetworkMember, np.ndarray]:
    """Chooses the epochs by cross-validation with one seed and trains with all of them.

    Arguments and result: see `kernel_member.fit_kernel`; epochs: most passes; seed: the first of `seeds`.
    """
    slow = coarse(recordings, rate_hz)
    of = [[part for part, e in zip(slow, exercise, strict=True) if e == k] for k in range(exercise.max() + 1)]
    frames = [np.concatenate(parts) for parts in of]
    owner = np.repeat(np.arange(len(frames)), [len(part) for part in frames])
    stacked = np.concatenate(frames)
    scaling = fit_scaling(stacked, mirror(stacked), owner)
    inputs = _inputs(slow, exercise, scaling)
    sizes = NetworkSizes(channels=inputs[0].shape[1], exercises=len(frames))
    held_out: dict[int, np.ndarray] = {}
    for fold in np.unique(folds):
        out, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)

        def watch(epoch: int, network: AngleNetwork, rows: np.ndarray = out) -> None:
            answer = held_out.setdefault(epoch, np.zeros(len(target)))
            answer[rows] = predict(network, [inputs[row] for row in rows], exercise[rows])

        known = Clips([inputs[row] for row in rest], exercise[rest], target[rest])
        train(known, sizes, epochs, seed, watch)
    chosen = max(held_out, key=lambda epoch: merit(held_out[epoch], target, exercise))
    everything = Clips(inputs, exercise, target)
    networks = tuple(train(everything, sizes, chosen, seed + k) for k in range(seeds))
    return NetworkMember(rate_hz, scaling, networks, chosen), held_out[chosen]


def coarse(recordings: Sequence[np.ndarray], rate_hz: float) -> list[np.ndarray]:
    """(T_b, D) each at `rate_hz` -> means over the frames of each period of `RATE_HZ`, at least one."""
    every = max(1, round(rate_hz / RATE_HZ))
    return [
        np.stack([part.mean(axis=0) for part in np.array_split(r, max(1, len(r) // every))])
        for r in recordings
    ]


def _inputs(slow: Sequence[np.ndarray], exercise: np.ndarray, scaling: Scaling) -> list[np.ndarray]:
    rows = [np.full(len(part), index) for part, index in zip(slow, exercise, strict=True)]
    return [scaling(part, index).astype(np.float32) for part, index in zip(slow, rows, strict=True)]
