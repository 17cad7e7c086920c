"""Keypoints of one recording -> what the two-stage model reads.

Order of the steps (docs/papers.md, A1 and A2): map the skeleton, bridge gaps, choose the frames on the clock
(or by another time policy), centre on the root, turn, scale, crop. The defaults keep speed, translation and
proportions; what the other choices lose, `lost_by` says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aqa_models.skeletons import map_keypoints, skeleton
from aqa_models.two_stage.config import SequenceConfig

TORSOS = 3.0
"""What becomes 1 with scaling by the torso: arms stretched upwards end about 2.4 torsos above the pelvis."""


@dataclass(frozen=True)
class Sequence:
    """One recording, ready for the model.

    Attributes:
        x: (n, J * C) float32 in [-1, 1]; joints never observed are 0.
        observed: (J,) bool, False for joints the recording never shows.
        scale: what became 1, in the unit of the keypoints; of scaling by axis the largest half range.
        valid: (n, J) bool, False where a joint was not seen and is bridged (or 0, if never observed).
        cropped: frames lost to max_frames.
    """

    x: np.ndarray
    observed: np.ndarray
    scale: float
    valid: np.ndarray
    cropped: int = 0


def lost_by(config: SequenceConfig) -> str:
    """What the choices of frames lose, one sentence without full stop; empty for fixed_rate."""
    if config.time_policy == "fixed_rate":
        return ""
    if config.time_policy == "stretch":
        return (
            f"every recording is stretched or squeezed to {config.max_frames} frames: its speed is lost, and "
            "the pace task has nothing to learn from"
        )
    return (
        "frames are taken as they were recorded, whatever their time stamps say: where a sensor dropped "
        "frames or ran at another rate, speed is wrong"
    )


def make_sequence(keypoints: np.ndarray, time_s: np.ndarray, source: str, config: SequenceConfig) -> Sequence:
    """Prepares one recording.

    Args:
        keypoints: (T, J, C) of skeleton `source`, C = 2 or 3, any length unit; NaN = not available.
        time_s: (T,) seconds, not decreasing; frames with a repeated stamp are dropped.
        source: name of the skeleton of the keypoints.
        config: canonical skeleton, choice of frames, centre, heading and scale.

    Returns:
        The sequence, at most `config.max_frames` long (the end is kept, with truncate_back the start).

    Raises:
        ValueError: stamps decrease or are not finite, nothing or no root joint is observed, all
            joints lie in one point, (scaling by the torso) there is no torso, or (heading of the body) the
            keypoints are two-dimensional or show no hips and shoulders.
    """
    time_s = np.asarray(time_s, dtype=np.float64)
    if len(time_s) != len(keypoints) or not len(time_s):
        raise ValueError(f"{len(keypoints)} frames but {len(time_s)} time stamps")
    if not np.isfinite(time_s).all() or (np.diff(time_s) < 0).any():
        raise ValueError("time stamps must be finite and must not decrease")
    fresh = np.concatenate([[True], np.diff(time_s) > 0])
    body = skeleton(config.skeleton)
    mapped = map_keypoints(np.asarray(keypoints, dtype=np.float64)[fresh], source, config.skeleton)
    seen = np.asarray(np.isfinite(mapped).all(axis=2))
    mapped, seen = _choose_frames(mapped, seen, time_s[fresh], config)
    observed = np.asarray(np.isfinite(mapped).all(axis=(0, 2)))
    root = body.index(body.root)
    if not observed[root]:
        raise ValueError(f"the root joint {body.root!r} is never observed and cannot be derived")
    origin = mapped[:1, root] if config.centre == "first_frame" else mapped[:, root]
    centred = np.where(observed[:, None], mapped - origin[:, None], 0.0)
    if config.heading == "body":
        centred = _turned(centred, observed, config.skeleton)
    scaled, scale = _scale(centred, observed, config)
    kept = (
        slice(config.max_frames) if config.time_policy == "truncate_back" else slice(-config.max_frames, None)
    )
    x = scaled.reshape(len(scaled), -1).astype(np.float32)[kept]
    return Sequence(x, observed, scale, (seen & observed)[kept], len(scaled) - len(x))


def _choose_frames(
    xyz: np.ndarray, seen: np.ndarray, time_s: np.ndarray, config: SequenceConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (T, J, C) and where they were seen (T, J), at the frames that the time policy chooses.

    Gaps are bridged linearly in time; a joint with a coordinate that is never finite stays NaN.
    """
    if config.time_policy == "fixed_rate":
        num = int(np.floor((time_s[-1] - time_s[0]) * config.rate_hz + 1e-6)) + 1
        grid = time_s[0] + np.arange(num) / config.rate_hz
        return _means(xyz, time_s, grid, config.rate_hz), _seen_at(seen, time_s, grid)
    if config.time_policy == "stretch":
        grid = np.linspace(time_s[0], time_s[-1], config.max_frames)
    else:
        grid = time_s[:: config.stride if config.time_policy == "stride_k" else 1]
    flat = xyz.reshape(len(xyz), -1)
    out = np.full((len(grid), flat.shape[1]), np.nan)
    for channel in range(flat.shape[1]):
        finite = np.isfinite(flat[:, channel])
        if finite.any():
            out[:, channel] = np.interp(grid, time_s[finite], flat[finite, channel])
    return out.reshape(len(grid), *xyz.shape[1:]), _seen_at(seen, time_s, grid)


def _seen_at(seen: np.ndarray, time_s: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """(n, J) bool: whether a joint was seen in the frames before and after (or at) each time of the grid."""
    after = np.clip(np.searchsorted(time_s, grid - 1e-9), 0, len(time_s) - 1)
    before = np.clip(np.searchsorted(time_s, grid + 1e-9, side="right") - 1, 0, len(time_s) - 1)
    return seen[before] & seen[after]


def _turned(centred: np.ndarray, observed: np.ndarray, name: str) -> np.ndarray:
    """(T, J, 3) turned about the second axis, by one angle for all frames: the person's left along x.

    The angle is that of the lines from right to left hip and shoulder, summed over the frames; the person's
    own turning stays visible, and which way the camera looked does not.
    """
    body = skeleton(name)
    left, right = (
        [body.index(f"{side}_{joint}") for joint in ("hip", "shoulder")] for side in ("left", "right")
    )
    if centred.shape[2] != 3 or not observed[left + right].all():
        raise ValueError("heading body needs 3-D keypoints that show both hips and shoulders")
    line = (centred[:, left] - centred[:, right]).sum(axis=(0, 1))
    length = float(np.hypot(line[0], line[2]))
    if not length > 0:
        raise ValueError("the left and right hips and shoulders lie in one point, seen from above")
    cosine, sine = line[0] / length, line[2] / length
    return centred @ np.array([[cosine, 0.0, -sine], [0.0, 1.0, 0.0], [sine, 0.0, cosine]])


def _scale(centred: np.ndarray, observed: np.ndarray, config: SequenceConfig) -> tuple[np.ndarray, float]:
    """(T, J, C) into [-1, 1], and what became 1."""
    if float(np.abs(centred).max()) <= 0:
        raise ValueError("all joints lie in one point")
    if config.scaling == "recording":
        scale = float(np.abs(centred).max())
        return centred / scale, scale
    if config.scaling == "torso":
        body = skeleton(config.skeleton)
        ends = [body.index(body.root), body.index("shoulder_center")]
        torso = float(np.median(np.linalg.norm(centred[:, ends[0]] - centred[:, ends[1]], axis=-1)))
        if not observed[ends].all() or torso <= 0:
            raise ValueError("the torso, from pelvis to shoulder_center, is never observed or has no length")
        return np.clip(centred / (TORSOS * torso), -1, 1), TORSOS * torso
    shown = centred[:, observed]
    low, high = shown.min(axis=(0, 1)), shown.max(axis=(0, 1))
    half = np.where(high > low, (high - low) / 2, 1.0)  # an axis without extent stays at 0
    scaled = np.where(observed[:, None], (centred - (low + high) / 2) / half, 0.0)
    return scaled, float(half.max())


def _means(xyz: np.ndarray, time_s: np.ndarray, grid: np.ndarray, rate_hz: float) -> np.ndarray:
    """(T, J, C) at `time_s` -> (n, J, C) at the times of a uniform grid, gaps bridged linearly.

    Each value is the mean of the linearly interpolated signal over 2 / rate around its time. This
    low-pass has its zero at the new Nyquist frequency, so faster motion is not folded back, and the pace
    task cannot be solved by looking for the high frequencies that interpolation removes.
    A joint with a coordinate that is never finite stays NaN.
    """
    flat = xyz.reshape(len(xyz), -1)
    out = np.full((len(grid), flat.shape[1]), np.nan)
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
    return out.reshape(len(grid), *xyz.shape[1:])


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
