"""Scores the test dives of a store beside trivial baselines and the agreement of the judges.

The test rows are used once: the result is stored in the run folder, and the same question again is answered
from there.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from aqa_models.metrics import average_iou, bootstrap_interval, mae, relative_l2, spearman_rho, temporal_iou
from pipelines.checkpoint import load_bundle
from pipelines.config import Config, EvaluateConfig, HpMcoreTrainConfig
from pipelines.errors import DataError
from pipelines.evaluate import answer_once, interval_of
from pipelines.hp_mcore.baselines import judge_agreement, score_baselines, transition_baselines
from pipelines.hp_mcore.dives import NUM_FRAMES, Dive, Dives, dive_table
from pipelines.hp_mcore.fit import FAMILIES, wanted_streams
from pipelines.hp_mcore.score import Prediction, score_dives, segmentation_metrics
from pipelines.store import snapshot_of


def evaluate(run: Path, store: Path, config: Config) -> dict[str, Any]:
    """Scores the test dives of a store, from the tables the run was trained on.

    Args:
        run: folder of a finished `aqa train hp-mcore`.
        store: the feature store.
        config: the section `evaluate` is used.

    Returns and raises: see `evaluate_tables`.
    """
    _, description = load_bundle(run, "hp_mcore")
    trained = HpMcoreTrainConfig.model_validate(description["config"])
    keys = {stream: description["provenance"].get(f"{FAMILIES[stream].rpartition('/')[2]}_key", "")
            for stream in wanted_streams(trained)}  # fmt: skip
    clips, tables, _ = snapshot_of(store, {FAMILIES[stream]: key for stream, key in keys.items()})
    streams = {stream: tables[FAMILIES[stream]] for stream in keys}
    return evaluate_tables(run, clips, streams, config.evaluate)


def evaluate_tables(
    run_dir: Path, clips: pa.Table, streams: dict[str, pa.Table], config: EvaluateConfig
) -> dict[str, Any]:
    """Scores the test dives with the model of the best epoch, by comparison with training dives.

    Args:
        run_dir: folder of a finished run.
        clips: rows of CLIPS: the test dives, and the dives of the training as exemplars.
        streams: any of keypoints, dynamic, static, frames -> rows of POSES or FEATURES.
        config: resamples and seed of the intervals.

    Returns:
        What metrics.json holds; predictions.parquet lies beside it, with the exemplars of each dive.

    Raises:
        DataError: nothing to score, a test dive took part in training, or the exemplars are not there.
        ConfigError, CorruptError: the run folder holds no whole model.
    """
    tensors, description = load_bundle(run_dir, "hp_mcore")
    trained = HpMcoreTrainConfig.model_validate(description["config"])
    dives = Dives(dive_table(clips, streams, NUM_FRAMES))
    queries, pool = _rows(dives, description, run_dir)
    question = _question(dives, queries + pool, description["sha256"], config)

    def make() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        found = _score(dives, queries, pool, trained, tensors)
        return _results(dives, found, pool, trained, config), _prediction_rows(dives, found, pool)

    return answer_once(run_dir, question, description["best_epoch"], make)


def _rows(dives: Dives, description: dict[str, Any], run_dir: Path) -> tuple[list[int], list[int]]:
    """Test dives with a score, and the exemplars: the dives that were trained on."""
    facts = dives.facts
    queries = [row for row, fact in enumerate(facts) if fact.split == "test" and fact.score is not None]
    if not queries:
        raise DataError(
            "clips table",
            "no row has split test, a score, and all that the model reads",
            "fill the column split of the clips table (docs/data.md), or name the store of the training",
        )
    leaked = sorted({facts[row].subject for row in queries} & set(description["subjects"]))
    if leaked:
        raise DataError(
            f"subject {leaked[0]}",
            f"is a test subject, but {run_dir} was trained on it",
            "use the splits of the training run",
        )
    known = set(description["train_clips"])
    pool = [row for row, fact in enumerate(facts) if fact.clip_id in known and fact.score is not None]
    if not pool:
        raise DataError(
            "clips table",
            f"it holds none of the {len(known)} dives that {run_dir} was trained on: there are no exemplars",
            "name the store of the training",
        )
    return queries, pool


def _score(
    dives: Dives, queries: list[int], pool: list[int], trained: HpMcoreTrainConfig, tensors: dict[str, Any]
) -> list[Prediction]:
    import torch

    from aqa_models.hp_mcore.model import HpMcore

    model = HpMcore(trained.model, encoders=trained.encoders == "finetune")
    model.load_state_dict(tensors)
    return score_dives(model, dives, queries, pool, trained, torch.device("cpu"))


def _results(
    dives: Dives,
    found: list[Prediction],
    pool: list[int],
    trained: HpMcoreTrainConfig,
    config: EvaluateConfig,
) -> dict[str, Any]:
    test, train = [dives.facts[p.row] for p in found], [dives.facts[row] for row in pool]
    true = np.array([fact.score for fact in test], dtype=float)
    predicted = np.array([p.score for p in found])
    limits = (float(true.min()), float(true.max()))
    rows, train_rows = [_baseline_row(f) for f in test], [_baseline_row(f) for f in train]
    floors = {
        name: _numbers(guess, true, test, limits, config)
        for name, guess in score_baselines(train_rows, rows).items()
        if np.isfinite(guess).all()
    }
    annotated = [row for row, fact in enumerate(test) if fact.transitions]
    cut = [found[row] for row in annotated]
    return {
        "kind": "hp_mcore",
        "n": len(test),
        "subjects": len({fact.subject for fact in test}),
        **_numbers(predicted, true, test, limits, config),
        "score_range": {"low": limits[0], "high": limits[1], "source": "lowest and highest true test score"},
        "segmentation": segmentation_metrics(dives, cut, trained.model.num_procedures) if cut else {},
        "baselines": floors,
        "segmentation_baselines": _segmentation_floors(train_rows, [rows[row] for row in annotated]),
        "human_ceiling": _ceiling(rows),
        "exemplars": _exemplar_facts(found, trained),
        "by_action_type": _by_number(test, predicted, true),
    }


def _numbers(
    predicted: np.ndarray,
    true: np.ndarray,
    test: list[Dive],
    limits: tuple[float, float],
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Metrics with 95 % intervals; subjects (dives, where nobody is named) are drawn with replacement."""
    subjects = np.array([fact.subject for fact in test])

    def scaled_l2(guess: np.ndarray, truth: np.ndarray) -> float:
        return 100 * relative_l2(guess, truth, limits) if limits[1] > limits[0] else float("nan")

    numbers = {}
    for name, metric in (("spearman", spearman_rho), ("mae", mae), ("relative_l2_x100", scaled_l2)):
        low, high = bootstrap_interval(metric, predicted, true, subjects, config.bootstrap, seed=config.seed)
        numbers[name] = interval_of(metric(predicted, true), low, high, predicted, true)
    return numbers


def _baseline_row(fact: Dive) -> dict[str, Any]:
    """A dive as baselines.py reads it, on a clock of 25 sampled frames a second."""
    return {
        "action_type": fact.action_type,
        "score": fact.score,
        "difficulty": fact.difficulty,
        "judge_scores": list(fact.judge_scores) or None,
        "transitions_s": [frame / 25 for frame in fact.transitions],
        "start_s": 0.0,
        "end_s": NUM_FRAMES / 25,
    }


def _segmentation_floors(
    train: list[dict[str, Any]], test: list[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    both = [row for row in test if len(row["transitions_s"]) >= 2]
    if not both or not any(len(row["transitions_s"]) >= 2 for row in train):
        return {}
    true = np.array([[row["transitions_s"][0] * 25, row["transitions_s"][-1] * 25] for row in both])
    return {
        name: {
            f"aiou_{round(100 * share)}": average_iou(temporal_iou(guess, true), share)
            for share in (0.5, 0.75)
        }
        for name, guess in transition_baselines(train, both).items()
    }


def _ceiling(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One judge of seven against the other six: what a person reaches."""
    panels = [
        row for row in rows if row["judge_scores"] and len(row["judge_scores"]) == 7 and row["difficulty"]
    ]
    if len(panels) < 10:
        return {"n": len(panels), "spearman": None, "reason": "fewer than ten test dives with seven judges"}
    one, rest = judge_agreement(panels, part=1)
    found = [spearman_rho(a, b) for a, b in zip(one, rest, strict=True)]
    return {"n": len(panels), "spearman": float(np.mean(found))}


def _exemplar_facts(found: list[Prediction], trained: HpMcoreTrainConfig) -> dict[str, Any]:
    counts = Counter(p.rule for p in found)
    return {
        "rule": trained.exemplars,
        "wanted": trained.num_exemplars,
        "fewer": sum(len(p.exemplars) < trained.num_exemplars for p in found),
        "fallback": {rule: count for rule, count in sorted(counts.items()) if rule != trained.exemplars},
    }


def _by_number(test: list[Dive], predicted: np.ndarray, true: np.ndarray) -> dict[str, dict[str, Any]]:
    kinds = np.array([fact.action_type for fact in test])
    table = {}
    for kind in sorted(set(kinds)):
        rows = kinds == kind
        rho = spearman_rho(predicted[rows], true[rows]) if rows.sum() > 2 else float("nan")
        table[str(kind)] = {
            "n": int(rows.sum()),
            "mae": mae(predicted[rows], true[rows]),
            "bias": float((predicted[rows] - true[rows]).mean()),
            "spearman": None if np.isnan(rho) else rho,
        }
    return table


def _prediction_rows(dives: Dives, found: list[Prediction], pool: list[int]) -> list[dict[str, Any]]:
    train = [_baseline_row(dives.facts[row]) for row in pool]
    medians = {
        kind: float(np.median([row["score"] for row in train if row["action_type"] == kind]))
        for kind in {row["action_type"] for row in train}
    }
    rows = []
    for p in found:
        fact = dives.facts[p.row]
        rows.append(
            {
                "clip_id": fact.clip_id,
                "subject_id": fact.subject_id or None,
                "action_type": fact.action_type or None,
                "split": fact.split,
                "score": fact.score,
                "predicted": p.score,
                "median_floor": medians.get(fact.action_type),
                "low": None if np.isnan(p.low) else p.low,
                "high": None if np.isnan(p.high) else p.high,
                "exemplar_ids": [dives.facts[row].clip_id for row in p.exemplars],
                "votes": list(p.votes),
                "exemplar_rule": p.rule,
                "contributions": list(p.contributions),
                "transition_frames": list(p.transitions),
            }
        )
    return rows


def _question(dives: Dives, rows: list[int], model: str, config: EvaluateConfig) -> str:
    """Hash of all that the result depends on: model, test dives, exemplars, settings."""
    digest = hashlib.sha256(json.dumps([model, config.model_dump(mode="json")]).encode())
    for row in sorted(rows, key=lambda row: dives.facts[row].clip_id):
        fact = dives.facts[row]
        told = [fact.clip_id, fact.subject, fact.action_type, fact.split, fact.score, fact.difficulty]
        told += [fact.transitions, fact.judge_scores]
        digest.update(json.dumps(told).encode())
        dives.hash_into(digest, row)
    return digest.hexdigest()
