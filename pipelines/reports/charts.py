"""Pictures of predicted against judged scores and the like, as SVG: sharp on paper, small in the page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Told apart by people who do not tell red from green (Okabe and Ito 2008).
BLUE, ORANGE, GREEN, GREY, SKY = "#0072b2", "#d55e00", "#009e73", "#666666", "#56b4e9"
COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#e69f00", SKY, GREY)
MOST_KINDS = len(COLOURS)


def scatter(predicted: np.ndarray, true: np.ndarray, kinds: Sequence[str]) -> bytes:
    """Predicted over judged scores (N,), with the line of perfect agreement; few kinds are coloured."""
    figure, axis = figure_of(5, 4.4)
    _points(axis, true, predicted, kinds)
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    axis.plot(ends, ends, color="grey", linewidth=0.9, linestyle="--")
    axis.set(xlabel="judged score", ylabel="predicted score")
    return svg(figure)


def residuals(predicted: np.ndarray, true: np.ndarray, kinds: Sequence[str]) -> bytes:
    """Errors (N,) over the judged score: models drawn to the mean lean downwards."""
    figure, axis = figure_of(5, 4.4)
    error = predicted - true
    _points(axis, true, error, kinds)
    axis.axhline(0, color="grey", linewidth=0.9, linestyle="--")
    if len(true) > 2 and np.ptp(true) > 0:
        slope, base = np.polyfit(true, error, 1)
        ends = np.array([true.min(), true.max()])
        axis.plot(ends, slope * ends + base, color=GREY, linewidth=1.2)
    axis.set(xlabel="judged score", ylabel="predicted - judged (points)")
    return svg(figure)


def bland_altman(predicted: np.ndarray, true: np.ndarray) -> bytes:
    """Difference over mean of both (N,), with bias and 95 % limits of agreement (Bland and Altman 1986)."""
    figure, axis = figure_of(5, 4.4)
    bias, low, high = limits_of_agreement(predicted, true)
    axis.scatter((predicted + true) / 2, predicted - true, s=14, color=BLUE, alpha=0.7, linewidths=0)
    for height, style in ((bias, "-"), (low, "--"), (high, "--")):
        axis.axhline(height, color=ORANGE, linewidth=1.1, linestyle=style)
        axis.annotate(f"{height:+.1f}", (1.0, height), xycoords=("axes fraction", "data"), fontsize=8,
                      xytext=(-2, 3), textcoords="offset points", ha="right")  # fmt: skip
    axis.set(xlabel="mean of judged and predicted", ylabel="predicted - judged (points)")
    return svg(figure)


def limits_of_agreement(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    """Mean error, and mean error -+ 1.96 deviations of the error, in points."""
    error = predicted - true
    spread = 1.96 * float(error.std(ddof=1)) if len(error) > 1 else 0.0
    return float(error.mean()), float(error.mean()) - spread, float(error.mean()) + spread


def calibration(predicted: np.ndarray, true: np.ndarray, bins: int) -> bytes:
    """Mean judged over mean predicted score of `bins` groups of equal size, with 95 % intervals."""
    figure, axis = figure_of(5, 4.4)
    groups = np.array_split(np.argsort(predicted, kind="stable"), bins)
    x, y = (np.array([values[rows].mean() for rows in groups]) for values in (predicted, true))
    error = [1.96 * true[r].std(ddof=1) / np.sqrt(len(r)) if len(r) > 1 else 0.0 for r in groups]
    axis.errorbar(x, y, yerr=error, fmt="o", color=BLUE, capsize=3, linewidth=1.1, markersize=5)
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    axis.plot(ends, ends, color="grey", linewidth=0.9, linestyle="--")
    axis.set(xlabel="mean predicted score", ylabel="mean judged score")
    return svg(figure)


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, mark: float | None = None
) -> bytes:
    """Named lines of (x, y); `mark` = a vertical line, e.g. the epoch that was chosen."""
    figure, axis = figure_of(5.6, 3.6)
    for (name, (at, values)), colour in zip(lines.items(), COLOURS * len(lines), strict=False):
        axis.plot(at, values, label=name, color=colour, linewidth=1.4, marker="." if len(at) < 4 else None)
    if mark is not None:
        axis.axvline(mark, color=GREY, linewidth=0.9, linestyle=":")
    axis.set(xlabel=x, ylabel=y)
    if len(lines) > 1:
        axis.legend(fontsize=8, frameon=False)
    return svg(figure)


def histogram(values: np.ndarray, x: str, mark: float | None = None) -> bytes:
    """How often which value (N,) occurs."""
    figure, axis = figure_of(4.6, 2.8)
    axis.hist(values, bins=min(30, max(5, len(values) // 4)), color=SKY, edgecolor="white", linewidth=0.5)
    if mark is not None:
        axis.axvline(mark, color=ORANGE, linewidth=1.2)
    axis.set(xlabel=x, ylabel="clips")
    return svg(figure)


def bars(shares: dict[str, float], x: str, limit: float | None = None) -> bytes:
    """Named horizontal bars, the first on top."""
    figure, axis = figure_of(5.6, 0.8 + 0.27 * len(shares))
    names = list(shares)
    axis.barh(range(len(names)), list(shares.values()), color=SKY, height=0.65)
    axis.set_yticks(range(len(names)))
    axis.set_yticklabels(names, fontsize=8, parse_math=False)
    axis.invert_yaxis()
    if limit is not None:
        axis.set_xlim(0, limit)
    axis.set_xlabel(x)
    return svg(figure)


def ribbons(rows: Sequence[tuple[str, Sequence[float], Sequence[float]]], length: float, x: str) -> bytes:
    """Procedures of performances as ribbons, the annotated above the predicted.

    Args:
        rows: name, annotated and predicted transitions on an axis from 0 to `length`.
        length: of a performance.
        x: what the axis is.
    """
    figure, axis = figure_of(7.6, 0.9 + 0.5 * len(rows))
    for row, (_, true, predicted) in enumerate(rows):
        for offset, cuts, alpha in ((-0.2, true, 1.0), (0.2, predicted, 0.6)):
            if len(cuts):
                edges = [0.0, *cuts, length]
                widths = np.diff(edges)
                colours = [COLOURS[k % MOST_KINDS] for k in range(len(widths))]
                axis.barh([row + offset] * len(widths), widths, left=edges[:-1], height=0.36,
                          color=colours, alpha=alpha, edgecolor="white", linewidth=0.6)  # fmt: skip
    axis.set_yticks(range(len(rows)))
    axis.set_yticklabels([name for name, _, _ in rows], fontsize=8, parse_math=False)
    axis.invert_yaxis()
    axis.set_xlim(0, length)
    axis.set_xlabel(x)
    return svg(figure)


def figure_of(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches and its axes."""
    from matplotlib.figure import Figure  # without pyplot: no window, no state

    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.add_subplot()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def svg(figure: Any) -> bytes:
    """The same figure always gives the same bytes."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "aqa", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _points(axis: Any, x: np.ndarray, y: np.ndarray, kinds: Sequence[str]) -> None:
    names = sorted(set(kinds))
    if not 1 < len(names) <= MOST_KINDS:
        axis.scatter(x, y, s=14, color=BLUE, alpha=0.7, linewidths=0)
        return
    for name, colour in zip(names, COLOURS, strict=False):
        mine = np.array([kind == name for kind in kinds])
        axis.scatter(x[mine], y[mine], s=14, color=colour, alpha=0.75, linewidths=0, label=name)
    legend = axis.legend(fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
