from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import spearmanr

from aqa_models.two_stage.config import ExpertConfig, SequenceConfig
from aqa_models.two_stage.sequence import make_sequence
from pipelines import fit
from pipelines.config import EvaluateConfig, ExpertTrainConfig, OptimizerConfig
from pipelines.errors import ConfigError, CorruptError, DataError
from pipelines.evaluate import evaluate_tables, predict
from pipelines.motion import load_motions
from pipelines.schema import PREDICTIONS

CONFIG = EvaluateConfig(bootstrap=200)


def with_values(table: pa.Table, column: str, change) -> pa.Table:
    changed = [{**row, column: change(row)} for row in table.to_pylist()]
    return pa.Table.from_pylist(changed, schema=table.schema)


@pytest.fixture
def run_dir(waving_tables, tmp_path):
    config = ExpertTrainConfig(
        epochs=40,
        batch_size=8,
        sequence=SequenceConfig(skeleton="c15"),
        model=ExpertConfig(lstm_units=6, finetune_encoder=True),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        encoder_units=6,
        crop_share=1.0,
        feature_dropout=0.0,
        checkpoint_every=40,
    )
    fit.train_expert(*waving_tables, config, tmp_path / "run", None, {})
    return tmp_path / "run"


def test_numbers_agree_with_scipy_and_with_the_predictions_file(waving_tables, run_dir):
    clips, poses = waving_tables
    result = evaluate_tables(run_dir, clips, poses, CONFIG)
    rows = pq.read_table(run_dir / "predictions.parquet")
    assert rows.schema.equals(PREDICTIONS)
    predicted, true = (np.array(rows[name]) for name in ("predicted", "score"))
    assert result["n"] == len(true) == 8
    assert result["subjects"] == 4
    assert result["spearman"]["value"] == pytest.approx(spearmanr(predicted, true).statistic)
    assert result["mae"]["value"] == pytest.approx(np.abs(predicted - true).mean())
    assert result["rmse"]["value"] == pytest.approx(np.sqrt(((predicted - true) ** 2).mean()))
    assert result["mae"]["low"] <= result["mae"]["value"] <= result["mae"]["high"]
    splits = dict(zip(clips["clip_id"].to_pylist(), clips["split"].to_pylist(), strict=True))
    assert {splits[name] for name in rows["clip_id"].to_pylist()} == {"test"}
    train = [row["score"] for row in clips.to_pylist() if row["split"] == "train"]
    assert set(rows["median_floor"].to_pylist()) == {np.median(train)}
    assert result["median_floor"]["mae"] == pytest.approx(np.abs(np.median(train) - true).mean())
    assert result["mae"]["value"] < result["median_floor"]["mae"]  # it learned something
    assert result["by_action_type"]["wave"]["n"] == 8
    stored = json.loads((run_dir / "metrics.json").read_text())
    assert {**stored, "stored": False} == result


def test_the_test_split_is_scored_once(waving_tables, run_dir, caplog, monkeypatch):
    first = evaluate_tables(run_dir, *waving_tables, CONFIG)
    monkeypatch.setattr("pipelines.evaluate.predict", None)  # would fail if it were called
    again = evaluate_tables(run_dir, *waving_tables, CONFIG)
    assert again == {**first, "stored": True}
    assert "were scored before; returning the stored result" in caplog.text
    monkeypatch.undo()
    fewer = evaluate_tables(run_dir, waving_tables[0].slice(0, 26), waving_tables[1], CONFIG)
    assert (fewer["n"], fewer["evaluations"], fewer["stored"]) == (6, 2, False)


def test_predictions_are_in_points_and_do_not_depend_on_the_batch(waving_tables, run_dir):
    from pipelines.checkpoint import load_bundle
    from pipelines.expert_phase import build_members

    motions = load_motions(*waving_tables)
    tensors, description = load_bundle(run_dir, "expert")
    together = predict(motions, tensors, description)
    alone = np.concatenate([predict([motion], tensors, description) for motion in motions])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    model = build_members(description).eval()
    model.load_state_dict(tensors)
    x = make_sequence(motions[0].keypoints, motions[0].time_s, "c15", SequenceConfig(skeleton="c15")).x
    with torch.no_grad():
        shown = torch.ones(1, len(x), dtype=torch.bool)
        z = float(model(torch.from_numpy(x)[None], shown, torch.zeros(1, dtype=torch.long)))
    target = description["targets"]["wave"]
    assert alone[0] == pytest.approx(z * target["deviation"] + target["mean"], abs=1e-4)
    scores = [motion.score for motion in motions if motion.split == "train"]
    assert target["mean"] == pytest.approx(np.mean(scores))


def test_what_is_undefined_is_null_with_a_reason(waving_tables, run_dir):
    clips = with_values(waving_tables[0], "score", lambda row: 20.0)
    result = evaluate_tables(run_dir, clips, waving_tables[1], CONFIG)
    assert result["spearman"] == {
        "value": None,
        "low": None,
        "high": None,
        "reason": "all judged scores are equal",
    }
    assert "NaN" not in (run_dir / "metrics.json").read_text()
    one = evaluate_tables(run_dir, waving_tables[0].slice(27), waving_tables[1], CONFIG)
    assert one["spearman"]["reason"] == "fewer than two clips"
    assert one["mae"]["reason"] == "no interval from a single subject"


def test_wrong_questions_are_refused(waving_tables, run_dir, tmp_path):
    clips, poses = waving_tables
    leaky = with_values(clips, "split", lambda row: "test")
    with pytest.raises(DataError, match="subject waves/P00: is a test subject, but .*run was trained on it"):
        evaluate_tables(run_dir, leaky, poses, CONFIG)
    other = with_values(clips, "action_type", lambda row: "jump")
    with pytest.raises(DataError, match=r"no row has split test, .* an action type of \['wave'\]"):
        evaluate_tables(run_dir, other, poses, CONFIG)
    with pytest.raises(ConfigError, match="holds no trained model"):
        evaluate_tables(tmp_path / "nowhere", clips, poses, CONFIG)
    (run_dir / "metrics.json").write_text("{")
    with pytest.raises(CorruptError, match="metrics.json: is not readable as JSON. Delete it"):
        evaluate_tables(run_dir, clips, poses, CONFIG)
