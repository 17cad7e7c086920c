"""Scores of the test split, errors with intervals, and the floor any model must beat.

The test rows are used once: the result is stored in the run folder, and the same question again is
answered from there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.checkpoint import bundle_kind, load_bundle, write_durably
from pipelines.config import Config, EvaluateConfig
from pipelines.errors import CorruptError, DataError
from pipelines.motion import Motion, load_motions, make_sequences
from pipelines.plots import score_scatter
from pipelines.store import snapshot_of
from pipelines.tracking import log_evaluation

if TYPE_CHECKING:
    import pyarrow as pa

    from aqa_models.two_stage.members import Members

_log = logging.getLogger(__name__)
_BATCH = 25


def evaluate(run: Path, store: Path, config: Config) -> dict[str, Any]:
    """`aqa evaluate`: scores the test clips of a store, from the tables the run was trained on.

    Args:
        run: folder of a finished run of expert, angles or hp-mcore.
        store: the feature store.
        config: the section `evaluate` is used.

    A run that is tracked gets its bundle, which MLflow registers.

    Returns and raises: see `evaluate_tables`, for dives `hp_mcore.evaluate.evaluate_tables`, for body angles
    `angles_expert.evaluate.evaluate_tables`.
    """
    from pipelines.models import publish

    result = _evaluate(run, store, config)
    if not result["stored"] or not (run / "bundle").exists():
        publish(run, store, config.tracking)
    return result


def _evaluate(run: Path, store: Path, config: Config) -> dict[str, Any]:
    kind = bundle_kind(run)
    if kind == "hp_mcore":
        from pipelines.hp_mcore import evaluate as dives

        return dives.evaluate(run, store, config)
    if kind == "angles":
        from pipelines.angles_expert import evaluate as angles

        return angles.evaluate(run, store, config)
    _, description = load_bundle(run, "expert")
    kind, told = description["feature_kind"], description["provenance"]
    wanted = {"poses": told.get("poses_key", "")}
    if kind:
        wanted[f"features/{kind}"] = told.get(f"{kind}_key", "")
    clips, tables, _ = snapshot_of(store, wanted)
    return evaluate_tables(run, clips, tables["poses"], config.evaluate, tables.get(f"features/{kind}"))


def evaluate_tables(
    run_dir: Path,
    clips: pa.Table,
    poses: pa.Table,
    config: EvaluateConfig,
    features: pa.Table | None = None,
) -> dict[str, Any]:
    """Scores the test clips with the model of the best epoch.

    Args:
        run_dir: folder of a finished expert run.
        clips: rows of CLIPS; those with split test, a score and a known action type are scored, by a model of
            classes those with a known group.
        poses: rows of POSES.
        config: resamples and seed of the intervals.
        features: rows of FEATURES, if the model has an appearance stream.

    Returns:
        What metrics.json holds: n, subjects, spearman, mae, rmse (value, low, high, or value null and a
        reason) and median_floor {mae, rmse}; `by_action_type`, the same for each; of classes see
        `evaluate_classes.class_results`; `stored`, true when the result was there already.
        predictions.parquet lies beside it.

    Raises:
        DataError: nothing to score, or a test subject took part in training.
        ConfigError, CorruptError: the run folder holds no whole model.
    """
    tensors, description = load_bundle(run_dir, "expert")
    motions = motions_to_judge(run_dir, clips, poses, description, features)
    wanted, classes = description["targets"], description["classes"]
    question = question_of(motions, description["sha256"], config)

    def make() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        if classes:
            from pipelines.evaluate_classes import class_results, class_rows

            told = answers(motions, tensors, description).argmax(axis=1)
            return class_results(motions, told, classes, config), class_rows(motions, told, classes)
        predicted = predict(motions, tensors, description)
        return results(motions, predicted, wanted, config), prediction_rows(motions, predicted, wanted)

    return answer_once(run_dir, question, description["best_epoch"], make)


def motions_to_judge(
    run_dir: Path,
    clips: pa.Table,
    poses: pa.Table,
    description: dict[str, Any],
    features: pa.Table | None = None,
) -> list[Motion]:
    """Test clips with a score, or a group, and an action type that the model knows.

    Args:
        run_dir: folder of the run, for errors.
        clips: rows of CLIPS.
        poses: rows of POSES.
        description: of the model; `targets` by action type, `classes` by group, and `subjects` of the
            training are read.
        features: rows of FEATURES, if the model sees the video.

    Raises:
        DataError: there are none, or a test subject took part in training.
    """
    wanted, classes = description["targets"], description.get("classes", {})
    known = description["actions"] if classes else wanted
    motions = [
        motion
        for motion in load_motions(clips, poses, features)
        if motion.split == "test"
        and (motion.group in classes if classes else motion.score is not None)
        and motion.action_type in known
    ]
    if not motions:
        needed = f"a group of {list(classes)}" if classes else "a score"
        needed = "video features, " * (features is not None) + needed
        raise DataError(
            "clips table",
            f"no row has split test, a pose, {needed}, and an action type of {sorted(known)}",
            "fill the column split of the clips table (docs/data.md), or name the store of the training",
        )
    leaked = sorted({motion.subject for motion in motions} & set(description["subjects"]))
    if leaked:
        raise DataError(
            f"subject {leaked[0]}",
            f"is a test subject, but {run_dir} was trained on it",
            "use the splits of the training run",
        )
    return motions


def answer_once(
    run_dir: Path,
    question: str,
    best_epoch: int,
    make: Callable[[], tuple[dict[str, Any], list[dict[str, Any]]]],
) -> dict[str, Any]:
    """The stored answer to a question about the test rows, or a new one, which is stored and tracked.

    Args:
        run_dir: folder of the run; metrics.json and predictions.parquet are written there.
        question: hash of all that the answer depends on.
        best_epoch: epoch of the model.
        make: scores the test rows: metrics, and rows of PREDICTIONS.
    """
    stored = read_metrics_file(run_dir / "metrics.json")
    if stored.get("question") == question:
        _log.warning("%s: these test clips were scored before; returning the stored result", run_dir)
        return {**stored, "stored": True}
    metrics, rows = make()
    result = {
        "question": question,
        "evaluations": stored.get("evaluations", 0) + 1,
        "run_dir": str(run_dir),
        "best_epoch": best_epoch,
        **metrics,
    }
    write_predictions(run_dir / "predictions.parquet", rows)
    write_durably(run_dir / "metrics.json", (json.dumps(result, indent=2, allow_nan=False) + "\n").encode())
    numbers = {name: result[name]["value"] for name in _TRACKED if name in result}
    files = [run_dir / "metrics.json", run_dir / "predictions.parquet"]
    told = {f"test_{name}": value for name, value in numbers.items() if value is not None}
    if picture := score_scatter(rows, run_dir / "plots" / "scores.png"):
        files.append(picture)
    about = {"digest": question, "clips": len(rows)}
    log_evaluation(run_dir, told, files, step=stored.get("evaluations", 0), dataset=about)
    return {**result, "stored": False}


_TRACKED = ("spearman", "mae", "rmse", "relative_l2_x100", "micro_f1", "macro_f1")


def metrics_lines(metrics: dict[str, Any]) -> list[str]:
    """The metrics as a table for people: the model beside the floor, one line per action type."""
    if metrics.get("kind") == "hp_mcore":
        from pipelines.hp_mcore.report import lines

        return lines(metrics)
    if "classes" in metrics:
        from pipelines.evaluate_classes import class_lines

        return class_lines(metrics)
    rows = [("all", metrics), *metrics["by_action_type"].items()]
    if "person_level" in metrics:
        pooled = metrics["person_level"]
        rows += [
            ("by person", pooled),
            *((f"  {name}", row) for name, row in pooled["by_action_type"].items()),
        ]
    lines = [
        f"{'':10} {'clips':>5} {'subjects':>8}  {'Spearman (95 %)':22} {'MAE (95 %)':24} MAE of the median"
    ]
    for name, row in rows:
        rho, error = (cell(row[key]) for key in ("spearman", "mae"))
        floor = row["median_floor"]["mae"]
        lines.append(f"{name:10} {row['n']:5} {row['subjects']:8}  {rho:22} {error:24} {floor:.2f}")
    if "person_level" in metrics:
        lines.append("By person: another task, scores from all test recordings of a person.")
    if metrics["stored"]:
        lines.append("These test clips were scored before; this is the stored result.")
    return lines


def cell(number: dict[str, Any]) -> str:
    if number["value"] is None:
        return f"none: {number['reason']}"
    if number["low"] is None:
        return f"{number['value']:.2f}"
    return f"{number['value']:.2f} [{number['low']:.2f}, {number['high']:.2f}]"


def predict(
    motions: list[Motion], tensors: dict[str, Any], description: dict[str, Any], model: Members | None = None
) -> np.ndarray:
    """Scores (N,) in the points of the training scores.

    Args:
        motions: clips of the action types in description["targets"].
        tensors: weights of an expert bundle.
        description: its config.json.
        model: what `load_members` made of both, to be used again.

    Raises:
        DataError: see `answers`.
    """
    target = [description["targets"][motion.action_type] for motion in motions]
    mean, deviation = (np.array([t[name] for t in target]) for name in ("mean", "deviation"))
    return answers(motions, tensors, description, model)[:, 0] * deviation + mean


def load_members(tensors: dict[str, Any], description: dict[str, Any]) -> Members:
    """The networks of an expert bundle; making large ones takes seconds."""
    from pipelines.expert_phase import build_members

    model = build_members(description)
    model.load_state_dict(tensors)
    return model.eval()


def answers(
    motions: list[Motion], tensors: dict[str, Any], description: dict[str, Any], model: Members | None = None
) -> np.ndarray:
    """(N, K) float64: standardised score, or logarithm of each class's probability (mean of the views').

    Raises:
        DataError: a motion has another number of coordinates or other video features than in training, or
            an action type that training did not have.
    """
    import torch

    from aqa_models.two_stage.config import SequenceConfig
    from pipelines.expert_inputs import read_inputs

    if motions[0].keypoints.shape[2] != description["num_coordinates"]:
        raise DataError(
            f"clip {motions[0].clip_id}",
            f"has {motions[0].keypoints.shape[2]} coordinates, the model was trained on "
            f"{description['num_coordinates']}",
            "give keypoints of the same kind as in training",
        )
    sequences = make_sequences(motions, SequenceConfig(**description["sequence"]))
    inputs = read_inputs(motions, sequences, description, torch.device("cpu"))
    model = model or load_members(tensors, description)
    found = []
    with torch.no_grad():
        for begin in range(0, len(motions), _BATCH):
            rows = list(range(begin, min(begin + _BATCH, len(motions))))
            views = [model(*inputs.batch(rows, view)) for view in range(len(inputs.views))]
            found.append(torch.stack(views).mean(dim=0).numpy())
    return np.concatenate(found).astype(np.float64)


def results(
    motions: list[Motion], predicted: np.ndarray, targets: dict[str, Any], config: EvaluateConfig
) -> dict[str, Any]:
    """Metrics of scores (N,) with intervals by subject and the median floor, of all and by action type."""
    kinds = np.array([motion.action_type for motion in motions])
    rows = {"overall": np.arange(len(motions))}
    rows |= {kind: np.flatnonzero(kinds == kind) for kind in sorted(set(kinds))}
    found = {}
    for name, picked in rows.items():
        chosen = [motions[row] for row in picked]
        floor = np.array([targets[motion.action_type]["median"] for motion in chosen])
        found[name] = _numbers(chosen, predicted[picked], floor, config)
    return {**found.pop("overall"), "by_action_type": found}


def _numbers(
    motions: list[Motion], predicted: np.ndarray, floor: np.ndarray, config: EvaluateConfig
) -> dict[str, Any]:
    from aqa_models.metrics import bootstrap_interval, mae, rmse, spearman_rho

    true = np.array([motion.score for motion in motions], dtype=float)
    subjects = np.array([motion.subject for motion in motions])
    found: dict[str, Any] = {"n": len(motions), "subjects": len(set(subjects))}
    for name, metric in (("spearman", spearman_rho), ("mae", mae), ("rmse", rmse)):
        low, high = bootstrap_interval(metric, predicted, true, subjects, config.bootstrap, seed=config.seed)
        found[name] = interval_of(metric(predicted, true), low, high, predicted, true)
    found["median_floor"] = {"mae": mae(floor, true), "rmse": rmse(floor, true)}
    return found


def interval_of(
    value: float, low: float, high: float, predicted: np.ndarray, true: np.ndarray
) -> dict[str, Any]:
    """A metric and its interval as metrics.json holds them: null with a reason where it is not defined."""
    if math.isnan(value):
        if len(true) < 2:
            reason = "fewer than two clips"
        else:
            reason = "all judged scores are equal" if np.ptp(true) == 0 else "all predicted scores are equal"
        return {"value": None, "low": None, "high": None, "reason": reason}
    if math.isnan(low):
        return {"value": value, "low": None, "high": None, "reason": "no interval from a single subject"}
    return {"value": value, "low": low, "high": high}


def question_of(motions: list[Motion], model: str, config: EvaluateConfig) -> str:
    """Hash of all that an evaluation depends on: test clips, model and settings."""
    digest = hashlib.sha256(json.dumps([model, config.model_dump(mode="json")]).encode())
    for motion in sorted(motions, key=lambda motion: motion.clip_id):
        told = [motion.clip_id, motion.subject, motion.action_type, motion.score, motion.group]
        digest.update(json.dumps([*told, motion.repetitions]).encode())
        digest.update(motion.keypoints.tobytes() + motion.time_s.tobytes())
        digest.update(b"" if motion.video is None else motion.video.tobytes())
    return digest.hexdigest()


def read_metrics_file(path: Path) -> dict[str, Any]:
    """The stored result of an earlier evaluation; empty if there is none."""
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise CorruptError(path, "is not readable as JSON", "delete it to score again") from error


def prediction_rows(
    motions: list[Motion], predicted: np.ndarray, targets: dict[str, Any]
) -> list[dict[str, Any]]:
    """Rows of PREDICTIONS."""
    return [
        {
            "clip_id": motion.clip_id,
            "subject_id": motion.subject_id or None,
            "action_type": motion.action_type or None,
            "split": motion.split,
            "score": motion.score,
            "predicted": float(value),
            "median_floor": targets[motion.action_type]["median"],
        }
        for motion, value in zip(motions, predicted, strict=True)
    ]


def write_predictions(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes predictions.parquet (schema PREDICTIONS), whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.schema import PREDICTIONS

    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(pa.Table.from_pylist(rows, schema=PREDICTIONS), partial)
    partial.replace(path)
