"""Scores the test clips of a store with an angles expert, each recording alone or person by person.

The test rows are used once: the result is stored in the run folder, and the same question again is answered
from there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.angles_expert.performances import make_performances
from pipelines.checkpoint import load_bundle
from pipelines.config import Config, EvaluateConfig
from pipelines.evaluate import answer_once, motions_to_judge, prediction_rows, question_of, results
from pipelines.store import snapshot_of

if TYPE_CHECKING:
    import pyarrow as pa


def evaluate(run: Path, store: Path, config: Config) -> dict[str, Any]:
    """Scores the test clips of a store, from the tables the run was trained on; see `evaluate_tables`.

    Args:
        run: folder of a finished `aqa train angles`.
        store: the feature store.
        config: the section `evaluate` is used.
    """
    _, description = load_bundle(run, "angles")
    clips, tables, _ = snapshot_of(store, {"poses": description["provenance"].get("poses_key", "")})
    return evaluate_tables(run, clips, tables["poses"], config.evaluate)


def evaluate_tables(
    run_dir: Path, clips: pa.Table, poses: pa.Table, config: EvaluateConfig
) -> dict[str, Any]:
    """Scores the test clips.

    Args:
        run_dir: folder of a finished run.
        clips: rows of CLIPS; those with split test, a score and a known action type are scored.
        poses: rows of POSES.
        config: resamples and seed of the intervals; pool_people adds scores from all
            test recordings of a person.

    Returns:
        What metrics.json holds, as `pipelines.evaluate.evaluate_tables` says; with pool_people also
        `person_level`, the same numbers for the other task of seeing all recordings of a person.
        predictions.parquet lies beside it (recordings alone).

    Raises:
        DataError: nothing to score, poses that cannot be used, or a test subject took part in training.
        ConfigError, CorruptError: the run folder holds no whole model.
    """
    from aqa_models.angles_expert.state import expert_of

    tensors, description = load_bundle(run_dir, "angles")
    wanted = description["targets"]
    motions = motions_to_judge(run_dir, clips, poses, description)

    def make() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        expert = expert_of(tensors, description["expert"])
        marked = description.get("repetitions", False)
        performances = make_performances(motions, description["rate_hz"], marked)
        alone = expert.predict(performances)
        found = {"kind": "angles", **results(motions, alone, wanted, config)}
        if config.pool_people:
            found["person_level"] = results(motions, expert.predict_pooled(performances), wanted, config)
        return found, prediction_rows(motions, alone, wanted)

    question = question_of(motions, description["sha256"], config)
    return answer_once(run_dir, question, description["best_epoch"], make)
