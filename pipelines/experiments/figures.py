"""Predictions of rows over splits -> the figures of a table, with intervals and paired differences."""

from __future__ import annotations

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


def document_of(name: str, blocks: list[Block], note: str) -> dict[str, Any]:
    """The document that table.py and plot.py render, and results.json holds.

    Args:
        name: table1, table2 or table3.
        blocks: one for each data set.
        note: sizes and settings in a sentence.

    Returns:
        table, note, quoted {title: figures}, and blocks: material, title, task, parts, splits, pooled,
        settings of its own, and rows with row, title, splits, the paper's figures and ours (value, low,
        high; value null where undefined).
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
        "settings": dict(material.settings),
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
    if row.name != TREES and not material.pooled:
        told["against_trees"] = _gains(block, row.name, TREES)
    if row.rival and not material.pooled:
        told["against_random"] = _gains(block, row.name, row.rival)
    return told


def figures(material: Material, predictions: Predictions) -> dict[str, float]:
    """The figures of one row and split that are defined, without intervals."""
    if material.task == "classes":
        told, true = _coded(predictions)
        return {"micro_f1": micro_f1(told, true), "macro_f1": macro_f1(told, true)}
    found = {f"rho_{part}": _of_part(spearman_rho, predictions, part) for part in material.parts}
    found["mean_rho"] = _over_parts(spearman_rho, predictions, material)
    found["mean_mae"] = _over_parts(mae, predictions, material)
    return {name: value for name, value in found.items() if not np.isnan(value)}


def _judge_classes(block: Block, row: Row) -> dict[str, Any]:
    """Micro and macro F1 of all test clips together, with interval by subject."""
    (rows,) = _together(block, row.name).values()
    told, true = _coded(rows)
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
    if row.rival and block.results.get(row.rival):
        (theirs,) = _together(block, row.rival).values()
        found["against_random"] = _gain_in_classes(rows, theirs)
    return found


def _gain_in_classes(rows: Predictions, rival: Predictions) -> dict[str, Any] | None:
    """Share of right answers less the rival's on the clips that both tested, interval by subject; None if
    they share no clip."""
    right = {item["clip"]: item["predicted"] == item["true"] for item in rival}
    pairs = [item for item in rows if item["clip"] in right]
    if not pairs:
        return None
    ours = np.array([float(item["predicted"] == item["true"]) for item in pairs])
    theirs = np.array([float(right[item["clip"]]) for item in pairs])
    people = np.array([item["subject"] for item in pairs])

    def gain(a: np.ndarray, b: np.ndarray) -> float:
        return float((a - b).mean())

    low, high = bootstrap_interval(gain, ours, theirs, people)
    return {"value": gain(ours, theirs), "low": _number(low), "high": _number(high)}


def _coded(rows: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true classes as numbers."""
    names = sorted({str(item[key]) for item in rows for key in ("true", "predicted")})
    told, true = ([names.index(item[key]) for item in rows] for key in ("predicted", "true"))
    return np.array(told, dtype=float), np.array(true, dtype=float)


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
    if len(found) > 1:
        nan = float("nan")
        low, high = resampled_interval(defined, *material.sizes()) if len(defined) > 1 else (nan, nan)
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


def _gains(block: Block, row: str, rival: str) -> dict[str, Any]:
    """Difference to another row on the splits that both have, of rho and error; None if not defined."""
    shared = sorted(block.results[row].keys() & block.results.get(rival, {}).keys())
    if len(shared) < 2:
        return {"rho": None, "mae": None}
    told = {"rho": spearman_rho, "mae": mae}
    return {name: _gain(metric, block, row, rival, shared) for name, metric in told.items()}


def _gain(metric: Callable, block: Block, row: str, rival: str, shared: list[int]) -> dict[str, Any] | None:
    """Mean difference, splits in which it is positive, corrected p."""
    results, material = block.results, block.material
    pairs = [[_over_parts(metric, results[name][k], material) for name in (row, rival)] for k in shared]
    gain = np.array([ours - theirs for ours, theirs in pairs])
    if np.isnan(gain).any():
        return None
    _, p = resampled_t_test(gain, *block.material.sizes())
    return {"mean": float(gain.mean()), "positive": int((gain > 0).sum()), "of": len(gain), "p": _number(p)}


def _mean(values: list[float]) -> float | None:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
