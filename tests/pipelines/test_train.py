from __future__ import annotations

from pathlib import Path

import pytest

from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig, SequenceConfig
from pipelines import train
from pipelines.bundle import verify_bundle
from pipelines.config import AnglesTrainConfig, Config, EvaluateConfig, ExpertTrainConfig, PretrainConfig
from pipelines.errors import ConfigError, DataError
from pipelines.evaluate import evaluate
from pipelines.store import open_store

SEQUENCE = SequenceConfig(skeleton="c15")
SIZES = NonExpertConfig(encoder_units=6, decoder_units=6, pace_units=6, discriminator_units=4)
CONFIG = Config(
    pretrain=PretrainConfig(epochs=2, sequence=SEQUENCE, model=SIZES),
    expert=ExpertTrainConfig(epochs=2, sequence=SEQUENCE, model=ExpertConfig(lstm_units=4)),
    angles=AnglesTrainConfig(rate_hz=10.0, network_seeds=0),
    evaluate=EvaluateConfig(bootstrap=100, pool_people=True),
)


def put_poses(store, poses, name: str) -> str:
    table = store.create_poses({"made by": name})
    facts = table.write_file(poses)
    with table.writer() as writer:
        writer.commit([facts])
    return table.path.name


@pytest.fixture
def store(waving_tables, tmp_path) -> Path:
    opened = open_store(tmp_path / "store", create=True)
    opened.put_clips(waving_tables[0])
    put_poses(opened, waving_tables[1], "test")
    return tmp_path / "store"


def test_the_verbs_work_on_a_store_and_track_one_run_each(store, tmp_path, monkeypatch, empty_database):
    import sqlite3

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "mlflow.db").write_bytes(empty_database)
    train.pretrain(store, "base", CONFIG, runs=runs)
    train.expert(store, "score", runs / "base", CONFIG, runs=runs)
    result = evaluate(runs / "score", store, CONFIG)
    assert result["n"] == 8
    assert evaluate(runs / "score", store, CONFIG)["stored"]
    with sqlite3.connect(runs / "mlflow.db") as database:
        found = database.execute("select name, status from runs order by start_time").fetchall()
        tags = dict(database.execute("select key, value from tags").fetchall())
        test = database.execute("select value from metrics where key = 'test_mae'").fetchall()
    assert found == [("base", "FINISHED"), ("score", "FINISHED")]
    assert tags["data.store"] == str(store)
    assert tags["data.poses_key"] == open_store(store).pose_keys()[0]
    assert int(tags["data.poses_version"]) >= 0
    assert test == [(result["mae"]["value"],)]


def test_angles_are_trained_on_a_store_and_evaluated_from_it(store, tmp_path, monkeypatch, empty_database):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert train.angles(store, "angles", CONFIG, runs=tmp_path / "runs", dry_run=True)["clips"] == 28
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_bytes(empty_database)
    summary = train.angles(store, "angles", CONFIG, runs=tmp_path / "runs")
    assert summary["clips"] == 20
    found = evaluate(tmp_path / "runs" / "angles", store, CONFIG)
    assert (found["kind"], found["n"], found["person_level"]["n"]) == ("angles", 8, 8)
    checked = verify_bundle(tmp_path / "runs" / "angles" / "bundle")
    assert (checked["kind"], checked["examples"], checked["largest_difference"] < 1e-4) == ("angles", 8, True)


def test_a_dry_run_writes_nothing(store, tmp_path):
    plan = train.pretrain(store, "base", CONFIG, runs=tmp_path / "runs", dry_run=True)
    assert (plan["clips"], plan["extracted"]) == (28, 28)
    assert plan["splits"] == {"test": 8, "train": 16, "val": 4}
    assert not (tmp_path / "runs").exists()


def test_the_pose_table_must_be_named_if_there_are_several(store, waving_tables, tmp_path):
    opened = open_store(store)
    key = put_poses(opened, waving_tables[1], "other")
    with pytest.raises(DataError, match="it holds the pose tables .*Choose one with --poses KEY"):
        train.pretrain(store, "base", CONFIG, runs=tmp_path / "runs", dry_run=True)
    chosen = CONFIG.model_copy(update={"pretrain": CONFIG.pretrain.model_copy(update={"poses": key})})
    assert train.pretrain(store, "base", chosen, runs=tmp_path / "runs", dry_run=True)["poses_key"] == key


def test_a_name_is_not_a_path(store, tmp_path):
    for name in ("../up", "a/b", "", ".."):
        with pytest.raises(ConfigError, match="is not a plain folder name"):
            train.pretrain(store, name, CONFIG, runs=tmp_path / "runs")
