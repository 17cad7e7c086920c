"""What the card of each step shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipelines.cards import page
from pipelines.cards.example_frames import example_frames
from pipelines.cards.rejects import rejects
from pipelines.workflow_folder import Workflow

Parts = list[str]


def card(flow: Workflow, step: str, result: dict[str, Any]) -> str:
    """The page (HTML) of a step.

    Args:
        flow: the workflow; earlier steps are done.
        step: of `workflow_folder.NEEDS`.
        result: of the step.
    """
    if "skipped" in result:
        return page.page(step, [page.paragraph(f"Skipped: {result['skipped']}.")])
    return page.page(step, _PARTS[step](flow, step, result))


def _clips(flow: Workflow, step: str, result: dict[str, Any]) -> Parts:
    return [*_rendered(flow), page.facts(result)]


def _plan(flow: Workflow, step: str, result: dict[str, Any]) -> Parts:
    return [
        page.table(result["extractions"]) if result["extractions"] else page.paragraph("Nothing to extract.")
    ]


def _extract(flow: Workflow, step: str, result: dict[str, Any]) -> Parts:
    parts = _rendered(flow)
    for row in result["extractions"]:
        parts += [page.heading(row["for"]), page.facts(row), rejects(row["by_code"], row["clips"])]
        family, _, key = row["table"].partition("/")
        if family == "poses":
            parts += example_frames(flow.store, key)
    return parts


def _training(flow: Workflow, step: str, result: dict[str, Any]) -> Parts:
    losses = page.picture_of(flow.run_dir(step) / "plots" / "losses.png", "Losses of training and validation")
    return [*losses, page.facts({name: value for name, value in result.items() if name != "resumed"})]


def _evaluate(flow: Workflow, step: str, result: dict[str, Any]) -> Parts:
    parts = _rendered(flow)
    for run, metrics in result.items():
        parts += [page.heading(run), page.lines(metrics["lines"])]
        scatter = flow.run_dir(run) / "plots" / "scores.png"
        parts += page.picture_of(scatter, "Test clips: predicted against judged scores")
    return parts


def _report(flow: Workflow, step: str, result: dict[str, Any]) -> Parts:
    parts = _evaluate(flow, step, result["metrics"])
    for run in result["metrics"]:
        parts += page.picture_of(flow.run_dir(run) / "plots" / "losses.png", f"Losses of {run}")
    for row in result["extract"]:
        parts += [page.heading(f"Extracted for {row['for']}"), rejects(row["by_code"], row["clips"])]
    poses = [
        row["table"].rpartition("/")[2] for row in result["extract"] if row["table"].startswith("poses/")
    ]
    for key in dict.fromkeys(poses):
        parts += example_frames(flow.store, key, count=2)
    return [*parts, page.heading("Seconds per step"), page.facts(result["seconds"])]


def _rendered(flow: Workflow) -> Parts:
    note = "The athletes are drawn by the program; these numbers say nothing about real people."
    return [page.paragraph(note)] if flow.rendered else []


_PARTS: dict[str, Callable[[Workflow, str, dict[str, Any]], Parts]] = {
    "import": _clips,
    "plan": _plan,
    "extract": _extract,
    "pretrain": _training,
    "expert": _training,
    "hp-mcore": _training,
    "evaluate": _evaluate,
    "report": _report,
}
