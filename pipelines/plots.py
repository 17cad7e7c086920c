"""Pictures of a run: losses over the epochs, predicted against judged scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def loss_curves(rows: list[dict[str, float]], path: Path) -> Path:
    """Draws every loss of training and validation over the epochs.

    Args:
        rows: of metrics.jsonl: epoch, and values by name; what has `loss` in its name is drawn.
        path: PNG file to write.
    """
    figure, axes = _figure("epoch", "loss")
    for name in sorted({name for row in rows for name in row if "loss" in name}):
        drawn = [row for row in rows if name in row]
        values = [row[name] for row in drawn]
        axes.plot([row["epoch"] for row in drawn], values, label=name, linewidth=1.2)
        if len(values) > 1 and min(values) > 0 and max(values) > 30 * min(values):
            axes.set_yscale("log")
    axes.legend(fontsize=8)
    return _write(figure, path)


def score_scatter(rows: list[dict[str, Any]], path: Path) -> Path | None:
    """Draws predicted against judged scores, coloured by action type; None if no row has both.

    Args:
        rows: of PREDICTIONS.
        path: PNG file to write.
    """
    both = [row for row in rows if row.get("score") is not None and row.get("predicted") is not None]
    if not both:
        return None
    figure, axes = _figure("judged score", "predicted score")
    kinds = sorted({row["action_type"] or "" for row in both})
    for kind in kinds:
        chosen = [row for row in both if (row["action_type"] or "") == kind]
        axes.scatter([r["score"] for r in chosen], [r["predicted"] for r in chosen], s=12, label=kind)
    ends = np.array([[row["score"], row["predicted"]] for row in both])
    axes.plot(*[[ends.min(), ends.max()]] * 2, color="grey", linewidth=0.8, linestyle="--")
    if 1 < len(kinds) <= 12:
        axes.legend(fontsize=8)
    return _write(figure, path)


def _figure(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _write(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
