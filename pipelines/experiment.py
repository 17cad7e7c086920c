"""The verb `experiment`: runs a table of the two-stage paper, as far as it is not run yet, and writes it.

Which rows there are: experiments/rows.py. What is finished in the folder is never done again.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.checkpoint import check_identity, write_durably
from pipelines.config import ExperimentConfig, TrackingConfig
from pipelines.errors import ConfigError
from pipelines.experiments import material as materials
from pipelines.experiments.figures import Block, document_of, figures
from pipelines.experiments.material import Material
from pipelines.experiments.plot import draw
from pipelines.experiments.rows import Row, chosen_rows, recognition_settings, size_settings
from pipelines.experiments.run import Task, plan, read_results, run_tasks
from pipelines.experiments.table import csv_text, markdown
from pipelines.result import to_json
from pipelines.run_folder import read_json
from pipelines.settings import load_config
from pipelines.tracking import track, tracking_uri

Say = Callable[[str], None]
_log = logging.getLogger(__name__)
Plan = list[tuple[Material, list[Row]]]


def run(
    table: str,
    data: Path,
    out: Path,
    config: ExperimentConfig,
    tracking: TrackingConfig | None = None,
    *,
    store: Path | None = None,
    say: Say = _log.info,
) -> dict[str, Any]:
    """Runs a table and writes table.md, table.csv, table.png and results.json.

    Args:
        table: table1, table2 or table3.
        data: folder of data sets, each in a folder of its name: kimore, nw_ucla, utkinect, infants, ...
        out: folder of the experiment; the same folder again goes on where the last run stopped.
        config: settings.
        tracking: where MLflow is; None = not tracked.
        store: feature store with C3D features of scored video, for the rows that see it (table1).
        say: receives a line for each row and split.

    Returns:
        The table as `experiments.figures.document_of` says, and `files`, `seconds` of this call.

    Raises:
        ConfigError: a row, exercise or setting that is not there; the folder belongs to another experiment.
        DataError, SecurityError, CorruptError, ClusterError: as the verbs that it runs.
    """
    began, out = time.perf_counter(), out.absolute()
    settings = shared_settings(table, config)
    contents = contents_of(table, data, out, config, store)
    identity = {"table": table, **settings}
    for material, _ in contents:
        identity |= material.identity()
    _claim(out, identity)
    waves = plan(contents, settings, out)
    by_name = {material.name: material for material, _ in contents}
    count, total = 0, sum(map(len, waves))

    def finished(task: Task) -> None:
        nonlocal count
        count += 1
        if task.row is not None and tracking is not None:
            _tell_mlflow(task, out, tracking, by_name[task.material])
        what = (
            f"pretraining {task.folder.name}" if task.row is None else f"{task.row.name}, split {task.split}"
        )
        say(f"{count}/{total} {task.material}: {what}, {time.perf_counter() - began:.0f} s")

    with track(tracking, out, settings, {"data": str(data)}, table) as tracker:
        for wave in waves:
            run_tasks(wave, by_name, config.cores, finished)
        document = _write(table, contents, waves[1], settings, out)
        tracker.metrics(_headline(document), step=sum(task.finished for task in waves[1]))
        for name in ("table.md", "table.csv", "table.png"):
            tracker.artifact(out / name)
    document["seconds"] = time.perf_counter() - began
    return document


def shared_settings(table: str, config: ExperimentConfig) -> dict[str, str]:
    """Settings of all rows: those of the size, the seed, and what the user changes.

    Raises:
        ConfigError: sizes that contradict each other, or a change that is no path=value of a known setting.
    """
    if config.quick and config.full_size:
        raise ConfigError("experiment.quick", "contradicts full_size", "give one of them")
    seeds = {f"{part}.seed": str(config.seed) for part in ("pretrain", "expert", "angles")}
    settings = {**size_settings(table, _size(config)), **seeds, **_changes(config)}
    load_config(flags=settings)
    return settings


def _size(config: ExperimentConfig) -> str:
    return "quick" if config.quick else "full" if config.full_size else "reduced"


def _changes(config: ExperimentConfig) -> dict[str, str]:
    """What the user changes: dotted path -> text; ConfigError of what is no path=value."""
    changes = {}
    for text in config.change:
        path, sign, value = text.partition("=")
        if not sign or path.partition(".")[0] not in ("pretrain", "expert", "angles"):
            raise ConfigError("experiment.change", f"holds {text!r}", "write e.g. expert.epochs=20")
        changes[path] = value
    return changes


def contents_of(table: str, data: Path, out: Path, config: ExperimentConfig, store: Path | None) -> Plan:
    """Data sets of a table, and the rows that run on each.

    Raises:
        ConfigError: a row, exercise or data set that is not there, or recognition of another table than 2.
    """
    rows = chosen_rows(table, config.rows)
    if config.recognition_only and table != "table2":
        raise ConfigError(
            "experiment.recognition_only", f"is set, but {table} recognises no actions", "run table2"
        )
    if table == "table3":
        infants = materials.infants(data, config)
        if infants is None and config.stand_ins:
            from pipelines.experiments import stand_ins

            infants = stand_ins.infants(config)
        if infants is None:
            raise ConfigError(data, "has no folder infants", "give one, or let stand-ins run")
        return [(infants, list(rows))]
    if config.recognition_only:
        return [_recognition(data, config, rows)]
    seen, blind = ([row for row in rows if row.video == video] for video in (True, False))
    found: Plan = [(materials.kimore(data, config), blind)]
    if table == "table2":
        found.append(_recognition(data, config, rows))
    if seen and (store is not None or config.stand_ins):
        floors = [row for row in blind if row.kind == "floor" and row.name != "floor_setup"]
        found.append((_video_material(data, out, config, store), [*seen, *floors]))
    return found


def _recognition(data: Path, config: ExperimentConfig, rows: tuple[Row, ...]) -> tuple[Material, list[Row]]:
    own = {**recognition_settings(_size(config)), **_changes(config)}
    return materials.recognition(data, own), [row for row in rows if row.kind == "expert"]


def _video_material(data: Path, out: Path, config: ExperimentConfig, store: Path | None) -> Material:
    from pipelines.experiments import stand_ins

    if store is None:
        return stand_ins.videos(out / "stand_ins", config)
    return materials.of_store(store, data / "kimore" / "subject_splits.csv", config)


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """The folder is this experiment's, or it is refused; more splits and data sets may be added."""
    path = out / "experiment.json"
    if known := read_json(path):
        fixed = {key: v for key, v in identity.items() if key in known or not key.startswith("data.")}
        check_identity(out, known, known | fixed)
    out.mkdir(parents=True, exist_ok=True)
    write_durably(path, json.dumps(known | identity, indent=2, sort_keys=True).encode())


def _tell_mlflow(task: Task, out: Path, tracking: TrackingConfig, material: Material) -> None:
    """One child run for each row and split, told once."""
    told = task.folder / "told"
    if told.exists():
        return
    assert task.row is not None
    uri = tracking_uri(tracking, out)
    child = tracking.model_copy(update={"uri": uri, "parent": out})
    about = {"row": task.row.name, "split": task.split, "material": task.material}
    with track(child, task.folder, {**about, **dict(task.settings)}, about, "row") as tracker:
        tracker.metrics(figures(material, read_results(task)["predictions"]))
    told.touch()


def _headline(document: dict[str, Any]) -> dict[str, float]:
    """One figure for each row of the table."""
    found = {}
    for block in document["blocks"]:
        name = "mean_rho" if block["task"] == "score" else "micro_f1"
        for row in block["rows"]:
            if row[name]["value"] is not None:
                found[f"{block['material']}.{row['row']}.{name}"] = row[name]["value"]
    return found


def _write(
    table: str, contents: Plan, tasks: list[Task], settings: dict[str, str], out: Path
) -> dict[str, Any]:
    """The table from what is finished."""
    blocks = []
    for material, rows in contents:
        results: dict[str, dict[int, list[dict[str, Any]]]] = {}
        seconds = {row.name: 0.0 for row in rows}
        for task in tasks:
            if task.material == material.name and task.row is not None and (found := read_results(task)):
                results.setdefault(task.row.name, {})[task.split] = found["predictions"]
                seconds[task.row.name] += found["seconds"]
        blocks.append(Block(material, rows, results, seconds))
    told = ", ".join(
        f"{path} {value}" for path, value in sorted(settings.items()) if "checkpoint" not in path
    )
    document = document_of(table, blocks, f"Settings: {told}.")
    files = {name: out / name for name in ("table.md", "table.csv", "table.png", "results.json")}
    write_durably(files["table.md"], markdown(document).encode())
    write_durably(files["table.csv"], csv_text(document).encode())
    draw(document, files["table.png"])
    write_durably(files["results.json"], to_json({**document, "settings": settings}).encode())
    document["files"] = {name: os.fspath(path) for name, path in files.items()}
    return document
