"""Joint angles of a performance as curves, and what each part adds as bars: pictures for the page."""

from __future__ import annotations

import io
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.ndimage import median_filter

from aqa_models.skeletons import skeleton
from pipelines.scoring.drawing import GAIN, LEFT, LOSS, RIGHT
from pipelines.scoring.verdict import Verdict
from pipelines.stages.quality import SEEN

# Joint: the bone ends between which its angle lies.
ANGLES = {
    "knee": ("hip", "knee", "ankle"),
    "hip": ("shoulder", "hip", "knee"),
    "elbow": ("shoulder", "elbow", "wrist"),
    "shoulder": ("hip", "shoulder", "elbow"),
}
SIDES = ("left", "right")
STEADY_S = 0.16
"""A joint that jumps away for a shorter time than half of this was not seen rightly."""


def joint_angles(keypoints: np.ndarray, confidence: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Angles in the plane of the picture, or in space.

    Args:
        keypoints: (T, J, 2) px, or (T, J, 3).
        confidence: (T, J) in [0, 1].
        name: of the skeleton.

    Returns:
        "left knee" and so on -> (T,) degrees, 180 = straight; NaN where a joint is not surely seen.
        Joints that the skeleton lacks are left out.
    """
    body, found = skeleton(name), {}
    known = np.where((confidence >= SEEN)[..., None], keypoints.astype(np.float64), np.nan)
    for joint, ends in ANGLES.items():
        for side in SIDES:
            names = [f"{side}_{end}" for end in ends]
            if all(one in body.joints for one in names):
                a, middle, b = (known[:, body.index(one)] for one in names)
                found[f"{side} {joint}"] = _angle(a - middle, b - middle)
    return found


def steady_angles(pose: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """`joint_angles` of a pose without single wrong frames: a median over STEADY_S; NaN stays NaN."""
    found = joint_angles(pose["keypoints"], pose["confidence"], pose["skeleton"])
    step = np.median(np.diff(pose["time_s"])) if len(pose["time_s"]) > 1 else STEADY_S
    window = 1 + 2 * round(STEADY_S / 2 / max(float(step), 1e-3))
    return {joint: _steady(angle, window) for joint, angle in found.items()}


def _steady(angle: np.ndarray, window: int) -> np.ndarray:
    seen = np.isfinite(angle)
    if seen.sum() < 2:
        return angle
    places = np.arange(len(angle))
    whole = np.interp(places, places[seen], angle[seen])
    return np.where(seen, median_filter(whole, window, mode="nearest"), np.nan)


def _angle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(T,) degrees between (T, 2) or (T, 3) vectors."""
    dot = (u * v).sum(axis=1)
    square = (u * u).sum(axis=1) * (v * v).sum(axis=1) - dot**2
    return np.degrees(np.arctan2(np.sqrt(np.maximum(square, 0)), dot))


def curves_png(pose: dict[str, Any], verdict: Verdict) -> bytes:
    """The angles over time, left and right, with the borders of the parts; empty if there are none."""
    found = joint_angles(pose["keypoints"], pose["confidence"], pose["skeleton"])
    shown = [joint for joint in ANGLES if any(f"{side} {joint}" in found for side in SIDES)]
    if not shown:
        return b""
    figure, axes = _figure(len(shown), 6.4, 1.5 * len(shown) + 0.5)
    styles = {"left": ("-", LEFT), "right": ("--", RIGHT)}
    for axis, joint in zip(axes, shown, strict=True):
        for side, (style, colour) in styles.items():
            if f"{side} {joint}" in found:
                axis.plot(
                    pose["time_s"], found[f"{side} {joint}"], style, color=_hex(colour), label=side, lw=1.6
                )
        for part in verdict.parts[1:]:
            axis.axvline(part.start_s, color="0.6", lw=0.8)
        axis.set_ylabel(f"{joint} (deg)")
        axis.set_ylim(0, 185)
        axis.set_yticks([0, 90, 180])
    axes[0].legend(loc="lower right", ncols=2, fontsize=8)
    axes[-1].set_xlabel("time (s)")
    return _png(figure)


def bars_png(verdict: Verdict) -> bytes:
    """From the base over the parts to the score, as a waterfall."""
    figure, axes = _figure(1, 6.4, 0.42 * (len(verdict.parts) + 2) + 0.8)
    axis = axes[0]
    names = ["base", *(part.name for part in verdict.parts), "score"]
    steps = [verdict.base, *np.cumsum([verdict.base, *(p.delta for p in verdict.parts)])[1:], verdict.score]
    reach = np.ptp(steps) or 1.0
    floor = min(steps) - 0.35 * reach
    axis.barh(0, verdict.base - floor, left=floor, color="0.7")
    for row, (before, after) in enumerate(pairwise(steps[:-1]), start=1):
        colour = _hex(GAIN if after >= before else LOSS)
        axis.barh(row, after - before, left=before, color=colour)
        axis.annotate(f"{after - before:+.2f}", (max(before, after), row), (4, 0),
                      textcoords="offset points", va="center", fontsize=8)  # fmt: skip
    axis.barh(len(names) - 1, verdict.score - floor, left=floor, color="0.35")
    for row, value in ((0, verdict.base), (len(names) - 1, verdict.score)):
        axis.annotate(
            f"{value:.2f}", (value, row), (4, 0), textcoords="offset points", va="center", fontsize=8
        )
    axis.set_yticks(range(len(names)), names)
    axis.set_xlim(floor, max(steps) + 0.25 * reach)
    axis.invert_yaxis()
    axis.set_xlabel("points")
    return _png(figure)


def _figure(rows: int, width: float, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # without pyplot: no window, no state

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
