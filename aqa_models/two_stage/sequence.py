"""Keypoints of one recording -> what the two-stage model reads.

Order of the steps (docs/papers.md, A1 and A2): map the skeleton, bridge gaps, resample to a uniform
rate on the real time stamps, centre on the root of the first frame, scale by one number, crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aqa_models.skeletons import map_keypoints, skeleton
from aqa_models.two_stage.config import SequenceConfig


@dataclass(frozen=True)
class Sequence:
    """One recording, ready for the model.

    Attributes:
        x: (n, J * C) float32 in [-1, 1]; joints never observed are 0.
        observed: (J,) bool, False for joints the recording never shows.
        scale: largest absolute centred coordinate, in the unit of the keypoints.
    """

    x: np.ndarray
    observed: np.ndarray
    scale: float


def make_sequence(keypoints: np.ndarray, time_s: np.ndarray, source: str, config: SequenceConfig) -> Sequence:
    """Prepares one recording.

    Args:
        keypoints: (T, J, C) of skeleton `source`, C = 2 or 3, any length unit; NaN = not available.
        time_s: (T,) seconds, not decreasing; frames with a repeated stamp are dropped.
        source: name of the skeleton of the keypoints.
        config: canonical skeleton, rate and longest length.

    Returns:
        The sequence at `config.rate_hz`, at most `config.max_frames` long (the end is kept).

    Raises:
        ValueError: stamps decrease or are not finite, nothing or no root joint is observed, or all
            joints lie in one point.
    """
    time_s = np.asarray(time_s, dtype=np.float64)
    if len(time_s) != len(keypoints) or not len(time_s):
        raise ValueError(f"{len(keypoints)} frames but {len(time_s)} time stamps")
    if not np.isfinite(time_s).all() or (np.diff(time_s) < 0).any():
        raise ValueError("time stamps must be finite and must not decrease")
    fresh = np.concatenate([[True], np.diff(time_s) > 0])
    body = skeleton(config.skeleton)
    mapped = map_keypoints(np.asarray(keypoints, dtype=np.float64)[fresh], source, config.skeleton)
    mapped = _resample(mapped, time_s[fresh], config.rate_hz)
    observed = np.asarray(np.isfinite(mapped).all(axis=(0, 2)))
    root = body.index(body.root)
    if not observed[root]:
        raise ValueError(f"the root joint {body.root!r} is never observed and cannot be derived")
    centred = np.where(observed[:, None], mapped - mapped[0, root], 0.0)
    scale = float(np.abs(centred).max())
    if scale <= 0:
        raise ValueError("all joints lie in one point")
    x = (centred / scale).reshape(len(centred), -1).astype(np.float32)
    return Sequence(x[-config.max_frames :], observed, scale)


def _resample(xyz: np.ndarray, time_s: np.ndarray, rate_hz: float) -> np.ndarray:
    """(T, J, C) at `time_s` -> (n, J, C) at a uniform rate, gaps bridged linearly.

    Each value is the mean of the linearly interpolated signal over 2 / rate around its time. This
    low-pass has its zero at the new Nyquist frequency, so faster motion is not folded back, and the pace
    task cannot be solved by looking for the high frequencies that interpolation removes.
    A joint with a coordinate that is never finite stays NaN.
    """
    num = int(np.floor((time_s[-1] - time_s[0]) * rate_hz + 1e-6)) + 1
    grid = time_s[0] + np.arange(num) / rate_hz
    flat = xyz.reshape(len(xyz), -1)
    out = np.full((num, flat.shape[1]), np.nan)
    low = np.clip(grid - 1 / rate_hz, time_s[0], time_s[-1])
    high = np.clip(grid + 1 / rate_hz, time_s[0], time_s[-1])
    for channel in range(flat.shape[1]):
        finite = np.isfinite(flat[:, channel])
        if not finite.any():
            continue
        signal = np.interp(time_s, time_s[finite], flat[finite, channel])
        if len(time_s) == 1:
            out[:, channel] = signal[0]
        else:
            area = _integral(signal, time_s, high) - _integral(signal, time_s, low)
            out[:, channel] = area / (high - low)
    return out.reshape(num, *xyz.shape[1:])


def _integral(signal: np.ndarray, time_s: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Integral of the piecewise linear signal from its first stamp to each time in `at`."""
    steps = np.diff(time_s)
    sums = np.concatenate([[0.0], np.cumsum((signal[1:] + signal[:-1]) / 2 * steps)])
    left = np.clip(np.searchsorted(time_s, at, side="right") - 1, 0, len(steps) - 1)
    ahead = at - time_s[left]
    slope = (signal[left + 1] - signal[left]) / steps[left]
    return sums[left] + ahead * (signal[left] + slope * ahead / 2)


def pad_front(sequences: list[Tensor], num_frames: int = 0) -> tuple[Tensor, Tensor]:
    """List of (n_b, F) -> x (B, T, F) with zeros before each sequence (paper), valid (B, T) bool.

    T is the longest length, or `num_frames` if that is more.
    """
    if not sequences:
        raise ValueError("no sequences to pad")
    longest = max(num_frames, *(len(item) for item in sequences))
    x = sequences[0].new_zeros(len(sequences), longest, sequences[0].shape[1])
    valid = torch.zeros(len(sequences), longest, dtype=torch.bool, device=x.device)
    for row, item in enumerate(sequences):
        x[row, longest - len(item) :] = item
        valid[row, longest - len(item) :] = True
    return x, valid
