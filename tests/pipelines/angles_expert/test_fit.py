from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import evaluate as evaluation
from pipelines.angles_expert.evaluate import evaluate_tables
from pipelines.angles_expert.fit import fit
from pipelines.checkpoint import load_bundle
from pipelines.config import AnglesTrainConfig, EvaluateConfig, TrackingConfig
from pipelines.errors import ConfigError, DataError
from pipelines.scorer import Scorer, flat_row

QUICK = AnglesTrainConfig(rate_hz=10.0, network_seeds=0)
REPEATED = QUICK.model_copy(update={"repetitions": True})


def changed(clips: pa.Table, column: str, change) -> pa.Table:
    rows = clips.to_pylist()
    for row in rows:
        row[column] = change(row)
    return pa.Table.from_pylist(rows, schema=clips.schema)


@pytest.fixture
def two_kinds(waving_tables):
    clips, poses = waving_tables
    return changed(clips, "action_type", lambda row: "AB"[int(row["clip_id"][-1])]), poses


@pytest.fixture
def run_dir(two_kinds, tmp_path):
    fit(*two_kinds, QUICK, tmp_path / "run", {"store": "s"})
    return tmp_path / "run"


def test_training_leaves_a_run_folder_and_is_not_done_twice(two_kinds, tmp_path):
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")
    summary = fit(*two_kinds, QUICK, tmp_path / "run", {"store": "s"}, tracking)
    assert (summary["clips"], summary["subjects"], summary["resumed"]) == (20, 10, False)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    told = {"config.json", "environment.json", "summary.json", "metrics.jsonl"}
    assert names == told | {"tracking", "plots", "model"}
    files = {path.name for path in (tmp_path / "run" / "model").iterdir()}
    assert files == {"config.json", "model.safetensors"}
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert row["val_loss"] == summary["best_val_loss"] == -row["val_merit_average"]
    assert sum(value for name, value in row.items() if name.startswith("weight_")) == pytest.approx(1)
    assert fit(*two_kinds, QUICK, tmp_path / "run", {}, tracking)["resumed"]
    with pytest.raises(ConfigError, match="belongs to another run"):
        fit(*two_kinds, QUICK.model_copy(update={"seed": 1}), tmp_path / "run", {})


def test_evaluation_reports_the_wave_beside_the_median(two_kinds, run_dir):
    told = evaluate_tables(run_dir, *two_kinds, EvaluateConfig())
    assert (told["kind"], told["n"], told["subjects"]) == ("angles", 8, 4)
    assert told["spearman"]["value"] > 0.6
    assert told["mae"]["value"] < told["median_floor"]["mae"]
    assert set(told["by_action_type"]) == {"A", "B"}
    assert "person_level" not in told
    assert evaluate_tables(run_dir, *two_kinds, EvaluateConfig())["stored"]


def test_marked_repetitions_are_learned_from_and_asked_for(two_kinds, tmp_path):
    clips, poses = two_kinds
    with pytest.raises(DataError, match="has no marked repetitions"):
        fit(clips, poses, REPEATED, tmp_path / "run", {})
    marked = changed(clips, "transitions_s", lambda row: [0.4, 0.8, 1.2])
    marked = changed(marked, "procedures", lambda row: ["rest", *["repetition"] * 3])
    fit(marked, poses, REPEATED, tmp_path / "run", {})
    assert "repetitions" in load_bundle(tmp_path / "run", "angles")[1]["weights"]
    told = evaluate_tables(tmp_path / "run", marked, poses, EvaluateConfig())
    assert told["mae"]["value"] < told["median_floor"]["mae"]
    with pytest.raises(DataError, match="has no marked repetitions"):
        evaluate_tables(tmp_path / "run", clips, poses, EvaluateConfig())
    rows = zip(marked.to_pylist(), poses.to_pylist(), strict=True)
    flat = [flat_row(clip, {"poses": pose}) for clip, pose in rows if clip["split"] == "test"]
    scored = Scorer(tmp_path / "run").score_rows(flat)
    table = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pylist()
    told = {row["clip_id"]: row["predicted"] for row in table}
    assert {row["clip_id"]: pytest.approx(row["score"]) for row in scored} == told


def test_pooling_over_people_is_another_question_with_rows_of_its_own(two_kinds, run_dir):
    alone = evaluate_tables(run_dir, *two_kinds, EvaluateConfig())
    told = evaluate_tables(run_dir, *two_kinds, EvaluateConfig(pool_people=True))
    assert told["evaluations"] == 2
    assert told["spearman"] == alone["spearman"]
    assert told["person_level"]["n"] == 8
    lines = evaluation.metrics_lines(told)
    assert [line.split("  ")[0] for line in lines if line.startswith("by person")] == ["by person"]
    assert "another task" in lines[-1]
    assert not any("person" in line for line in evaluation.metrics_lines(alone))


def test_test_rows_change_nothing_that_is_learned(two_kinds, run_dir, tmp_path):
    clips, poses = two_kinds
    other = changed(clips, "score", lambda row: 0.0 if row["split"] == "test" else row["score"])
    fit(other, poses, QUICK, tmp_path / "again", {})
    first, second = (load_bundle(folder, "angles")[0] for folder in (run_dir, tmp_path / "again"))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name].numpy(), second[name].numpy(), err_msg=name)


def test_one_ray_free_run_with_a_network_and_one_action_type(two_kinds, tmp_path):
    config = QUICK.model_copy(update={"network_seeds": 1, "epochs": 5, "action_types": ("A",)})
    assert fit(*two_kinds, config, tmp_path / "run", {})["clips"] == 10
    told = evaluate_tables(tmp_path / "run", *two_kinds, EvaluateConfig())
    assert list(told["by_action_type"]) == ["A"]
    assert "network" in load_bundle(tmp_path / "run", "angles")[1]["weights"]


def test_what_cannot_be_trained_or_scored_is_refused(two_kinds, run_dir, tmp_path):
    clips, poses = two_kinds
    with pytest.raises(DataError, match=r"0 training subjects have a score.*\['C'\].*A, B"):
        fit(clips, poses, QUICK.model_copy(update={"action_types": ("C",)}), tmp_path / "other", {})
    flat = changed(poses, "num_coordinates", lambda row: 2)
    flat = changed(flat, "keypoints", lambda row: np.reshape(row["keypoints"], (-1, 3))[:, :2].ravel())
    with pytest.raises(DataError, match="clip P00_0: has 2-D poses"):
        fit(clips, flat, QUICK, tmp_path / "other", {})
    assert not (tmp_path / "other").exists()
    leaked = changed(clips, "split", lambda row: "test" if row["subject_id"] == "P00" else row["split"])
    with pytest.raises(DataError, match="subject waves/P00: is a test subject"):
        evaluate_tables(run_dir, leaked, poses, EvaluateConfig())
    with pytest.raises(ConfigError, match="of kind 'angles'"):
        evaluation.evaluate_tables(run_dir, clips, poses, EvaluateConfig())


def test_scores_do_not_depend_on_the_order_of_the_test_rows(two_kinds, run_dir):
    clips, poses = two_kinds
    first = evaluate_tables(run_dir, clips, poses, EvaluateConfig())
    backward = clips.take(list(range(len(clips)))[::-1])
    second = evaluate_tables(run_dir, backward, poses, EvaluateConfig())
    assert second["stored"]
    assert first["mae"] == second["mae"]
