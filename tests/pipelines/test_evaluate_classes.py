"""A model of classes, from tables to F1; scikit-learn is the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score

from aqa_models.two_stage.config import ExpertConfig, SequenceConfig
from pipelines import fit
from pipelines.config import EvaluateConfig, ExpertTrainConfig, OptimizerConfig
from pipelines.errors import DataError
from pipelines.evaluate import evaluate_tables, metrics_lines
from pipelines.evaluate_classes import class_results
from pipelines.motion import load_motions
from pipelines.schema import PREDICTIONS

CONFIG = EvaluateConfig(bootstrap=100)


def with_values(table: pa.Table, column: str, change) -> pa.Table:
    changed = [{**row, column: change(row)} for row in table.to_pylist()]
    return pa.Table.from_pylist(changed, schema=table.schema)


def by_width(row: dict) -> str:
    """Three classes of waves, narrow to wide: 3, 3 and 2 people to learn from."""
    return "narrow" if row["score"] < 23 else "middle" if row["score"] < 34 else "wide"


@pytest.fixture
def classes(waving_tables) -> tuple[pa.Table, pa.Table]:
    """Waves in three classes, without scores."""
    clips = with_values(waving_tables[0], "group", by_width)
    return with_values(clips, "score", lambda row: None), waving_tables[1]


def training(**changes) -> ExpertTrainConfig:
    model = ExpertConfig(task="classes", head="linear", pooling="mean_max", finetune_encoder=True)
    settings = {"epochs": 30, "batch_size": 8, "sequence": SequenceConfig(skeleton="c15"), "model": model}
    small = {"encoder_units": 6, "encoder_layers": 1, "checkpoint_every": 99, "feature_dropout": 0.0}
    fast = {"optimizer": OptimizerConfig(learning_rate=2e-2), "crop_share": 1.0}
    return ExpertTrainConfig(**settings | small | fast | changes)


def test_f1_of_classes_is_that_of_scikit_learn(waving_tables):
    """Of five classes one is on neither side, one only predicted, one never predicted."""
    names = {"a": 3, "b": 9, "c": 9, "d": 4, "never": 1}
    motions = load_motions(*waving_tables)
    groups = np.random.default_rng(0).choice(list("abc"), len(motions))
    motions = [replace(m, group=str(group)) for m, group in zip(motions, groups, strict=True)]
    predicted = np.random.default_rng(1).choice([0, 1, 3], len(motions))
    found = class_results(motions, predicted, names, CONFIG)
    true = np.array([list(names).index(group) for group in groups])
    for kind in ("micro", "macro"):
        told = found[f"{kind}_f1"]
        assert told["value"] == pytest.approx(f1_score(true, predicted, average=kind, zero_division=0))
        assert told["low"] <= told["value"] <= told["high"]
        always_b = f1_score(true, np.ones_like(true), average=kind, zero_division=0)
        assert found["majority_floor"][f"{kind}_f1"] == pytest.approx(always_b)
    assert found["majority_floor"]["group"] == "b"  # of equally frequent ones the first
    assert (found["n"], found["subjects"]) == (28, 14)
    right = int(((true == 0) & (predicted == 0)).sum())
    assert found["classes"]["a"] == {"train": 3, "test": int((true == 0).sum()), "right": right}
    assert found["classes"]["never"] == {"train": 1, "test": 0, "right": 0}


def test_classes_from_tables_to_metrics(classes, tmp_path):
    clips, poses = classes
    run_dir = tmp_path / "run"
    summary = fit.train_expert(clips, poses, training(), run_dir, None, {})
    assert summary["val_accuracy"] > 0.5
    found = evaluate_tables(run_dir, clips, poses, CONFIG)
    rows = pq.read_table(run_dir / "predictions.parquet")
    assert rows.schema.equals(PREDICTIONS)
    true, told = rows["group"].to_pylist(), rows["predicted_group"].to_pylist()
    test = [row for row in clips.to_pylist() if row["split"] == "test"]
    assert true == [row["group"] for row in test]
    assert len(set(told)) > 1
    for kind in ("micro", "macro"):
        assert found[f"{kind}_f1"]["value"] == pytest.approx(f1_score(true, told, average=kind))
    assert found["micro_f1"]["value"] > found["majority_floor"]["micro_f1"]  # it learned something
    assert {name: counts["train"] for name, counts in found["classes"].items()} == {
        "middle": 6,
        "narrow": 6,
        "wide": 4,
    }
    text = metrics_lines(found)
    assert text[0] == "8 clips of 4 subjects"
    assert any(line.startswith("always middle") for line in text)
    assert text[-1].endswith("of 2 right, 4 in training")
    again = evaluate_tables(run_dir, clips, poses, CONFIG)
    assert again == {**found, "stored": True}
    assert metrics_lines(again)[-1].startswith("These test clips were scored before")


def test_only_known_groups_and_action_types_are_judged(classes, tmp_path):
    clips, poses = classes
    run_dir = tmp_path / "run"
    fit.train_expert(clips, poses, training(epochs=1), run_dir, None, {})
    odd = with_values(clips, "group", lambda row: "odd" if row["clip_id"] == "P10_0" else row["group"])
    assert evaluate_tables(run_dir, odd, poses, CONFIG)["n"] == 7
    jumps = with_values(clips, "action_type", lambda row: "jump" if row["clip_id"] == "P11_0" else "wave")
    assert evaluate_tables(run_dir, jumps, poses, CONFIG)["n"] == 7
    nobody = with_values(clips, "group", lambda row: None)
    wanted = (
        r"no row has split test, a pose, a group of \['middle', 'narrow', 'wide'\], and an action type of "
        r"\['wave'\]. Fill the column split"
    )
    with pytest.raises(DataError, match=wanted):
        evaluate_tables(run_dir, nobody, poses, CONFIG)
    leaky = with_values(clips, "split", lambda row: "test")
    with pytest.raises(DataError, match="subject waves/P00: is a test subject, but .*run was trained on it"):
        evaluate_tables(run_dir, leaky, poses, CONFIG)


def test_groups_that_cannot_be_learned_are_refused(classes, tmp_path):
    clips, poses = classes
    with pytest.raises(DataError, match="training people by group: same 8; classes need at least two groups"):
        fit.train_expert(
            with_values(clips, "group", lambda row: "same"), poses, training(), tmp_path, None, {}
        )
    odd = with_values(clips, "group", lambda row: "odd" if row["split"] == "val" else row["group"])
    with pytest.raises(DataError, match="clip P08_0: has group 'odd', but training had .'middle', 'narrow'"):
        fit.train_expert(odd, poses, training(), tmp_path / "odd", None, {})
    jump = with_values(clips, "action_type", lambda row: "jump" if row["split"] == "val" else "wave")
    with pytest.raises(DataError, match=r"clip P08_0: has action type 'jump', but training had \['wave'\]"):
        fit.train_expert(jump, poses, training(), tmp_path / "jump", None, {})
    with pytest.raises(DataError, match="clips table: no training clip has a group, a pose. Fill the clips"):
        nobody = with_values(clips, "group", lambda row: None)
        fit.train_expert(nobody, poses, training(), tmp_path / "nobody", None, {})
