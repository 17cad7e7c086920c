"""The page of a sweep: its trials, the best one, and which settings mattered."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipelines.loop import read_metrics
from pipelines.reports import charts, page
from pipelines.reports.page import Section
from pipelines.sweep import best as outcome
from pipelines.sweep import plots
from pipelines.sweep.folder import Sweep, Trial
from pipelines.sweep.plan import read_sweep
from pipelines.tracking import flatten

SHOWN = 6  # trials whose course is drawn


def sweep_page(folder: Path) -> str:
    """The page (HTML) of a sweep, finished or not.

    Raises:
        CorruptError: a file of the sweep cannot be read.
    """
    sweep = read_sweep(folder.absolute())
    trials = sweep.trials()
    best = outcome.best_of(sweep, trials)
    sections = [
        Section("Trials", _trials(sweep, trials)),
        Section("What mattered", _pictures(sweep, trials)),
        Section("Course of the best", _courses(sweep, trials)),
        Section("Failed", _failed(trials)),
        Section("Cost", [page.facts(_cost(trials))]),
        Section("Provenance", _provenance(sweep, best)),
    ]
    return page.page(f"Sweep: {folder.name}", _banner(sweep, trials, best), sections)


def _banner(sweep: Sweep, trials: list[Trial], best: Trial | None) -> list[Markup]:
    counts = Counter(trial.status for trial in trials)
    blocks = [page.paragraph(f"Search of settings of {sweep.target}, {sweep.tune.trials} trials.")]
    if not all(trial.ended for trial in trials):
        blocks.append(page.warning("Some trials have not ended; what is shown is what there is so far."))
    if best is not None and best.value is not None:
        finished = f"{sweep.mode}imum of {counts['finished']} finished trials"
        rows = [
            ("best trial", f"{best.number}", sweep.trial_folder(best.number).name),
            (sweep.tune.metric, f"{best.value:.4g}", finished),
            ("trials", f"{len(trials)}", ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))),
        ]
        blocks.append(page.tiles(rows))
    blocks.append(
        page.note(
            "Test clips never reached a trial: the sweep dropped them before it wrote its rows. The best of "
            "many validation numbers is too good; measure the best run with aqa evaluate, once."
        )
    )
    return blocks


def _trials(sweep: Sweep, trials: list[Trial]) -> list[Markup]:
    rows = outcome.rows_of(sweep, trials)
    exact = [sweep.tune.metric, *(ranged.path for ranged in sweep.space)]
    rows = [row | {name: page.text_of(row[name]) for name in exact} for row in rows]
    finished = sum(trial.status == "finished" for trial in trials)
    return [page.table(rows, own=min(1, finished))] if rows else [page.note("No trial has begun.")]


def _pictures(sweep: Sweep, trials: list[Trial]) -> list[Markup]:
    """As `aqa tune` draws them, from what the folder holds now."""
    if all(trial.value is None for trial in trials):
        return []
    blocks = []
    with tempfile.TemporaryDirectory() as folder:
        path = plots.draw_parallel(sweep, trials, Path(folder) / "parallel.png")
        paths = ", ".join(ranged.path for ranged in sweep.space)
        alt = f"Parallel coordinates of the trials over {paths}, coloured by {sweep.tune.metric}."
        blocks.append(
            page.picture(path.read_bytes(), alt, "A line per trial; the last axis is the objective.")
        )
        shares = plots.importances(sweep, trials)
        if shares:
            path = plots.draw_importances(shares, Path(folder) / "importances.png")
            told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
            caption = "Share of the objective's variance that each setting explains."
            blocks.append(page.picture(path.read_bytes(), f"Importance of the settings: {told}.", caption))
    if not shares:
        blocks.append(page.note("Too few different finished trials to say which settings mattered."))
    return blocks


def _courses(sweep: Sweep, trials: list[Trial]) -> list[Markup]:
    drawn: dict[str, Any] = {}
    for trial in [t for t in outcome.ranking(sweep, trials) if t.value is not None][:SHOWN]:
        rows = read_metrics(sweep.trial_folder(trial.number) / "metrics.jsonl")
        rows = [row for row in rows if sweep.tune.metric in row]
        drawn[f"trial {trial.number}"] = [r["epoch"] for r in rows], [r[sweep.tune.metric] for r in rows]
    drawn = {name: line for name, line in drawn.items() if line[0]}
    if not drawn:
        return []
    ends = ", ".join(f"{name} ends at {line[1][-1]:.3g}" for name, line in drawn.items())
    return [page.picture(charts.curves(drawn, "epoch", sweep.tune.metric), f"{sweep.tune.metric}: {ends}.")]


def _failed(trials: list[Trial]) -> list[Markup]:
    rows = [{"trial": trial.number, "why": trial.error} for trial in trials if trial.status == "failed"]
    return [page.table(rows)] if rows else []


def _cost(trials: list[Trial]) -> dict[str, Any]:
    return {
        "training of all trials, seconds": round(sum(trial.seconds for trial in trials), 1),
        "epochs of all trials": sum(trial.epochs for trial in trials),
        "trials stopped early": sum(trial.status == "stopped" for trial in trials),
    }


def _provenance(sweep: Sweep, best: Trial | None) -> list[Markup]:
    blocks = []
    if best is not None and "store" in sweep.provenance:
        blocks += [page.paragraph("Trains the best trial again:")]
        blocks.append(page.code("\n".join(outcome.train_commands(sweep))))
    space = {one.path: f"{one.kind} {', '.join(map(str, one.values))}" for one in sweep.space}
    told = {"folder": str(sweep.folder), "pretrained run": sweep.pretrained and str(sweep.pretrained)}
    told |= {f"store: {name}": value for name, value in sweep.provenance.items()}
    blocks += [page.heading("Space"), page.facts(space), page.heading("Search")]
    blocks += [
        page.facts(flatten(sweep.tune.model_dump(mode="json"))),
        page.heading("Data"),
        page.facts(told),
    ]
    return blocks
