"""The numbers of an evaluation against independent computation, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_dives import NUMBERS, SEGMENTING, changed, make_tables, settings
from scipy.stats import spearmanr

from pipelines.checkpoint import load_bundle
from pipelines.config import EvaluateConfig
from pipelines.errors import ConfigError, DataError
from pipelines.hp_mcore.evaluate import evaluate_tables
from pipelines.hp_mcore.fit import fit
from pipelines.schema import PREDICTIONS

CONFIG = EvaluateConfig(bootstrap=100)


@pytest.fixture(scope="module")
def tables() -> tuple[pa.Table, dict[str, pa.Table]]:
    return make_tables(train=3, val=1, test=4)


@pytest.fixture(scope="module")
def trained(tables, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    fit(*tables, settings(SEGMENTING, epochs=3, by_difficulty=True, num_exemplars=3), folder, {})
    shutil.rmtree(folder / "checkpoints")
    return folder


@pytest.fixture
def run_dir(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def of_clips(table: pa.Table, values: dict[str, dict]) -> pa.Table:
    return changed(table, lambda row: values.get(row["clip_id"], {}))


def test_numbers_agree_with_scipy_and_with_the_predictions_file(tables, run_dir):
    result = evaluate_tables(run_dir, *tables, CONFIG)
    rows = pq.read_table(run_dir / "predictions.parquet")
    clips = {row["clip_id"]: row for row in tables[0].to_pylist()}
    predicted, true = (np.array(rows[name]) for name in ("predicted", "score"))
    assert true.tolist() == [clips[name]["score"] for name in rows["clip_id"].to_pylist()]
    assert result["n"] == result["subjects"] == len(true) == 12
    assert result["spearman"]["value"] == pytest.approx(spearmanr(predicted, true).statistic)
    assert result["mae"]["value"] == pytest.approx(np.abs(predicted - true).mean())
    squared = 100 * np.square((predicted - true) / np.ptp(true)).mean()
    assert result["relative_l2_x100"]["value"] == pytest.approx(squared)
    for name in ("spearman", "mae", "relative_l2_x100"):
        assert result[name]["low"] <= result[name]["value"] <= result[name]["high"]
    assert result["score_range"] == {
        "low": true.min(),
        "high": true.max(),
        "source": "lowest and highest true test score",
    }
    for number in NUMBERS:
        own = np.array([name.startswith(number) for name in rows["clip_id"].to_pylist()])
        assert result["by_action_type"][number] == {
            "n": 4,
            "mae": pytest.approx(np.abs(predicted - true)[own].mean()),
            "bias": pytest.approx((predicted - true)[own].mean()),
            "spearman": pytest.approx(spearmanr(predicted[own], true[own]).statistic),
        }
    assert result["mae"]["value"] < result["baselines"]["mean of the dive number"]["mae"]["value"]
    assert {**json.loads((run_dir / "metrics.json").read_text()), "stored": False} == result
    assert (result["kind"], result["evaluations"]) == ("hp_mcore", 1)


def test_predictions_say_how_each_score_came_about(tables, run_dir):
    evaluate_tables(run_dir, *tables, CONFIG)
    table = pq.read_table(run_dir / "predictions.parquet")
    assert table.schema.equals(PREDICTIONS)
    clips = {row["clip_id"]: row for row in tables[0].to_pylist()}
    assert len(table) == 12
    for row in table.to_pylist():
        clip = clips[row["clip_id"]]
        assert (row["split"], row["subject_id"]) == ("test", clip["subject_id"])
        number = row["action_type"]
        assert sorted(row["exemplar_ids"]) == [f"{number}_{k}" for k in range(3)]
        assert row["exemplar_rule"] == "number"
        assert row["predicted"] == pytest.approx(np.mean(row["votes"]))
        assert min(row["votes"]) <= row["low"] <= row["high"] <= max(row["votes"])
        scores = [clips[name]["score"] for name in row["exemplar_ids"]]
        assert sum(row["contributions"]) == pytest.approx(row["predicted"] - np.mean(scores), abs=1e-4)
        assert row["median_floor"] == np.median(scores)
        assert len(row["transition_frames"]) == 2
        assert 1 <= row["transition_frames"][0] < row["transition_frames"][1] <= 95


def test_segmentation_and_its_floor_agree_with_numpy(tables, run_dir):
    result = evaluate_tables(run_dir, *tables, CONFIG)
    clips = {row["clip_id"]: row for row in tables[0].to_pylist()}
    rows = pq.read_table(run_dir / "predictions.parquet").to_pylist()
    true = np.array([clips[row["clip_id"]]["transitions_s"] for row in rows]) * 25

    def share(guess: np.ndarray, threshold: float) -> float:
        shared = np.minimum(guess, true)[:, 1] - np.maximum(guess, true)[:, 0]
        union = np.maximum(guess, true)[:, 1] - np.minimum(guess, true)[:, 0]
        return float((shared / union >= threshold).mean())

    found = np.array([row["transition_frames"] for row in rows])
    medians = {
        number: np.median([clips[f"{number}_{k}"]["transitions_s"] for k in range(3)], axis=0) * 25
        for number in NUMBERS
    }
    guess = np.array([medians[row["action_type"]] for row in rows])
    floor = result["segmentation_baselines"]["median of the dive number"]
    for name, threshold in (("aiou_50", 0.5), ("aiou_75", 0.75)):
        assert result["segmentation"][name] == pytest.approx(share(found, threshold))
        assert floor[name] == pytest.approx(share(guess, threshold))
    assert result["segmentation"]["transition_error"] == pytest.approx(np.abs(found - true).mean())
    assert result["segmentation"]["aiou_75"] > floor["aiou_75"]  # it learned something


def test_baselines_stand_beside_the_model(tables, run_dir):
    result = evaluate_tables(run_dir, *tables, CONFIG)
    rows = tables[0].to_pylist()
    train = [row for row in rows if row["split"] == "train"]
    test = [row for row in rows if row["split"] == "test"]
    means = {n: np.mean([row["score"] for row in train if row["action_type"] == n]) for n in NUMBERS}
    error = np.mean([abs(row["score"] - means[row["action_type"]]) for row in test])
    assert result["baselines"]["mean of the dive number"]["mae"]["value"] == pytest.approx(error)
    assert set(result["baselines"]) == {
        "mean of the dive number",
        "difficulty x completeness of the dive number",
        "mean of the difficulty",
        "difficulty x mean completeness",
        "mean of the rotation group",
    }
    assert set(result["segmentation_baselines"]) == {"median of the dive number", "median of all dives"}
    assert result["human_ceiling"]["spearman"] is None
    assert result["exemplars"] == {"rule": "number", "wanted": 3, "fewer": 0, "fallback": {}}


def test_judges_are_the_ceiling_where_there_are_seven(tables, run_dir):
    def awards(row: dict) -> dict:
        level = row["score"] / row["difficulty"] / 3
        return {
            "judge_scores": [level - 0.3, level - 0.2, level - 0.1, level, level, level + 0.1, level + 0.2]
        }

    result = evaluate_tables(run_dir, changed(tables[0], awards), tables[1], CONFIG)
    # All seven agree on the order of the dives; only difficulty and rank decide.
    assert result["human_ceiling"] == {"n": 12, "spearman": pytest.approx(1.0, abs=0.02)}


def test_the_test_dives_are_scored_once(tables, run_dir, caplog, monkeypatch):
    first = evaluate_tables(run_dir, *tables, CONFIG)
    monkeypatch.setattr("pipelines.hp_mcore.evaluate.score_dives", None)  # would fail if it were called
    again = evaluate_tables(run_dir, *tables, CONFIG)
    assert again == {**first, "stored": True}
    assert "were scored before; returning the stored result" in caplog.text
    monkeypatch.undo()
    fewer = evaluate_tables(run_dir, tables[0].slice(0, 23), tables[1], CONFIG)
    assert (fewer["n"], fewer["evaluations"], fewer["stored"]) == (11, 2, False)


def test_other_exemplars_are_another_question(tables, run_dir):
    first = evaluate_tables(run_dir, *tables, CONFIG)
    corrected = of_clips(tables[0], {"107b_0": {"score": 90.0}})
    second = evaluate_tables(run_dir, corrected, tables[1], CONFIG)
    assert not second["stored"]
    assert second["mae"]["value"] != first["mae"]["value"]


def test_validation_dives_are_no_exemplars(tables, run_dir):
    """They chose the epoch; only dives that were trained on are compared with."""
    _, description = load_bundle(run_dir, "hp_mcore")
    evaluate_tables(run_dir, *tables, CONFIG)
    rows = pq.read_table(run_dir / "predictions.parquet").to_pylist()
    assert {name for row in rows for name in row["exemplar_ids"]} == set(description["train_clips"])


def test_dives_without_annotated_transitions_are_scored(tables, run_dir):
    test = [row["clip_id"] for row in tables[0].to_pylist() if row["split"] == "test"]
    expected = evaluate_tables(run_dir, *tables, CONFIG)
    one = of_clips(tables[0], {test[0]: {"transitions_s": None, "procedures": None}})
    found = evaluate_tables(run_dir, one, tables[1], CONFIG)
    assert found["mae"] == expected["mae"]
    nobody = of_clips(tables[0], {name: {"transitions_s": None, "procedures": None} for name in test})
    found = evaluate_tables(run_dir, nobody, tables[1], CONFIG)
    assert found["mae"] == expected["mae"]
    assert (found["segmentation"], found["segmentation_baselines"]) == ({}, {})


def test_numbers_never_seen_fall_back_and_are_counted(tables, run_dir):
    other = of_clips(tables[0], {"107b_4": {"action_type": "105b"}, "107b_5": {"action_type": "612b"}})
    result = evaluate_tables(run_dir, other, tables[1], CONFIG)
    assert result["exemplars"] == {
        "rule": "number",
        "wanted": 3,
        "fewer": 0,
        "fallback": {"any": 1, "rotation": 1},
    }
    rows = {row["clip_id"]: row for row in pq.read_table(run_dir / "predictions.parquet").to_pylist()}
    assert rows["107b_4"]["exemplar_rule"] == "rotation"
    assert rows["107b_4"]["median_floor"] is None
    assert result["by_action_type"]["105b"]["spearman"] is None


def test_what_is_undefined_is_null_with_a_reason(tables, run_dir):
    alike = changed(tables[0], lambda row: {"score": 60.0} if row["split"] == "test" else {})
    result = evaluate_tables(run_dir, alike, tables[1], CONFIG)
    for name in ("spearman", "relative_l2_x100"):
        assert result[name] == {
            "value": None,
            "low": None,
            "high": None,
            "reason": "all judged scores are equal",
        }
    assert result["mae"]["value"] > 0
    assert "NaN" not in (run_dir / "metrics.json").read_text()


def test_wrong_questions_are_refused(tables, run_dir, tmp_path):
    clips, streams = tables
    leaky = changed(clips, lambda row: {"split": "test"})
    with pytest.raises(
        DataError, match="subject made/107b-0: is a test subject, but .*run was trained on it. Use the splits"
    ):
        evaluate_tables(run_dir, leaky, streams, CONFIG)
    chosen = of_clips(clips, {"107b_3": {"split": "test"}})  # it chose the epoch
    with pytest.raises(DataError, match="subject made/107b-3: is a test subject"):
        evaluate_tables(run_dir, chosen, streams, CONFIG)
    nobody = changed(clips, lambda row: {"split": "train"})
    with pytest.raises(
        DataError, match="clips table: no row has split test, a score, and all that the model"
    ):
        evaluate_tables(run_dir, nobody, streams, CONFIG)
    alone = clips.filter(pa.array([split == "test" for split in clips["split"].to_pylist()]))
    with pytest.raises(
        DataError, match="it holds none of the 9 dives that .*run was trained on: there are no exemplars"
    ):
        evaluate_tables(run_dir, alone, streams, CONFIG)
    hard = of_clips(clips, {"107b_4": {"difficulty": None}})
    with pytest.raises(DataError, match="clip 107b_4: has difficulty None"):
        evaluate_tables(run_dir, hard, streams, CONFIG)
    with pytest.raises(ConfigError, match="holds no trained model"):
        evaluate_tables(tmp_path / "nowhere", clips, streams, CONFIG)
    assert not (run_dir / "metrics.json").exists()
