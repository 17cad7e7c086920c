"""Motions of the store -> performances as the angles expert reads them."""

from __future__ import annotations

import numpy as np

from aqa_models.angles_expert.performance import Performance
from aqa_models.body_angles import body_channels
from pipelines.errors import DataError
from pipelines.motion import Motion


def make_performances(motions: list[Motion], rate_hz: float, repetitions: bool) -> list[Performance]:
    """Body angles of every motion at one rate.

    Args:
        motions: with 3-D keypoints.
        rate_hz: frames per second.
        repetitions: whether the expert reads marked repetitions, so that each motion must have some.

    Raises:
        DataError: the keypoints are two-dimensional, joints that are needed are never seen, time runs
            backwards, or no repetition is marked; names the clip.
    """
    performances = []
    for motion in motions:
        where = f"clip {motion.clip_id}"
        if motion.keypoints.shape[2] != 3:
            raise DataError(
                where,
                f"has {motion.keypoints.shape[2]}-D poses, and body angles need 3-D ones",
                "train the two-stage expert on it (`aqa train expert`), or import 3-D poses",
            )
        try:
            keypoints = at_rate(motion.keypoints, motion.time_s, rate_hz)
            channels, _ = body_channels(keypoints, motion.skeleton, rate_hz)
        except ValueError as error:
            raise DataError(where, str(error), "correct the poses or take the clip out") from error
        marked = frames_of(motion, rate_hz, len(channels)) if repetitions else ()
        if repetitions and not marked:
            raise DataError(
                where,
                "has no marked repetitions, and the angles expert was to read them",
                "import them (`aqa data import kimore --repetitions`), or train without `--repetitions`",
            )
        performances.append(Performance(channels, motion.action_type, motion.subject, motion.score, marked))
    return performances


def frames_of(motion: Motion, rate_hz: float, frames: int) -> tuple[tuple[int, int], ...]:
    """First frame of each marked repetition and the one behind its last, on the clock of `at_rate`.

    Args:
        motion: of the clip.
        rate_hz: of the clock.
        frames: how many the clip has on it; what lies before or behind them is cut, an empty one left out.
    """
    begin = motion.time_s[0]
    spans = (
        (max(0, round((start - begin) * rate_hz)), min(frames, round((end - begin) * rate_hz) + 1))
        for start, end, _ in motion.repetitions
    )
    return tuple((first, end) for first, end in spans if first < end)


def at_rate(keypoints: np.ndarray, time_s: np.ndarray, rate_hz: float) -> np.ndarray:
    """Keypoints on an even clock, interpolated linearly over gaps.

    Args:
        keypoints: (T, J, C), NaN = not available.
        time_s: (T,) seconds, not decreasing.
        rate_hz: wanted.

    Returns:
        (T', J, C) float64 from the first to the last stamp; a coordinate that is never finite stays NaN.

    Raises:
        ValueError: the stamps decrease or are not finite.
    """
    if not np.isfinite(time_s).all() or (np.diff(time_s) < 0).any():
        raise ValueError("time stamps must be finite and must not decrease")
    frames = int(np.floor((time_s[-1] - time_s[0]) * rate_hz + 1e-6)) + 1
    clock = time_s[0] + np.arange(frames) / rate_hz
    flat = keypoints.reshape(len(keypoints), -1).astype(np.float64)
    even = np.full((frames, flat.shape[1]), np.nan)
    for column, values in enumerate(flat.T):
        finite = np.isfinite(values)
        if finite.any():
            even[:, column] = np.interp(clock, time_s[finite], values[finite])
    return even.reshape(frames, *keypoints.shape[1:])
