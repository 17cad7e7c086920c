"""`aqa evaluate --compare`: what runs differ by on the same test clips, and by which settings.

Nothing is scored here: the predictions that `aqa evaluate` stored are read. Two runs err on the same clips,
so the difference of their metrics is known better than either metric; clips of a subject are drawn together.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.checkpoint import write_durably
from pipelines.config import EvaluateConfig
from pipelines.errors import ConfigError, DataError, StorageError
from pipelines.evaluate import read_metrics_file
from pipelines.run_folder import read_json
from pipelines.tracking import flatten

Metric = Callable[[np.ndarray, np.ndarray], float]
Rows = dict[str, dict[str, Any]]
HIGHER_IS_BETTER = ("spearman", "micro_f1", "macro_f1")


def compare(runs: Sequence[Path], config: EvaluateConfig) -> dict[str, Any]:
    """Compares every later run with the first.

    Args:
        runs: folders of evaluated runs, at least two.
        config: resamples and seed of the intervals.

    Returns:
        runs (names), clips, subjects, metrics: rows of metric, run, value, against, difference, low, high and
        verdict (better, worse, or not shown); settings: rows of setting and one value per run.

    Raises:
        ConfigError: fewer than two runs, one twice, or one that was not evaluated.
        DataError: other test clips or judged scores, or scores against classes.
    """
    paths = [path.absolute() for path in runs]
    if len(set(paths)) < max(2, len(paths)):
        raise ConfigError("--compare", "needs two different runs or more", "name each run once")
    names = _names(paths)
    found = [predictions_of(path) for path in paths]
    for name, rows in zip(names[1:], found[1:], strict=True):
        _check_same(names[0], found[0], name, rows)
    order = sorted(found[0])
    subjects = np.array([_subject(found[0][clip]) for clip in order])
    pairs = zip(names[1:], found[1:], strict=True)
    table = [
        row for name, rows in pairs for row in _differences(names[0], found[0], name, rows, order, config)
    ]
    return {
        "runs": dict(zip(names, map(str, paths), strict=True)),
        "clips": len(order),
        "subjects": len(set(subjects)),
        "metrics": table,
        "settings": settings_of(dict(zip(names, paths, strict=True))),
    }


def predictions_of(run: Path) -> Rows:
    """Clip -> row of PREDICTIONS of an evaluated run.

    Raises:
        ConfigError: it was not evaluated.
    """
    import pyarrow.parquet as pq

    from pipelines.schema import PREDICTIONS, empty_row

    path = run / "predictions.parquet"
    if not path.is_file() or not read_metrics_file(run / "metrics.json"):
        raise ConfigError(run, "was not evaluated", f"run `aqa evaluate {run} --store STORE` first")
    rows = pq.read_table(path).to_pylist()
    return {row["clip_id"]: empty_row(PREDICTIONS, **row) for row in rows}  # older files lack some columns


def settings_of(runs: dict[str, Path]) -> list[dict[str, Any]]:
    """Rows of what runs differ in, settings and versions of the data: `setting`, and a value per run."""
    told = {}
    for name, path in runs.items():
        record = read_json(path / "config.json")
        parts = {key: record.get(key, {}) for key in ("config", "provenance")}
        flat = flatten(parts["config"]) | flatten({"data": parts["provenance"]})
        flat |= {"model": record.get("phase"), "pretrained": record.get("pretrained")}
        told[name] = {key: _text(value) for key, value in flat.items()}
    every = dict.fromkeys(key for flat in told.values() for key in flat)
    rows = [{"setting": key, **{name: flat.get(key, "-") for name, flat in told.items()}} for key in every]
    return [row for row in rows if len({row[name] for name in runs}) > 1]


def lines(result: dict[str, Any]) -> list[str]:
    """The comparison for people."""
    from pipelines.result import to_text

    rows = [
        {
            "metric": row["metric"],
            row["against"]: _number(row["against_value"]),
            "run": row["run"],
            "value": _number(row["value"]),
            "difference (95 %)": _interval(row),
            "verdict": row["verdict"],
        }
        for row in result["metrics"]
    ]
    told = [f"{result['clips']} test clips of {result['subjects']} subjects, the same for all", to_text(rows)]
    told.append("Paired bootstrap, subjects drawn whole; not shown = the interval holds 0.")
    if result["settings"]:
        return [*told, "", "They differ in:", to_text(result["settings"])]
    return [*told, "", "Their settings and data are the same."]


def write(result: dict[str, Any], path: Path) -> None:
    """Writes the comparison as Markdown (.md) or its metrics as CSV (.csv).

    Raises:
        ConfigError: another kind of file.
        StorageError: it cannot be written.
    """
    if path.suffix not in (".md", ".csv"):
        raise ConfigError(
            "--out", f"{path.name} is neither .md nor .csv", "name a file of one of these kinds"
        )
    text = _csv(result["metrics"]) if path.suffix == ".csv" else _markdown(result)
    try:
        write_durably(path, text.encode())
    except OSError as error:
        raise StorageError(path, f"cannot be written ({error.strerror})", "check the folder") from error


def _names(paths: list[Path]) -> list[str]:
    """The folders' names, with as much of the path before them as tells them apart."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _check_same(first: str, one: Rows, second: str, other: Rows) -> None:
    if one.keys() != other.keys():
        apart = sorted(one.keys() ^ other.keys())
        raise DataError(
            second,
            f"was tested on other clips than {first}: {len(apart)} are in one only, first {apart[0]}",
            "evaluate both on the same store",
        )
    for clip, row in one.items():
        fields = (
            ("score", "group") if row["predicted_group"] or other[clip]["predicted_group"] else ("score",)
        )
        for field in (*fields, "subject_id"):
            if row[field] != other[clip][field]:
                raise DataError(
                    f"clip {clip}",
                    f"has {field} {row[field]} for {first}, but {other[clip][field]} for {second}",
                    "evaluate both on the same version of the store",
                )
        if bool(row["predicted_group"]) != bool(other[clip]["predicted_group"]):
            raise DataError(second, f"tells classes where {first} tells scores", "compare runs of one kind")


def _differences(
    first: str, one: Rows, second: str, other: Rows, order: list[str], config: EvaluateConfig
) -> list[dict[str, Any]]:
    from aqa_models.metrics import bootstrap_difference

    base, true = _answers(one, order)
    rival, _ = _answers(other, order)
    subjects = np.array([_subject(one[clip]) for clip in order])
    rows = []
    for name, metric in _metrics(one, true).items():
        low, high = bootstrap_difference(
            metric, rival, base, true, subjects, config.bootstrap, seed=config.seed
        )
        values = metric(rival, true), metric(base, true)
        known = not math.isnan(low)
        sign = 1 if name in HIGHER_IS_BETTER else -1
        shown = "not shown"
        if known and (low > 0 or high < 0):
            shown = "better" if sign * low > 0 else "worse"
        value, against, gap = (None if math.isnan(v) else v for v in (*values, values[0] - values[1]))
        rows.append(
            {
                "metric": name,
                "run": second,
                "value": value,
                "against": first,
                "against_value": against,
                "difference": gap,
                "low": low if known else None,
                "high": high if known else None,
                "verdict": shown,
            }
        )
    return rows


def _metrics(rows: Rows, true: np.ndarray) -> dict[str, Metric]:
    from aqa_models.metrics import macro_f1, mae, micro_f1, relative_l2, rmse, spearman_rho

    if any(row["predicted_group"] for row in rows.values()):
        return {"micro_f1": micro_f1, "macro_f1": macro_f1}
    found: dict[str, Metric] = {"spearman": spearman_rho, "mae": mae, "rmse": rmse}
    if any(row["exemplar_ids"] for row in rows.values()) and np.ptp(true) > 0:
        limits = float(true.min()), float(true.max())
        found["relative_l2_x100"] = lambda guess, truth: 100 * relative_l2(guess, truth, limits)
    return found


def _answers(rows: Rows, order: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true, (N,) each; classes as their positions in the sorted list of names."""
    if not any(row["predicted_group"] for row in rows.values()):
        columns = [[rows[clip][field] for clip in order] for field in ("predicted", "score")]
        return np.array(columns[0], float), np.array(columns[1], float)
    names = sorted({str(row[field]) for row in rows.values() for field in ("group", "predicted_group")})
    told = [[names.index(str(rows[clip][f])) for clip in order] for f in ("predicted_group", "group")]
    return np.array(told[0], float), np.array(told[1], float)


def _subject(row: dict[str, Any]) -> str:
    return f"subject {row['subject_id']}" if row["subject_id"] else f"clip {row['clip_id']}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _interval(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return "none"
    told = f"{row['difference']:+.3f}"
    return told if row["low"] is None else f"{told} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "-" if value is None or value == "" else str(value)


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _markdown(result: dict[str, Any]) -> str:
    told = [
        f"# {' against '.join(map(_escaped, result['runs']))}",
        "",
        f"{result['clips']} test clips of {result['subjects']} subjects, the same for all. "
        "Paired bootstrap, subjects drawn whole.",
        "",
        "| metric | run | value | against | value | difference (95 %) | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["metrics"]:
        cells = [row["metric"], row["run"], _number(row["value"]), row["against"]]
        cells += [_number(row["against_value"]), _interval(row), row["verdict"]]
        told.append("| " + " | ".join(map(_escaped, cells)) + " |")
    if result["settings"]:
        columns = list(result["settings"][0])
        told += ["", "| " + " | ".join(map(_escaped, columns)) + " |", "|---" * len(columns) + "|"]
        told += [
            "| " + " | ".join(_escaped(row[name]) for name in columns) + " |" for row in result["settings"]
        ]
    return "\n".join(told) + "\n"


def _escaped(text: str) -> str:
    """A cell of a Markdown table: nothing in it is markup."""
    for sign in ("\\", "|", "<", "[", "]", "*", "_", "`"):
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")
