"""Views of a recording, each a vector: posture, extremes and coordination of all of it; its repetitions.

Repetitions are read where somebody marked them and never guessed: on KIMORE marked ones are worth something
over the whole recording, and boundaries found automatically were worth nothing (docs/papers.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aqa_models.angles_expert.mirror import mirror
from aqa_models.body_angles import CHANNELS

COMPONENTS = 4
_START_S = 0.5
_EXTREME_SHARE = 0.15
_START_SHARE = 0.03  # of a recording
_REPETITION_START_S = 0.2
_SPREAD_FLOOR = 1e-3  # radians or trunk lengths: what moves less is taken to stand still

PAIRED = [column for column, name in enumerate(CHANNELS) if name.startswith("left_")]
_RIGHT = [CHANNELS.index(CHANNELS[column].replace("left_", "right_")) for column in PAIRED]
_PAIRS = np.triu_indices(len(CHANNELS), 1)


def posture(channels: np.ndarray, rate_hz: float) -> np.ndarray:
    """How a person stands and how far they reach.

    Args:
        channels: (T, 49) of `body_channels`.
        rate_hz: frames per second.

    Returns:
        (F,): of every channel the quantiles .03, .25, .5, .75, .97, the mean, the mean of the first half
        second and the range; of the 13 pairs of sides how far mean and range differ, and their correlation.
        NaN for a channel that is NaN.
    """
    channels = np.asarray(channels, dtype=np.float64)
    quantiles = np.quantile(channels, (0.03, 0.25, 0.5, 0.75, 0.97), axis=0)
    mean, reach = channels.mean(axis=0), quantiles[4] - quantiles[0]
    start = channels[: max(1, round(_START_S * rate_hz))].mean(axis=0)
    unlike = [_unlike(part) for part in (mean, reach)]
    return np.concatenate([*quantiles, mean, start, reach, *unlike, correlations(channels)[PAIRED, _RIGHT]])


def repetition_posture(
    channels: np.ndarray, repetitions: Sequence[tuple[int, int]], rate_hz: float
) -> np.ndarray:
    """How far each repetition reaches, and how alike they are.

    Args:
        channels: (T, 49) of `body_channels`.
        repetitions: first frame of each and the one behind its last, at least one.
        rate_hz: frames per second.

    Returns:
        (372,): of every channel the quantiles .03 and .97, the range, the mean, and the mean of the first
        0.2 s, each the median over the repetitions; the largest and the smallest range; of the 13 pairs of
        sides how far range and mean differ; median and deviation of the seconds of a repetition, and
        their number.
        NaN for a channel that is NaN.
    """
    channels = np.asarray(channels, dtype=np.float64)
    found = []
    for first, end in repetitions:
        part = channels[first:end]
        low, high = np.quantile(part, (0.03, 0.97), axis=0)
        start = part[: max(1, round(_REPETITION_START_S * rate_hz))].mean(axis=0)
        found.append([low, high, high - low, part.mean(axis=0), start])
    each = np.array(found)
    low, high, reach, mean, start = np.median(each, axis=0)
    seconds = np.array([end - first for first, end in repetitions]) / rate_hz
    usual = [low, high, reach, mean, start, each[:, 2].max(axis=0), each[:, 2].min(axis=0)]
    pace = np.array([np.median(seconds), seconds.std(), len(seconds)])
    return np.concatenate([*usual, _unlike(reach), _unlike(mean), pace])


def _unlike(part: np.ndarray) -> np.ndarray:
    """(49,) -> (13,): how far left and right differ."""
    return np.abs(part[PAIRED] - part[_RIGHT])


def coordination(channels: np.ndarray) -> np.ndarray:
    """(T, 49) -> (1176,): the correlation in time of every two channels; 0 with one that stands still."""
    return correlations(channels)[_PAIRS]


def correlations(channels: np.ndarray) -> np.ndarray:
    """(T, D) -> (D, D); what moves less than `_SPREAD_FLOOR` correlates with nothing."""
    centred = np.asarray(channels, dtype=np.float64) - np.mean(channels, axis=0, dtype=np.float64)
    spread = np.sqrt((centred**2).mean(axis=0))
    return (centred.T @ centred) / len(centred) / np.maximum(np.outer(spread, spread), _SPREAD_FLOOR**2)


@dataclass(frozen=True)
class Movement:
    """What an exercise consists of: the directions in which its channels vary most.

    Attributes:
        centre: (49,) mean of the channels.
        spread: (49,) their deviation within a recording.
        components: (COMPONENTS, 49) directions, most variance first.
    """

    centre: np.ndarray
    spread: np.ndarray
    components: np.ndarray


def find_movement(recordings: Sequence[np.ndarray]) -> Movement:
    """Principal components of the channels within recordings and their mirror images; no score is read.

    Args:
        recordings: (T_b, 49) each, of one exercise. A NaN channel of a recording counts as standing still.
    """
    both = [side for part in recordings for side in (part, mirror(part))]
    parts = [np.asarray(part, dtype=np.float64) for part in both]
    centre = np.nan_to_num(np.nanmean([part.mean(axis=0) for part in parts], axis=0))
    still = [np.nan_to_num(part - part.mean(axis=0)) for part in parts]
    spread = np.maximum(np.sqrt(np.mean([part.var(axis=0) for part in still], axis=0)), _SPREAD_FLOOR)
    covariance = sum((part / spread).T @ (part / spread) / len(part) for part in still)
    _, directions = np.linalg.eigh(covariance)
    start = np.mean([part[: max(1, round(_START_SHARE * len(part)))].mean(axis=0) for part in still], axis=0)
    return Movement(centre, spread, _turned(directions[:, ::-1][:, :COMPONENTS].T, start / spread))


def _turned(components: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The same lines, each pointing away from where the recordings start.

    An eigenvector's sign is otherwise the linear algebra's whim and changes with its number of threads. A
    line that only tells left from right has no start, since each recording counts with its mirror image: a
    direction that prefers a side turns it.
    """
    sided = 1e-6 * np.linalg.norm(start) / np.arange(1, components.shape[1] + 1)
    return components * np.where(components @ (start - sided) > 0, -1.0, 1.0)[:, None]


def extremes(channels: np.ndarray, movement: Movement) -> np.ndarray:
    """The posture where the movement is at its ends.

    Args:
        channels: (T, 49).
        movement: of the exercise.

    Returns:
        (2 * COMPONENTS * 49,): mean channels of the 15 % of frames that lie furthest along each component,
        then of those that lie furthest the other way.
    """
    channels = np.asarray(channels, dtype=np.float64)
    along = np.nan_to_num((channels - movement.centre) / movement.spread) @ movement.components.T
    parts = []
    for component in along.T:
        low, high = np.quantile(component, (_EXTREME_SHARE, 1 - _EXTREME_SHARE))
        parts += [channels[component >= high].mean(axis=0), channels[component <= low].mean(axis=0)]
    return np.concatenate(parts)
