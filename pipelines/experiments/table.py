"""A table as Markdown for people and as CSV for programs; the figures are made in figures.py."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np


def markdown(document: dict[str, Any]) -> str:
    """The table for people."""
    lines = [f"# {document['table'].replace('table', 'Table ')}", "", document["note"], ""]
    for block in document["blocks"]:
        lines += [f"## {block['title']}", ""]
        shown = _score_lines(block) if block["task"] == "score" else _class_lines(block)
        lines += [*shown, ""]
        if own := block["settings"]:
            told = ", ".join(f"{path} {value}" for path, value in sorted(own.items()))
            lines += [f"Settings of its own: {told}.", ""]
    if document["quoted"]:
        lines += ["## Quoted from the paper, not run here", "", "| row | figures | mean |", "|---|---|---|"]
        for title, figures in document["quoted"].items():
            told = ", ".join(f"{value:.3f}" for value in figures)
            lines.append(f"| {title} | {told} | {np.mean(figures):.3f} |")
    return "\n".join(lines).rstrip() + "\n"


def _score_lines(block: dict[str, Any]) -> list[str]:
    parts = block["parts"]
    head = [
        "row",
        *(f"{part} (paper)" for part in parts),
        "mean rho [95 %]",
        "paper",
        "MAE [95 %]",
        "rho - trees",
        "rho - random start",
    ]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in block["rows"]:
        cells = [_beside(row["rho"][part], row["paper"].get(part)) for part in parts]
        gains = [_gain(row.get(name)) for name in ("against_trees", "against_random")]
        splits = "" if row["splits"] == block["splits"] else f" ({row['splits']} of {block['splits']} splits)"
        figures = [_cell(row["mean_rho"], 3), _short(row["paper_mean"]), _cell(row["mean_mae"], 2), *gains]
        lines.append(_line([row["title"] + splits, *cells, *figures]))
    how = "all test clips together, interval by subject" if block["pooled"] or block["splits"] == 1 else (
        "mean over splits, interval widened for the people that splits share (Nadeau and Bengio 2003)"
    )  # fmt: skip
    return [*lines, "", f"Spearman's rho and mean absolute error in points: {how}."]


def _gain(found: dict[str, Any] | None) -> str:
    gain = found["rho"] if found else None
    if gain is None:
        return ""
    return f"{gain['mean']:+.3f}, {gain['positive']} of {gain['of']}, p {_short(gain['p'])}"


def _class_lines(block: dict[str, Any]) -> list[str]:
    head = ["row", "micro F1 [95 %]", "paper", "macro F1 [95 %]", "micro F1 - random start", "clips"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in block["rows"]:
        figures = [_cell(row["micro_f1"], 3), _short(row["paper_micro_f1"], 3), _cell(row["macro_f1"], 3)]
        gain = _cell(row["against_random"], 3) if row.get("against_random") else ""
        lines.append(_line([row["title"], *figures, gain, str(row["clips"])]))
    return [*lines, "", "All test clips together, interval by subject."]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(number: dict[str, Any], digits: int) -> str:
    if number["value"] is None:
        return "undefined"
    if number["low"] is None:
        return f"{number['value']:.{digits}f}"
    return f"{number['value']:.{digits}f} [{number['low']:.{digits}f}, {number['high']:.{digits}f}]"


def _beside(value: float | None, paper: float | None) -> str:
    told = "-" if value is None else f"{value:.3f}"
    return told if paper is None else f"{told} ({paper:.3f})"


def _short(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def csv_text(document: dict[str, Any]) -> str:
    """One line per row and figure: table, data, row, splits, figure, value, low, high, paper."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "data", "row", "splits", "figure", "value", "low", "high", "paper"])
    for block in document["blocks"]:
        for row in block["rows"]:
            for figure, number, paper in _figures(block, row):
                told = [_short(value, 6) for value in (number["value"], number["low"], number["high"], paper)]
                writer.writerow([document["table"], block["title"], row["row"], row["splits"], figure, *told])
    return out.getvalue()


def _figures(block: dict[str, Any], row: dict[str, Any]) -> list[tuple[str, dict[str, Any], float | None]]:
    def plain(value: float | None) -> dict[str, Any]:
        return {"value": value, "low": None, "high": None}

    if block["task"] == "classes":
        return [("micro_f1", row["micro_f1"], row["paper_micro_f1"]), ("macro_f1", row["macro_f1"], None)]
    found = [(f"rho {part}", plain(value), row["paper"].get(part)) for part, value in row["rho"].items()]
    found += [(f"mae {part}", plain(value), None) for part, value in row["mae_of"].items()]
    return [*found, ("rho mean", row["mean_rho"], row["paper_mean"]), ("mae mean", row["mean_mae"], None)]
