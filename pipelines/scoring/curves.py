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
from pipelines.scoring.explanation import STRANGE, Curve, Difference, limb_of
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
FORESHORTENED = 0.3
"""A bone that looks shorter than this, against its longest, points at the camera: no angle is told."""
DISAGREE_DEG = 90.0
"""Where the references differ by more among themselves, for example under water, they are no reference."""
STEADY_S = 0.16
"""A joint that jumps away for a shorter time than half of this was not seen rightly."""


def joint_angles(keypoints: np.ndarray, confidence: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Angles in the plane of the picture, or in space.

    Args:
        keypoints: (T, J, 2) px, or (T, J, 3).
        confidence: (T, J) in [0, 1].
        name: of the skeleton.

    Returns:
        "left knee" and so on -> (T,) degrees, 180 = straight; NaN where a joint is not surely seen or a bone
        points at the camera.
        Joints that the skeleton lacks are left out.
    """
    body, found = skeleton(name), {}
    known = np.where((confidence >= SEEN)[..., None], keypoints.astype(np.float64), np.nan)
    for joint, ends in ANGLES.items():
        for side in SIDES:
            names = [f"{side}_{end}" for end in ends]
            if all(one in body.joints for one in names):
                a, middle, b = (known[:, body.index(one)] for one in names)
                angle = _angle(a - middle, b - middle)
                towards = _foreshortened(a - middle) | _foreshortened(b - middle)
                found[f"{side} {joint}"] = np.where(towards, np.nan, angle)
    return found


def _foreshortened(bone: np.ndarray) -> np.ndarray:
    """(T,) bool: where a bone (T, C) points at or away from the camera; its direction cannot be told then."""
    length = np.linalg.norm(bone, axis=1)
    seen = np.isfinite(length)
    if not seen.any():
        return ~seen
    return length < FORESHORTENED * np.quantile(length[seen], 0.9)


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


def own_curves(pose: Mapping[str, Any]) -> tuple[Curve, ...]:
    """Curves without references."""
    nothing = np.full(len(pose["time_s"]), np.nan)
    found = steady_angles(pose)
    return tuple(Curve(joint, pose["time_s"], a, nothing, nothing, nothing) for joint, a in found.items())


def curves_png(curves: tuple[Curve, ...], verdict: Verdict, differences: tuple[Difference, ...]) -> bytes:
    """The angles over time, left beside right, with the borders of the parts; empty if there are none.

    Grey: the references, a line for the one exemplar or the middle of the control group, and a band that
    holds four of five. Yellow: where a joint differs most.
    """
    shown = [joint for joint in ANGLES if any(one.joint.endswith(f" {joint}") for one in curves)]
    if not shown:
        return b""
    figure, axes = _grid(len(shown), 8.4, 1.45 * len(shown) + 0.7)
    for row, joint in zip(axes, shown, strict=True):
        for axis, side, colour in zip(row, SIDES, (LEFT, RIGHT), strict=True):
            curve = next((one for one in curves if one.joint == f"{side} {joint}"), None)
            if curve is not None:
                _draw_curve(axis, curve, colour, [one for one in differences if one.joint == curve.joint][:2])
            for part in verdict.parts[1:]:
                axis.axvline(part.start_s, color="0.6", lw=0.8)
            axis.set_ylim(0, 185)
            axis.set_yticks([0, 90, 180])
            axis.set_title(f"{side} {joint}", fontsize=9, loc="left", pad=2)
    for row in axes:
        row[0].set_ylabel("degrees")
    for axis in axes[-1]:
        axis.set_xlabel("time (s)")
    handles, names = axes[0][0].get_legend_handles_labels()
    if names:
        figure.legend(handles, names, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return _png(figure)


def _draw_curve(axis: Any, curve: Curve, colour: tuple[int, int, int], strange: list[Difference]) -> None:
    if np.isfinite(curve.low).any():
        axis.fill_between(
            curve.time_s, curve.low, curve.high, color="0.87", label="four of five references", lw=0
        )
        axis.plot(curve.time_s, curve.reference, color="0.5", lw=1.2, label="reference")
    axis.plot(curve.time_s, curve.own, color=_hex(colour), lw=1.8, label="this performance")
    for one in strange:
        if one.strength >= STRANGE:
            axis.axvspan(one.start_s, one.end_s, color="#f0e442", alpha=0.45, lw=0, zorder=0)


def timeline_png(verdict: Verdict, curves: tuple[Curve, ...]) -> bytes:
    """What each part adds, over its time; below, how far each limb leaves the range of the references."""
    limbs = _outside(curves)
    figure, axes = _figure(1 + bool(limbs), 8.4, 2.2 + 1.5 * bool(limbs))
    points, names = axes[0], []
    reach = max(max(abs(part.delta) for part in verdict.parts), 1e-6)
    for part in verdict.parts:
        colour = _hex(GAIN if part.delta >= 0 else LOSS)
        length = part.end_s - part.start_s
        points.bar(part.start_s, part.delta, width=length, align="edge", color=colour, edgecolor="white")
        above = part.delta + 0.06 * reach if part.delta >= 0 else part.delta - 0.06 * reach
        middle = part.start_s + length / 2
        side = "bottom" if part.delta >= 0 else "top"
        points.text(middle, above, f"{part.delta:+.2f}", ha="center", va=side, fontsize=9)
        names.append((middle, part.name))
    points.axhline(0, color="0.3", lw=0.8)
    points.set_ylim(-1.45 * reach, 1.45 * reach)
    points.set_ylabel("points")
    top = points.secondary_xaxis("top")
    top.set_xticks([at for at, _ in names], [name for _, name in names], fontsize=9)
    top.tick_params(length=0)
    top.spines["top"].set_visible(False)
    if limbs:
        _draw_limbs(figure, axes[1], curves[0].time_s, limbs)
        for part in verdict.parts[1:]:
            axes[1].axvline(part.start_s, color="0.4", lw=0.8)
    axes[-1].set_xlim(verdict.parts[0].start_s, verdict.parts[-1].end_s)
    axes[-1].set_xlabel("time (s)")
    return _png(figure)


def _draw_limbs(figure: Any, axis: Any, time_s: np.ndarray, limbs: dict[str, np.ndarray]) -> None:
    table = np.ma.masked_invalid(np.stack(list(limbs.values())))
    step = float(np.median(np.diff(time_s)))
    edges = np.append(time_s, time_s[-1] + step)
    mesh = axis.pcolormesh(edges, np.arange(len(limbs) + 1), table, cmap="YlOrBr", vmin=0, vmax=60)
    axis.set_yticks(np.arange(len(limbs)) + 0.5, list(limbs))
    axis.invert_yaxis()
    axis.set_facecolor("0.93")
    axis.tick_params(length=0)
    bar = figure.colorbar(mesh, ax=axis, ticks=[0, 30, 60], pad=0.01, aspect=8)
    bar.ax.set_yticklabels(["0", "30", "60+"], fontsize=8)
    bar.set_label("degrees\noutside", fontsize=8)


def _outside(curves: tuple[Curve, ...]) -> dict[str, np.ndarray]:
    """Limb -> (T,) degrees by which its joints leave the range of the references; empty without references.

    NaN where a joint is not seen, or the references disagree.
    """
    limbs: dict[str, list[np.ndarray]] = {}
    for one in curves:
        if np.isfinite(one.low).any():
            away = np.maximum(np.maximum(one.low - one.own, one.own - one.high), 0)
            away = np.where(one.high - one.low > DISAGREE_DEG, np.nan, away)
            limbs.setdefault(limb_of(one.joint), []).append(away)
    return {limb: np.fmax.reduce(away) for limb, away in sorted(limbs.items())}


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


def _grid(rows: int, width: float, height: float) -> tuple[Any, list[list[Any]]]:
    """As `_figure`, with a column for each side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, len(SIDES), sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, [list(row) for row in axes]


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
