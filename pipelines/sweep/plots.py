"""Pictures of a sweep: its trials as parallel coordinates, and how much each setting matters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.sweep.folder import Sweep, Trial
from pipelines.sweep.search import Told, as_optuna
from pipelines.sweep.space import Range

FEWEST_FOR_IMPORTANCES = 4


def importances(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, float]:
    """Share of the objective's variance that each setting explains among the finished trials (fANOVA).

    Empty if fewer than four trials finished, or if all came out the same.
    """
    finished = [trial for trial in trials if trial.status == "finished"]
    if len(finished) < FEWEST_FOR_IMPORTANCES or len({trial.value for trial in finished}) == 1:
        return {}
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = optuna.create_study(direction="minimize" if sweep.mode == "min" else "maximize")
    study.add_trials([as_optuna(sweep.space, Told(trial.params, trial.value)) for trial in finished])
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {path: float(share) for path, share in found.items()}


def draw_importances(shares: dict[str, float], path: Path) -> Path:
    """Bars, the most important setting on top; PNG."""
    figure, axes = _figure(7, 1 + 0.35 * len(shares))
    ordered = sorted(shares.items(), key=lambda item: item[1])
    axes.barh([name for name, _ in ordered], [share for _, share in ordered], height=0.6)
    axes.set_xlabel("share of the variance of the objective (fANOVA)")
    axes.set_xlim(0, 1)
    return _write(figure, path)


def draw_parallel(sweep: Sweep, trials: Sequence[Trial], path: Path) -> Path:
    """A line per finished or stopped trial over one axis per setting, coloured by the objective; PNG."""
    import matplotlib

    shown = [trial for trial in trials if trial.value is not None]
    values = [trial.value or 0.0 for trial in shown]
    figure, axes = _figure(2.2 + 1.8 * len(sweep.space), 4.5)
    low, high = min(values), max(values)
    colours = matplotlib.colormaps["viridis"]
    for trial, value in sorted(zip(shown, values, strict=True), key=lambda pair: pair[1]):
        share = (value - low) / (high - low) if high > low else 0.5
        heights = [_height(ranged, trial.params[ranged.path]) for ranged in sweep.space] + [share]
        style = {"alpha": 0.9} if trial.status == "finished" else {"alpha": 0.6, "linestyle": ":"}
        axes.plot(range(len(heights)), heights, color=colours(share), label=f"trial {trial.number}", **style)
    for place, ranged in enumerate(sweep.space):
        for height, text in _labels(ranged):
            axes.annotate(text, (place, height), fontsize=7, xytext=(3, 0), textcoords="offset points")
    for height, text in ((0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")):
        axes.annotate(text, (len(sweep.space), height), fontsize=7, xytext=(3, 0), textcoords="offset points")
    names = [ranged.path.partition(".")[2] for ranged in sweep.space]
    axes.set_xticks(range(len(names) + 1), [*names, sweep.tune.metric], fontsize=8)
    axes.grid(axis="x", color="grey", linewidth=0.6)
    axes.set_yticks([])
    axes.set_title("dotted = stopped early", fontsize=8)
    return _write(figure, path)


def _height(ranged: Range, value: Any) -> float:
    """Where a value lies on its axis, from 0 to 1."""
    if ranged.kind == "choice":
        return ranged.values.index(value) / (len(ranged.values) - 1)
    low, high = ranged.values
    if ranged.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _labels(ranged: Range) -> list[tuple[float, str]]:
    return [(_height(ranged, value), str(value)) for value in ranged.values]


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _write(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
