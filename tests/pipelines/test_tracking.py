from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys

import pytest

from pipelines import tracking
from pipelines.config import TrackingConfig


def write_rows(run_dir, epochs: range) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"epoch": e, "loss": 1 / (e + 1), "val_loss": 2.0}) + "\n" for e in epochs)


def query(database, text: str) -> list[tuple]:
    with sqlite3.connect(database) as connection:
        return connection.execute(text).fetchall()


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "first"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    return folder


SETTINGS = {"epochs": 4, "model": {"encoder_units": 8, "paces": [0.6, 1.0]}}
PROVENANCE = {"store": "/data/store", "key": "abc", "poses_version": 3}


def test_a_run_and_its_resumption_are_one_run_in_sqlite(run_dir):
    """Read back with sqlite3, not with MLflow."""
    config = TrackingConfig(experiment="waves")
    write_rows(run_dir, range(2))
    with pytest.raises(ZeroDivisionError), tracking.track(config, run_dir, SETTINGS, PROVENANCE, "pretrain"):
        _ = 1 / 0
    database = run_dir.parent / "mlflow.db"
    assert query(database, "select status from runs") == [("FAILED",)]
    write_rows(run_dir, range(2, 4))
    with tracking.track(config, run_dir, SETTINGS, PROVENANCE, "pretrain") as tracker:
        tracker.finish({"best_epoch": 3}, [run_dir / "model"])
    tracking.log_evaluation(run_dir, {"test_mae": 4.5}, [run_dir / "metrics.jsonl"])

    assert query(database, "select name, status from runs") == [("first", "FINISHED")]
    assert query(database, "select name from experiments where name = 'waves'")
    found = query(database, "select step, value from metrics where key = 'loss' order by step")
    assert found == [(0, 1.0), (1, 0.5), (2, 1 / 3), (3, 0.25)]
    assert query(database, "select value from metrics where key = 'test_mae'") == [(4.5,)]
    parameters = dict(query(database, "select key, value from params"))
    assert parameters == {"epochs": "4", "model.encoder_units": "8", "model.paces": "[0.6, 1.0]"}
    tags = dict(query(database, "select key, value from tags"))
    assert (tags["phase"], tags["data.store"], tags["data.poses_version"]) == ("pretrain", "/data/store", "3")
    assert len(tags["git.commit"]) == 40
    assert tags["git.dirty"] in ("true", "false")
    kept = [path.name for path in (run_dir.parent / "mlartifacts").rglob("*.json*")]
    assert sorted(kept) == ["config.json", "metrics.jsonl"]
    assert not (run_dir.parent.parent / "mlruns").exists()


def test_metrics_are_copied_while_training(run_dir, monkeypatch):
    monkeypatch.setattr(tracking, "_EVERY_S", 0.05)
    with tracking.track(TrackingConfig(), run_dir, SETTINGS, {}, "expert") as tracker:
        write_rows(run_dir, range(3))
        (run_dir / "metrics.jsonl").open("a").write('{"epoch": 3, "lo')  # a line being written
        for _ in range(200):
            if tracker.record["last_epoch"] == 2:
                break
            tracking.time.sleep(0.05)
        assert tracker.record["last_epoch"] == 2


def test_where_the_server_is_comes_from_config_then_environment_then_the_run(run_dir, monkeypatch):
    assert tracking.tracking_uri(TrackingConfig(), run_dir) == f"sqlite:///{run_dir.parent}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking.tracking_uri(TrackingConfig(), run_dir) == "http://server:5000"
    assert tracking.tracking_uri(TrackingConfig(uri="sqlite:////x.db"), run_dir) == "sqlite:////x.db"


def test_no_tracking_writes_nothing(run_dir):
    with tracking.track(None, run_dir, SETTINGS, {}, "pretrain") as tracker:
        tracker.finish({"best_epoch": 1}, [])
    tracking.log_evaluation(run_dir, {"test_mae": 1.0}, [])
    assert [path.name for path in run_dir.iterdir()] == ["model"]
    assert not (run_dir.parent / "mlflow.db").exists()


def test_flatten():
    assert tracking.flatten({"a": 1, "b": {"c": 2, "d": {"e": None}}}) == {"a": 1, "b.c": 2, "b.d.e": None}


def test_importing_the_module_does_not_import_mlflow():
    code = "import sys, pipelines.fit, pipelines.train, pipelines.evaluate; print('mlflow' in sys.modules)"
    here = {**os.environ, "PYTHONPATH": str(tracking.Path(tracking.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=here, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_two_runs_that_start_together_share_a_new_database(tmp_path):
    """Without the lock both make the tables, and one of them fails."""
    code = (
        "import sys, time, mlflow\n"
        "from pathlib import Path\n"
        "from pipelines.tracking import _client\n"
        "Path(sys.argv[2]).touch()\n"
        "while len(list(Path(sys.argv[2]).parent.glob('ready*'))) < 3:\n"
        "    time.sleep(0.001)\n"
        "print(len(_client('sqlite:///' + sys.argv[1]).search_experiments()))\n"
    )
    here = {**os.environ, "PYTHONPATH": str(tracking.Path(tracking.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(tmp_path / "mlflow.db")]
    both = [
        subprocess.Popen(
            [*command, str(tmp_path / f"ready{k}")], env=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for k in range(3)
    ]
    for process in both:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()[-500:]
        assert out.decode().strip() == "1"
