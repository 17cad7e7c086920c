from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request

import pytest

from pipelines import cli, tracking
from pipelines.config import TrackingConfig
from pipelines.errors import ConfigError
from pipelines.journal import Journal


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


@pytest.fixture
def database(run_dir, empty_database):
    (run_dir.parent / "mlflow.db").write_bytes(empty_database)
    return run_dir.parent / "mlflow.db"


SETTINGS = {"epochs": 4, "model": {"encoder_units": 8, "paces": [0.6, 1.0]}}
PROVENANCE = {"store": "/data/store", "key": "abc", "poses_version": 3}
LOSSES = "select step, value from metrics where key = 'loss' order by step"


def test_a_run_and_its_resumption_are_one_run_in_sqlite(run_dir, database):
    """Read back with sqlite3, not with MLflow."""
    config = TrackingConfig(experiment="waves")
    write_rows(run_dir, range(2))
    with pytest.raises(ZeroDivisionError), tracking.track(config, run_dir, SETTINGS, PROVENANCE, "pretrain"):
        _ = 1 / 0
    assert query(database, "select status from runs") == [("FAILED",)]
    (run_dir / "metrics.jsonl").write_text("")  # resumed one epoch back: that one is trained again
    write_rows(run_dir, range(1))
    write_rows(run_dir, range(1, 4))
    with tracking.track(config, run_dir, SETTINGS, PROVENANCE, "pretrain") as tracker:
        tracker.dataset("rows", "d" * 64, "training", {"store": "/data/store", "poses_version": 3})
        tracker.finish({"best_epoch": 3}, [run_dir / "model"])
    about = {"digest": "e" * 64, "clips": 5}
    tracking.log_evaluation(run_dir, {"test_mae": 4.5}, [run_dir / "metrics.jsonl"], step=0, dataset=about)

    assert query(database, "select name, status from runs") == [("first", "FINISHED")]
    assert query(database, "select name from experiments where name = 'waves'")
    assert query(database, LOSSES) == [(0, 1.0), (1, 0.5), (2, 1 / 3), (3, 0.25)]
    assert query(database, "select value from metrics where key = 'test_mae'") == [(4.5,)]
    cpu = "select count(*) from metrics where key = 'system/cpu_utilization_percentage'"
    assert query(database, cpu) == [(2,)]
    parameters = dict(query(database, "select key, value from params"))
    assert parameters == {"epochs": "4", "model.encoder_units": "8", "model.paces": "[0.6, 1.0]"}
    tags = dict(query(database, "select key, value from tags"))
    assert (tags["phase"], tags["data.store"], tags["data.poses_version"]) == ("pretrain", "/data/store", "3")
    assert len(tags["git.commit"]) == 40
    assert tags["git.dirty"] in ("true", "false")
    rows = query(database, "select name, digest, dataset_source from datasets order by name")
    source = json.dumps({"store": "/data/store", "poses_version": 3})
    assert rows == [("rows", "d" * 36, source), ("test of first", "e" * 36, json.dumps(about))]
    assert query(database, "select value from input_tags order by value") == [("evaluation",), ("training",)]
    kept = [path.name for path in (run_dir.parent / "mlartifacts").rglob("*.json*")]
    assert sorted(kept) == ["config.json", "metrics.jsonl"]
    assert not (run_dir.parent.parent / "mlruns").exists()


def test_children_are_one_run_each_under_their_parent_however_often_they_are_opened(run_dir, database):
    config = TrackingConfig(experiment="waves")
    for attempt in range(2):
        with tracking.track(config, run_dir, {}, {}, "sweep") as sweep:
            for trial in ("0", "1"):
                below = config.model_copy(update={"parent": sweep.run_dir})
                folder = run_dir / "trials" / trial
                with tracking.track(below, folder, {"lr": 0.1}, {}, "expert") as tracker:
                    tracker.metrics({"loss": 1.0}, attempt)
    runs = query(database, "select run_uuid, name, status from runs order by name")
    assert [run[1:] for run in runs] == [("0", "FINISHED"), ("1", "FINISHED"), ("first", "FINISHED")]
    parents = query(database, "select run_uuid, value from tags where key = 'mlflow.parentRunId'")
    assert sorted(parents) == sorted((run[0], runs[2][0]) for run in runs[:2])
    assert query(database, LOSSES) == [(0, 1.0), (0, 1.0), (1, 1.0), (1, 1.0)]


def test_a_parent_of_steps_in_other_processes_is_opened_once_and_closed_at_the_end(run_dir, database):
    config = TrackingConfig(experiment="waves")
    for step in ("import", "expert"):
        tracking.begin(config, run_dir, {"seed": 1}, {}, "workflow")  # every step may do so
        below = config.model_copy(update={"parent": run_dir})
        with tracking.track(below, run_dir / step, {}, {}, step) as tracker:
            tracker.metrics({"loss": 1.0})
    assert query(database, "select status from runs where name = 'first'") == [("RUNNING",)]
    assert tracking.end(run_dir, "FINISHED")
    found = query(database, "select name, status from runs order by name")
    assert found == [("expert", "FINISHED"), ("first", "FINISHED"), ("import", "FINISHED")]
    assert query(database, "select value from params where key = 'seed'") == [("1",)]


def test_metrics_are_sent_while_training(run_dir, database, monkeypatch):
    monkeypatch.setattr(tracking, "RECORD_EVERY_S", 0.05)
    monkeypatch.setattr(tracking, "SEND_EVERY_S", 0.05)
    with tracking.track(TrackingConfig(), run_dir, SETTINGS, {}, "expert"):
        write_rows(run_dir, range(3))
        (run_dir / "metrics.jsonl").open("a").write('{"epoch": 3, "lo')  # a line being written
        until = time.monotonic() + 20
        while query(database, "select count(*) from metrics where key = 'loss'") != [(3,)]:
            assert time.monotonic() < until
            time.sleep(0.05)
    assert query(database, LOSSES) == [(0, 1.0), (1, 0.5), (2, 1 / 3)]


@pytest.fixture(params=["nobody", "silent"])
def bad_server(request, monkeypatch):
    """An address where nobody listens, and one where a server is stopped: it never answers."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_does_not_answer_slows_no_step_and_loses_nothing(run_dir, database, bad_server, caplog):
    longest = 0.0
    began = time.monotonic()
    with tracking.track(TrackingConfig(uri=bad_server), run_dir, SETTINGS, PROVENANCE, "expert") as tracker:
        assert time.monotonic() - began < 10  # importing MLflow
        for step in range(20):
            began = time.monotonic()
            write_rows(run_dir, range(step, step + 1))
            tracker.metrics({"inner": float(step)}, step)
            time.sleep(0.02)
            longest = max(longest, time.monotonic() - began)
    assert longest < 1
    assert "the run goes on, its journal keeps all" in caplog.text
    assert f"`aqa tracking send {run_dir}`" in caplog.text
    assert tracking.settle(run_dir, f"sqlite:///{database}")[0]["complete"]
    assert query(database, LOSSES) == [(step, 1 / (step + 1)) for step in range(20)]
    assert len(query(database, "select * from metrics where key = 'inner'")) == 20
    assert query(database, "select name, status from runs") == [("first", "FINISHED")]


def test_what_was_sent_and_not_noted_is_sent_again_and_there_once(run_dir, database):
    """A kill between the request and the note of it; and one before even the run was noted."""
    write_rows(run_dir, range(5))
    with tracking.track(TrackingConfig(), run_dir, SETTINGS, PROVENANCE, "expert") as tracker:
        tracker.tags({"a": "b"})
        tracker.dataset("rows", "abc", "training", {})
    counts = [f"select count(*) from {table}" for table in ("runs", "metrics", "params", "tags", "inputs")]
    before = [query(database, text) for text in counts]
    (run_dir / "tracking" / "sent.json").unlink()
    assert tracking.settle(run_dir) == [
        {"run": str(run_dir), "server": f"sqlite:///{database}", "complete": True}
    ]
    assert [query(database, text) for text in counts] == before


def test_a_killed_run_is_marked_and_a_point_that_mlflow_refuses_is_left_out(run_dir, database, caplog):
    journal = Journal(run_dir)
    journal.open("first", "waves", None, {"tags": {}, "params": {}})
    journal.set_status("RUNNING")
    journal.metrics({"not a name: *?": 1.0}, 0)
    journal.tags({"fine": "yes"})
    journal.metrics({"loss": float("nan")}, 1)
    assert tracking.settle(run_dir.parent)[0]["complete"]
    assert query(database, "select status from runs") == [("KILLED",)]
    assert query(database, "select key, is_nan from metrics") == [("loss", 1)]
    assert query(database, "select value from tags where key = 'fine'") == [("yes",)]
    assert "refuses a metrics of" in caplog.text


def test_a_second_run_made_by_a_request_that_was_served_late_is_deleted(run_dir, database):
    server = tracking.MlflowServer(f"sqlite:///{database}")
    event = {
        "event": "run",
        "key": "k",
        "name": "n",
        "experiment": "waves",
        "tags": {},
        "params": {},
        "time_ms": 1,
    }
    run_id = server.open_run(event, None)
    experiment = server.client.get_run(run_id).info.experiment_id
    server.client.create_run(experiment, 1, {"aqa.key": "k"}, "n")
    server.send(run_id, run_dir, [{"event": "status", "status": "FINISHED", "time_ms": 2}])
    found = query(database, f"select run_uuid = '{run_id}', lifecycle_stage from runs")
    assert sorted(found) == [(0, "deleted"), (1, "active")]


def test_no_secret_reaches_a_record_or_a_log(run_dir, database, monkeypatch, caplog):
    secrets = {f"SECRET{k}": f"planted{k}Qx7" for k in range(12)}
    names = ["AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN",
             "HF_TOKEN", "MY_API_KEY", "DB_PASSWORD"]  # fmt: skip
    values = list(secrets.values())
    for name, value in zip(names, values[:7], strict=True):
        monkeypatch.setenv(name, value)
    uri = f"http://ann:{values[7]}@127.0.0.1:9/"
    settings = {
        "weights": f"s3://key:{values[8]}@bucket/w",
        "env": f"use {values[0]}",
        "note": f"db_password={values[11]}",
    }
    provenance = {"store": f"https://h/s?X-Amz-Signature={values[9]}&b=1", "token": f"Bearer {values[10]}"}
    caplog.set_level(logging.DEBUG, "pipelines")
    with tracking.track(TrackingConfig(uri=uri), run_dir, settings, provenance, "expert") as tracker:
        tracker.tags({f"say{k}": f"it is {value}" for k, value in enumerate(values[1:7])})
        tracker.dataset("rows", "abc", "training", provenance)
    tracking.settle(run_dir, f"sqlite:///{database}")
    assert len(query(database, "select * from params")) == 3  # they did arrive
    written = [path for path in run_dir.parent.rglob("*") if path.is_file()]
    assert {"journal.jsonl", "sent.json", "mlflow.db"} <= {path.name for path in written}
    told = b"".join(path.read_bytes() for path in written) + caplog.text.encode()
    assert b"***" in told
    assert [value for value in values if value.encode() in told] == []


def test_where_the_server_is_comes_from_config_then_environment_then_the_run(run_dir, monkeypatch):
    assert tracking.tracking_uri(TrackingConfig(), run_dir) == f"sqlite:///{run_dir.parent}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking.tracking_uri(TrackingConfig(), run_dir) == "http://server:5000"
    assert tracking.tracking_uri(TrackingConfig(uri="sqlite:////x.db"), run_dir) == "sqlite:////x.db"


def test_a_password_that_is_not_recorded_comes_back_from_the_environment(run_dir, monkeypatch):
    Journal(run_dir).open("first", "waves", None, {"tags": {}, "params": {}})
    Journal(run_dir).note_server("http://***@server:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:pa55@server:5000")
    assert tracking._known_uri(run_dir) == "http://ann:pa55@server:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other:5000")
    assert tracking._known_uri(run_dir) == "http://***@server:5000"


def test_an_address_mlflow_does_not_know_is_refused_at_the_start(run_dir):
    with (
        pytest.raises(
            ConfigError, match=r"tracking URI gopher://\*\*\*@x: .*\. Give http://host:port or sqlite"
        ),
        tracking.track(TrackingConfig(uri="gopher://u:secret@x"), run_dir, {}, {}, "expert"),
    ):
        pass


def test_the_command_sends_what_is_missing_and_says_what_it_could_not(run_dir, database, bad_server, capsys):
    journal = Journal(run_dir)
    journal.open("first", "waves", None, {"tags": {}, "params": {}})
    code = cli.main(["tracking", "send", str(run_dir), "--uri", bad_server, "--json"])
    assert (code, json.loads(capsys.readouterr().out)[0]["complete"]) == (5, False)
    code = cli.main(["tracking", "send", str(run_dir.parent), "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert (code, rows) == (
        0,
        [{"run": str(run_dir), "server": f"sqlite:///{database}", "complete": True}],
    )
    assert query(database, "select name from runs") == [("first",)]


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no tracked run"):
        tracking.settle(tmp_path)


def test_no_tracking_writes_nothing(run_dir):
    with tracking.track(None, run_dir, SETTINGS, {}, "pretrain") as tracker:
        tracker.finish({"best_epoch": 1}, [])
        tracker.dataset("rows", "abc", "training", {})
    tracking.log_evaluation(run_dir, {"test_mae": 1.0}, [], step=0, dataset={"digest": "a"})
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
        "from pipelines.tracking import client\n"
        "Path(sys.argv[2]).touch()\n"
        "while len(list(Path(sys.argv[2]).parent.glob('ready*'))) < 3:\n"
        "    time.sleep(0.001)\n"
        "print(len(client('sqlite:///' + sys.argv[1]).search_experiments()))\n"
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


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_stopped_for_a_minute_slows_no_step_and_has_every_point_afterwards(run_dir, tmp_path):
    """SIGSTOP to a real server in mid-training, SIGCONT after 60 s; points compared in its database."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    database, uri = tmp_path / "server.db", f"http://127.0.0.1:{port}"
    where = [
        "--backend-store-uri",
        f"sqlite:///{database}",
        "--artifacts-destination",
        str(tmp_path / "kept"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", *where, "--port", str(port), "--workers", "1"]
    log = (tmp_path / "server.log").open("w")
    server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path)
    try:
        _wait_for(f"{uri}/health")
        steps, stopped, durations = 0, 0.0, []
        began = time.monotonic()
        with tracking.track(TrackingConfig(uri=uri), run_dir, SETTINGS, PROVENANCE, "expert") as tracker:
            while time.monotonic() - began < 85:
                if not stopped and time.monotonic() - began > 10:
                    os.killpg(server.pid, signal.SIGSTOP)
                    stopped = time.monotonic()
                if stopped and time.monotonic() - stopped > 60:
                    os.killpg(server.pid, signal.SIGCONT)
                start = time.monotonic()
                write_rows(run_dir, range(steps, steps + 1))
                tracker.metrics({"inner": float(steps)}, steps)
                time.sleep(0.1)
                durations.append(time.monotonic() - start)
                steps += 1
            tracker.artifact(run_dir / "model", "model")
        print(f"{steps} steps, longest {max(durations):.3f} s")
        assert max(durations) < 1
        assert query(database, LOSSES) == [(step, 1 / (step + 1)) for step in range(steps)]
        assert query(database, "select count(*) from metrics where key = 'inner'") == [(steps,)]
        runs = query(database, "select name, status from runs where lifecycle_stage = 'active'")
        assert runs == [("first", "FINISHED")]
        assert [path.name for path in (tmp_path / "kept").rglob("*.json")] == ["config.json"]
    finally:
        os.killpg(server.pid, signal.SIGCONT)
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()


def _wait_for(address: str) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.5)
