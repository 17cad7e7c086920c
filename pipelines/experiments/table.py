"""Results of rows over splits -> a table beside the paper's figures and the floors: Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from aqa_models.metrics import (
    bootstrap_interval,
    macro_f1,
    mae,
    micro_f1,
    resampled_interval,
    resampled_t_test,
    spearman_rho,
)
from pipelines.experiments.material import Material
from pipelines.experiments.rows import EXERCISES, QUOTED, TREES, Row

Predictions = list[dict[str, Any]]


@dataclass(frozen=True)
class Block:
    """One data set's part of a table.

    Attributes:
        material: the data.
        rows: in the order of the table.
        results: row -> split -> predictions of its test clips; splits not finished are absent.
        seconds: row -> of all its splits.
    """

    material: Material
    rows: list[Row]
    results: dict[str, dict[int, Predictions]]
    seconds: dict[str, float]


def table_of(name: str, blocks: list[Block], note: str) -> dict[str, Any]:
    """The document that the other functions render, and results.json holds.

    Args:
        name: table1, table2 or table3.
        blocks: one for each data set.
        note: sizes and settings in a sentence.
    """
    return {
        "table": name,
        "note": note,
        "blocks": [_block(block) for block in blocks],
        "quoted": {title: list(figures) for title, figures in QUOTED[name].items()},
    }


def _block(block: Block) -> dict[str, Any]:
    material = block.material
    judge = _judge_scores if material.task == "score" else _judge_classes
    rows = [judge(block, row) for row in block.rows if block.results.get(row.name)]
    return {
        "material": material.name,
        "title": material.title,
        "task": material.task,
        "parts": [part for part in material.parts if part],
        "splits": max(1, len(material.splits)),
        "test_people": material.sizes()[1],
        "pooled": material.pooled,
        "rows": rows,
    }


def _judge_scores(block: Block, row: Row) -> dict[str, Any]:
    """Spearman and mean absolute error: by exercise, and the mean over exercises with interval."""
    material, found = block.material, _together(block, row.name)
    rho = {
        part: _mean([_of_part(spearman_rho, split, part) for split in found.values()])
        for part in material.parts
    }
    told: dict[str, Any] = {
        "row": row.name,
        "title": row.title,
        "splits": len(block.results[row.name]),
        "rho": rho,
        "mae_of": {part: _mean([_of_part(mae, s, part) for s in found.values()]) for part in material.parts},
        "paper": dict(zip(EXERCISES, row.paper, strict=False)),
        "paper_mean": _mean(list(row.paper[: len(EXERCISES)])),
        "seconds": block.seconds[row.name],
    }
    for name, metric in (("mean_rho", spearman_rho), ("mean_mae", mae)):
        values = {split: _over_parts(metric, rows, material) for split, rows in found.items()}
        told |= _with_interval(name, values, found, material, metric)
    trees = block.results.get(TREES, {})
    shared = sorted(block.results[row.name].keys() & trees.keys())
    if row.name != TREES and len(shared) > 1 and not material.pooled:
        told["against_trees"] = {
            name: _gain(metric, block, row.name, shared)
            for name, metric in (("rho", spearman_rho), ("mae", mae))
        }
    return told


def _judge_classes(block: Block, row: Row) -> dict[str, Any]:
    """Micro and macro F1 of all test clips together, with interval by subject."""
    (rows,) = _together(block, row.name).values()
    names = sorted({str(item[key]) for item in rows for key in ("true", "predicted")})
    true, told = (np.array([names.index(item[key]) for item in rows], float) for key in ("true", "predicted"))
    subjects = np.array([item["subject"] for item in rows])
    found: dict[str, Any] = {
        "row": row.name,
        "title": row.title,
        "splits": len(block.results[row.name]),
        "clips": len(rows),
        "paper_micro_f1": row.paper[-1] if row.paper else None,
        "seconds": block.seconds[row.name],
    }
    for name, metric in (("micro_f1", micro_f1), ("macro_f1", macro_f1)):
        low, high = bootstrap_interval(metric, told, true, subjects)
        found[name] = {"value": metric(told, true), "low": _number(low), "high": _number(high)}
    return found


def _together(block: Block, row: str) -> dict[int, Predictions]:
    """Predictions by split; of pooled material, and of classes, all in one."""
    found = block.results[row]
    if block.material.pooled:
        return {0: [item for rows in found.values() for item in rows]}
    return found


def _of_part(metric: Callable, rows: Predictions, part: str) -> float:
    chosen = [item for item in rows if item["part"] == part]
    if not chosen:
        return float("nan")
    told, true = (np.array([item[key] for item in chosen], dtype=float) for key in ("predicted", "true"))
    return metric(told, true)


def _over_parts(metric: Callable, rows: Predictions, material: Material) -> float:
    """Mean over the exercises in which the metric is defined; nan if in none."""
    found = _mean([_of_part(metric, rows, part) for part in material.parts])
    return float("nan") if found is None else found


def _with_interval(
    name: str, values: dict[int, float], found: dict[int, Predictions], material: Material, metric: Callable
) -> dict[str, Any]:
    """Mean and 95 % interval: over splits, corrected for shared people; of one by subject."""
    defined = np.array([value for value in values.values() if not np.isnan(value)])
    if not len(defined):
        return {name: {"value": None, "low": None, "high": None, "sd": None}}
    if len(defined) > 1:
        low, high = resampled_interval(defined, *material.sizes())
        return {name: _interval(defined.mean(), low, high, float(defined.std()))}
    (rows,) = found.values()
    order = np.arange(len(rows), dtype=float)
    people = np.array([item["subject"] for item in rows])

    def of_rows(drawn: np.ndarray, _: np.ndarray) -> float:
        return _over_parts(metric, [rows[int(k)] for k in drawn], material)

    low, high = bootstrap_interval(of_rows, order, order, people, resamples=300)
    return {name: _interval(defined[0], low, high, None)}


def _interval(value: float, low: float, high: float, sd: float | None) -> dict[str, Any]:
    return {"value": float(value), "low": _number(low), "high": _number(high), "sd": sd}


def _gain(metric: Callable, block: Block, row: str, shared: list[int]) -> dict[str, Any] | None:
    """Difference to the trees on the same splits: mean, splits in which it is positive, corrected p."""
    pairs = [[_over_parts(metric, block.results[n][k], block.material) for n in (row, TREES)] for k in shared]
    gain = np.array([ours - trees for ours, trees in pairs])
    if np.isnan(gain).any():
        return None
    _, p = resampled_t_test(gain, *block.material.sizes())
    return {"mean": float(gain.mean()), "positive": int((gain > 0).sum()), "of": len(gain), "p": _number(p)}


def _mean(values: list[float]) -> float | None:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def markdown(document: dict[str, Any]) -> str:
    """The table for people."""
    lines = [f"# {document['table'].replace('table', 'Table ')}", "", document["note"], ""]
    for block in document["blocks"]:
        lines += [f"## {block['title']}", ""]
        shown = _score_lines(block) if block["task"] == "score" else _class_lines(block)
        lines += [*shown, ""]
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
    ]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in block["rows"]:
        cells = [_beside(row["rho"][part], row["paper"].get(part)) for part in parts]
        gain = (row.get("against_trees") or {}).get("rho")
        told = (
            ""
            if gain is None
            else f"{gain['mean']:+.3f}, {gain['positive']} of {gain['of']}, p {_short(gain['p'])}"
        )
        splits = "" if row["splits"] == block["splits"] else f" ({row['splits']} of {block['splits']} splits)"
        figures = [_cell(row["mean_rho"], 3), _short(row["paper_mean"]), _cell(row["mean_mae"], 2), told]
        lines.append(_line([row["title"] + splits, *cells, *figures]))
    how = "all test clips together, interval by subject" if block["pooled"] or block["splits"] == 1 else (
        "mean over splits, interval widened for the people that splits share (Nadeau and Bengio 2003)"
    )  # fmt: skip
    return [*lines, "", f"Spearman's rho and mean absolute error in points: {how}."]


def _class_lines(block: dict[str, Any]) -> list[str]:
    head = ["row", "micro F1 [95 %]", "paper", "macro F1 [95 %]", "clips"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in block["rows"]:
        figures = [_cell(row["micro_f1"], 3), _short(row["paper_micro_f1"], 3), _cell(row["macro_f1"], 3)]
        lines.append(_line([row["title"], *figures, str(row["clips"])]))
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
