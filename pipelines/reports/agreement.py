"""How far a run agrees with the judges: metrics beside floors and published numbers, pictures, tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from pipelines.reports import charts, page
from pipelines.reports.material import RunMaterial
from pipelines.reports.page import Section
from pipelines.reports.published import published

MOST_ROWS = 200
_NAMES = {
    "spearman": "Spearman (95 %)",
    "mae": "MAE, points (95 %)",
    "rmse": "RMSE, points (95 %)",
    "relative_l2_x100": "R-l2 x 100 (95 %)",
    "micro_f1": "micro F1 (95 %)",
    "macro_f1": "macro F1 (95 %)",
}


def tiles(run: RunMaterial) -> list[Markup]:
    """The numbers to look at first."""
    metrics = run.metrics
    if not metrics:
        return []
    if "classes" in metrics:
        floor = metrics["majority_floor"]
        return [
            page.tiles(
                [
                    _tile(
                        "micro F1", metrics["micro_f1"], f"always {floor['group']}: {floor['micro_f1']:.2f}"
                    ),
                    _tile(
                        "macro F1", metrics["macro_f1"], f"always {floor['group']}: {floor['macro_f1']:.2f}"
                    ),
                ]
            )
        ]
    rho_floor, error_floor = _best_floor(metrics)
    rows = [
        _tile("Spearman", metrics["spearman"], rho_floor),
        _tile("error, points", metrics["mae"], error_floor),
    ]
    ceiling = metrics.get("human_ceiling", {})
    if ceiling.get("spearman") is not None:
        told = f"Spearman of one judge against the other six, {ceiling['n']} clips"
        rows.append(("judges", f"{ceiling['spearman']:.3f}", told))
    return [page.tiles(rows)]


def metrics_section(run: RunMaterial) -> Section:
    """Metrics with intervals, floors below them, and what others published."""
    metrics = run.metrics
    if not metrics:
        return Section("Test metrics", [_not_tested(run)])
    blocks = [page.table(_metric_rows(metrics), own=1)]
    blocks.append(
        page.note(
            f"{metrics['n']} test clips{_subjects(run)}. Brackets: 95 % bootstrap interval, all clips of a "
            "subject drawn together. All rows are measured on the same clips."
        )
    )
    if limits := metrics.get("score_range"):
        blocks.append(
            page.note(f"R-l2 divides by {limits['low']:g} to {limits['high']:g}: {limits['source']}.")
        )
    if "person_level" in metrics:
        rows = [_metric_row("by person", metrics["person_level"])]
        blocks += [page.heading("Another task: all recordings of a person at once"), page.table(rows)]
    return Section("Test metrics", [*blocks, *_published(run)])


def pictures_section(run: RunMaterial) -> Section:
    """Scatter, residuals, Bland-Altman and calibration, each with its reading in words."""
    if not run.told_scores or len(run.predictions) < 2:
        return Section("Agreement", [])
    predicted, true = run.arrays()
    kinds = [row["action_type"] or "" for row in run.predictions]
    bias, low, high = charts.limits_of_agreement(predicted, true)
    slope = float(np.polyfit(true, predicted - true, 1)[0]) if np.ptp(true) > 0 else float("nan")
    bins = max(2, min(10, len(true) // 8))
    made = [
        page.picture(
            charts.scatter(predicted, true, kinds),
            f"Scatter of {len(true)} test clips: predicted over judged score, judged from {true.min():.1f} "
            f"to {true.max():.1f}, predicted from {predicted.min():.1f} to {predicted.max():.1f}.",
            "Predicted against judged; dashed: equal.",
        ),
        page.picture(
            charts.residuals(predicted, true, kinds),
            f"Errors over the judged score; their trend is {slope:+.2f} points per point.",
            f"Errors over the judged score: trend {slope:+.2f} per point; below 0, high scores are "
            "underrated and low ones overrated.",
        ),
        page.picture(
            charts.bland_altman(predicted, true),
            f"Bland-Altman plot: bias {bias:+.2f} points, limits of agreement {low:+.2f} to {high:+.2f}.",
            f"Bland-Altman: bias {bias:+.2f}, 95 % limits of agreement {low:+.2f} to {high:+.2f} points.",
        ),
        page.picture(
            charts.calibration(predicted, true, bins),
            f"Calibration in {bins} groups of equal size: mean judged over mean predicted score.",
            f"Calibration: {bins} groups by predicted score, mean judged score of each with 95 % interval.",
        ),
    ]
    blocks = [page.pictures(made)]
    spans = [(r["low"], r["score"], r["high"]) for r in run.predictions if r["low"] is not None]
    if spans:
        inside = np.mean([low <= score <= high for low, score, high in spans])
        blocks.append(
            page.note(
                f"The span of the exemplars' votes holds the judged score of {inside:.0%} of {len(spans)} "
                "clips. It says how far the exemplars disagree, and promises no coverage."
            )
        )
    return Section("Agreement", blocks)


def tables_section(run: RunMaterial) -> Section:
    """Per action type, and per subject where subjects have several clips; classes as a confusion table."""
    if run.predictions and not run.told_scores:
        return Section("Classes", [_confusion(run)])
    if not run.told_scores:
        return Section("Per action and subject", [])
    blocks = [page.heading("Per action type"), page.table(_actions(run))]
    subjects = [row["subject_id"] for row in run.predictions]
    if all(subjects) and 1 < len(set(subjects)) < len(subjects):
        rows = _grouped(run, "subject_id", "subject")
        rows.sort(key=lambda row: -row["MAE"])
        title = f"Per subject, the largest error first ({len(rows)})"
        blocks.append(page.details(title, [page.table(rows[:MOST_ROWS])]))
    return Section("Per action and subject", blocks)


def _subjects(run: RunMaterial) -> str:
    """Of how many subjects, if they are named."""
    if all(row["subject_id"] for row in run.predictions):
        return f" of {run.metrics['subjects']} subjects"
    return ", of which not all say who performs; such a clip counts as a subject of its own"


def _tile(name: str, number: dict[str, Any], below: str) -> tuple[str, str, str]:
    if number["value"] is None:
        return name, "none", f"{number['reason']}; {below}"
    value = f"{number['value']:.3f}" if abs(number["value"]) < 1.5 else f"{number['value']:.2f}"
    if number["low"] is not None:
        below = f"{number['low']:.2f} to {number['high']:.2f}; {below}"
    return name, value, below


def _best_floor(metrics: dict[str, Any]) -> tuple[str, str]:
    """The strongest guess without video, for either number."""
    if "median_floor" in metrics:
        return "a constant has none", f"median of training: {metrics['median_floor']['mae']:.2f}"
    floors = metrics.get("baselines", {})
    if not floors:
        return "no floor", "no floor"
    rho = max(floors, key=lambda name: floors[name]["spearman"]["value"] or -1.0)
    error = min(floors, key=lambda name: floors[name]["mae"]["value"])
    return (
        f"{rho}: {floors[rho]['spearman']['value'] or 0:.2f}",
        f"{error}: {floors[error]['mae']['value']:.2f}",
    )


def _metric_rows(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [_metric_row("this run", metrics), *_mean_of_actions(metrics)]
    if floor := metrics.get("median_floor"):
        rows.append({"": "median of the training scores", "MAE, points (95 %)": f"{floor['mae']:.2f}",
                     "RMSE, points (95 %)": f"{floor['rmse']:.2f}"})  # fmt: skip
    if floor := metrics.get("majority_floor"):
        rows.append({"": f"always {floor['group']}", "micro F1 (95 %)": f"{floor['micro_f1']:.2f}",
                     "macro F1 (95 %)": f"{floor['macro_f1']:.2f}"})  # fmt: skip
    rows += [_metric_row(name, found) for name, found in metrics.get("baselines", {}).items()]
    ceiling = metrics.get("human_ceiling", {})
    if ceiling.get("spearman") is not None:
        told = f"{ceiling['spearman']:.3f}"
        rows.append({"": f"one judge against the other six ({ceiling['n']} clips)", "Spearman (95 %)": told})
    return rows


def _mean_of_actions(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """As the papers of exercises average: rank correlations inside each action type, where each has one."""
    kinds = metrics.get("by_action_type", {}).values()
    values = [row["spearman"]["value"] for row in kinds if isinstance(row["spearman"], dict)]
    if len(values) < 2 or None in values:
        return []
    return [{"": f"its mean over {len(values)} action types", "Spearman (95 %)": f"{np.mean(values):.3f}"}]


def _metric_row(name: str, metrics: dict[str, Any]) -> dict[str, Any]:
    return {"": name} | {shown: interval(metrics[key]) for key, shown in _NAMES.items() if key in metrics}


def interval(number: dict[str, Any]) -> str:
    """A metric with its interval, or why there is none."""
    if number["value"] is None:
        return f"none: {number['reason']}"
    if number["low"] is None:
        return f"{number['value']:.3f}"
    return f"{number['value']:.3f} [{number['low']:.3f}, {number['high']:.3f}]"


def _published(run: RunMaterial) -> list[Markup]:
    protocol, rows = published(run.datasets)
    if not rows:
        return []
    return [
        page.heading("Published for this data set"),
        page.table(rows),
        page.note(f"{protocol} Not measured here, and no comparison on equal terms."),
    ]


def _not_tested(run: RunMaterial) -> Markup:
    if run.phase == "pretrain":
        return page.note("Pretraining reads no scores; the test clips were not touched.")
    command = f"aqa evaluate {run.folder} --store {run.provenance.get('store', 'STORE')}"
    return page.warning(f"The test clips were not touched yet. Measure the run with: {command}")


def _grouped(run: RunMaterial, column: str, shown: str) -> list[dict[str, Any]]:
    from aqa_models.metrics import spearman_rho

    predicted, true = run.arrays()
    names = np.array([row[column] or "" for row in run.predictions])
    floors = [row["median_floor"] for row in run.predictions]
    rows = []
    for name in sorted(set(names)):
        mine = np.flatnonzero(names == name)
        error = predicted[mine] - true[mine]
        rho = spearman_rho(predicted[mine], true[mine]) if len(mine) > 2 else float("nan")
        row = {
            shown: name,
            "clips": len(mine),
            "mean judged": float(true[mine].mean()),
            "MAE": float(np.abs(error).mean()),
            "bias": float(error.mean()),
            "Spearman": None if np.isnan(rho) else rho,
        }
        known = [abs(floors[k] - true[k]) for k in mine if floors[k] is not None]
        rows.append(row | {"MAE of the median": float(np.mean(known)) if known else None})
    return rows


def _actions(run: RunMaterial) -> list[dict[str, Any]]:
    """Per action type, with intervals where the evaluation gave them."""
    rows = _grouped(run, "action_type", "action")
    for row in rows:
        known = run.metrics.get("by_action_type", {}).get(row["action"], {})
        for key, shown in (("Spearman", "spearman"), ("MAE", "mae")):
            if isinstance(known.get(shown), dict):
                row[key] = interval(known[shown])
    return rows


def _confusion(run: RunMaterial) -> Markup:
    pairs = [(row["group"] or "", row["predicted_group"] or "") for row in run.predictions]
    names = sorted({name for pair in pairs for name in pair})
    return page.table(
        [{"judged": true} | {f"said {told}": pairs.count((true, told)) for told in names} for true in names]
    )
