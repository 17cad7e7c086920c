"""Runs rows over splits: what is finished is never done again, however the run before it ended.

OUT/experiment.json                        what is run on what; another experiment is refused
OUT/pretrain/<material>-<pretext>-...      run folders of the non-expert, see run_folder.py
OUT/rows/<material>/<row>/split-<k>/<part>    run folders of the expert, one per exercise
OUT/rows/<material>/<row>/split-<k>/result.json    written last: row and split are finished
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.checkpoint import write_durably
from pipelines.config import Config, EvaluateConfig
from pipelines.errors import AqaError, ClusterError, ConfigError
from pipelines.experiments.material import Material
from pipelines.experiments.rows import PRETEXTS, Row
from pipelines.run_folder import read_json
from pipelines.settings import load_config

_log = logging.getLogger(__name__)
_INTERVALS = EvaluateConfig(bootstrap=100)  # of single models, which no table shows


@dataclass(frozen=True)
class Task:
    """One row on one split, or (row None) the pretraining that rows share.

    Attributes:
        material: name of the data.
        split: its number.
        row: what to train and judge.
        pretext: key of PRETEXTS, if one is needed.
        folder: of the result, absolute.
        pretrained: run folder of the pretext.
        settings: dotted path -> text, of the size and the user.
    """

    material: str
    split: int
    row: Row | None
    pretext: str | None
    folder: Path
    pretrained: Path | None
    settings: tuple[tuple[str, str], ...]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return (self.folder / ("summary.json" if self.row is None else "result.json")).is_file()


def plan(
    materials: list[tuple[Material, list[Row]]], settings: dict[str, str], out: Path
) -> list[list[Task]]:
    """Two waves: the pretraining of all pretexts, then rows, split by split, so that a table grows evenly."""
    first: dict[Path, Task] = {}
    second: list[Task] = []
    for material, rows in materials:
        told = tuple((settings | dict(material.settings)).items())
        for split in range(max(1, len(material.splits))):
            for row in rows:
                pretrained = None
                if row.pretext is not None:
                    place = "shared" if material.healthy else f"{material.name}-split-{split}"
                    pretrained = out / "pretrain" / f"{row.pretext}-{place}"
                    pretraining = Task(material.name, split, None, row.pretext, pretrained, None, told)
                    first.setdefault(pretrained, pretraining)
                folder = out / "rows" / material.name / row.name / f"split-{split}"
                second.append(Task(material.name, split, row, row.pretext, folder, pretrained, told))
    return [list(first.values()), second]


def run_tasks(
    tasks: list[Task], materials: dict[str, Material], cores: int, finished: Callable[[Task], None]
) -> None:
    """Does what is not finished, here or as Ray tasks; `finished` hears of each task, old or new.

    Raises:
        ClusterError: a Ray worker died three times over one task.
        Errors of `fit` and `evaluate`: the first one; what was done before stays done.
    """
    waiting = []
    for task in tasks:
        if task.finished:
            finished(task)
        else:
            waiting.append(task)
    if cores == 1 or len(waiting) < 2:
        for task in waiting:
            perform(materials, task)
            finished(task)
        return
    for task in _on_ray(waiting, materials, cores):
        finished(task)


def _on_ray(tasks: list[Task], materials: dict[str, Material], cores: int) -> Iterator[Task]:
    """Tasks as they end."""
    from cluster.connect import connect

    with connect(num_cpus=cores):
        import ray
        from ray.exceptions import RayTaskError, WorkerCrashedError

        shared = ray.put(materials)
        remote = ray.remote(num_cpus=1, max_retries=2)(perform)
        running = {remote.remote(shared, task): task for task in tasks}
        while running:
            (ready,), _ = ray.wait(list(running), num_returns=1)
            task = running.pop(ready)
            try:
                ray.get(ready)
            except RayTaskError as error:
                if isinstance(error.cause, AqaError):
                    raise error.cause from None
                raise
            except WorkerCrashedError as error:
                cause = "a Ray worker died over it again and again"
                raise ClusterError(task.folder, cause, "see Ray's log; the same command goes on") from error
            yield task


def perform(materials: dict[str, Material], task: Task) -> None:
    """One task; its own folders make it safe to do again after any death."""
    from pipelines.fit import pretrain

    material = materials[task.material]
    if task.row is None:
        clips, poses = material.healthy or (material.split_clips(task.split), material.poses)
        config = _settings(task, {} if material.healthy else {"pretrain.groups": ",".join(material.well)})
        pretrain(clips, poses, config.pretrain, task.folder, {"material": material.name})
        shutil.rmtree(task.folder / "checkpoints")
        return
    began = time.perf_counter()
    clips = material.split_clips(task.split)
    rows, epochs = [], {}
    parts = ("",) if task.row.kind == "angles" else material.parts
    for part in parts:
        if task.row.kind == "floor":
            rows += _guess(material, clips, task, part)
            continue
        run_dir = task.folder / (part or "all")
        summary = _train(material, clips, task, part, run_dir)
        epochs[part or "all"] = summary["best_epoch"]
        rows += _predictions(run_dir)
    task.folder.mkdir(parents=True, exist_ok=True)
    kept = [row for row in rows if not material.parts[0] or row["part"] in material.parts]
    result = {"predictions": kept, "best_epoch": epochs, "seconds": round(time.perf_counter() - began, 2)}
    write_durably(task.folder / "result.json", json.dumps(result, allow_nan=False).encode())
    for folder in task.folder.glob("*/checkpoints"):  # a finished row is never gone on with
        shutil.rmtree(folder)


def _train(material: Material, clips: Any, task: Task, part: str, run_dir: Path) -> dict[str, Any]:
    """Fits and judges one model by the ordinary verbs."""
    assert task.row is not None
    own, poses, features = material.of_part(clips, part)
    provenance = {"material": material.name, "split": task.split}
    if task.row.kind == "angles":
        from pipelines.angles_expert.evaluate import evaluate_tables as judge_angles
        from pipelines.angles_expert.fit import fit

        config = _settings(task, {"angles.action_types": ",".join(material.parts)})
        summary = fit(own, poses, config.angles, run_dir, provenance)
        judge_angles(run_dir, own, poses, _INTERVALS)
        return summary
    from pipelines.evaluate import evaluate_tables
    from pipelines.fit import train_expert

    told = {f"expert.{path}": text for path, text in task.row.expert.items()}
    config = _settings(task, told | ({"expert.action_types": part} if part else {}))
    seen = features if task.row.video else None
    summary = train_expert(own, poses, config.expert, run_dir, task.pretrained, provenance, None, seen)
    evaluate_tables(run_dir, own, poses, _INTERVALS, seen)
    return summary


def _settings(task: Task, more: dict[str, str]) -> Config:
    """Settings of the row, stronger those of size and user, and what the data need."""
    pretext = PRETEXTS[task.pretext] if task.pretext else {}
    told = {f"pretrain.{path}": text for path, text in pretext.items()}
    given = {path: text for path, text in {**more, **told, **dict(task.settings)}.items() if text}
    return load_config(flags=given)


def _predictions(run_dir: Path) -> list[dict[str, Any]]:
    """What `evaluate` wrote of each test clip, with the true and the predicted score or class."""
    import pyarrow.parquet as pq

    rows = []
    for row in pq.read_table(run_dir / "predictions.parquet").to_pylist():
        classes = row["predicted_group"] is not None
        true, told = ("group", "predicted_group") if classes else ("score", "predicted")
        rows.append(
            {"clip": row["clip_id"], "subject": row["subject_id"], "part": row["action_type"]}
            | {"true": row[true], "predicted": row[told]}
        )
    return rows


def _guess(material: Material, clips: Any, task: Task, part: str) -> list[dict[str, Any]]:
    """The same rows of a floor."""
    from pipelines.experiments.floors import guess_classes, guess_scores
    from pipelines.motion import load_motions

    assert task.row is not None
    own, poses, _ = material.of_part(clips, part)
    classes = material.task == "classes"
    motions = [m for m in load_motions(own, poses) if (m.group if classes else m.score is not None)]
    train, test = ([m for m in motions if (m.split == "test") == wanted] for wanted in (False, True))
    if not train or not test:
        remedy = "give more people, or fewer folds"
        raise ConfigError(f"split {task.split}", f"has nobody to train or to test of {part or 'all'}", remedy)
    seed = int(dict(task.settings).get("expert.seed", "0"))
    told = guess_classes(train, test) if classes else guess_scores(task.row.name, train, test, seed).tolist()
    return [
        {"clip": m.clip_id, "subject": m.subject_id, "part": m.action_type}
        | {"true": m.group if classes else m.score, "predicted": guess}
        for m, guess in zip(test, told, strict=True)
    ]


def read_results(task: Task) -> dict[str, Any]:
    """result.json of a finished row and split; empty if it is not finished.

    Raises:
        CorruptError: it cannot be read.
    """
    return read_json(task.folder / "result.json")
