"""Runs in MLflow: the only file that imports it, and only the driver calls it.

Training writes metrics.jsonl, here it is copied to MLflow every few seconds. So workers need no
connection, SQLite has one writer, and a tracking server that is down for a moment loses nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config import TrackingConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

_EVERY_S = 5.0
_RECORD = "mlflow.json"  # uri, run id and last epoch copied; in the run folder


class Tracker:
    """One MLflow run that belongs to one run folder."""

    def __init__(self, client: MlflowClient, run_dir: Path, record: dict[str, Any]):
        self.client, self.run_dir, self.record = client, run_dir, record

    def copy_metrics(self) -> None:
        """Logs the epochs of metrics.jsonl that MLflow does not have yet."""
        from mlflow.entities import Metric

        path = self.run_dir / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        for row in rows:
            if row["epoch"] > self.record["last_epoch"]:
                now = int(time.time() * 1000)
                metrics = [Metric(k, float(v), now, row["epoch"]) for k, v in row.items() if k != "epoch"]
                self.client.log_batch(self.record["run_id"], metrics=metrics)
                self.record["last_epoch"] = row["epoch"]
        self._write()

    def finish(self, metrics: dict[str, float], artifacts: list[Path]) -> None:
        """Logs final numbers and files."""
        self.copy_metrics()
        for name, value in metrics.items():
            self.client.log_metric(self.record["run_id"], name, float(value))
        for path in artifacts:
            self.client.log_artifacts(self.record["run_id"], str(path), path.name)

    def _write(self) -> None:
        partial = self.run_dir / f".{_RECORD}.partial"
        partial.write_text(json.dumps(self.record))
        partial.replace(self.run_dir / _RECORD)


class Untracked:
    """Stands in where tracking is off."""

    def finish(self, metrics: dict[str, float], artifacts: list[Path]) -> None:
        """Does nothing."""


@contextlib.contextmanager
def track(
    config: TrackingConfig | None,
    run_dir: Path,
    settings: dict[str, Any],
    provenance: dict[str, Any],
    phase: str,
) -> Iterator[Tracker | Untracked]:
    """Opens the MLflow run of a run folder, copies metrics while the body runs, and closes it.

    Args:
        config: where MLflow is; None = no tracking.
        run_dir: the run folder; a run that is resumed goes on in the MLflow run named there.
        settings: nested configuration, logged as flat parameters.
        provenance: logged as tags `data.<key>`.
        phase: logged as tag.
    """
    if config is None:
        yield Untracked()
        return
    uri = tracking_uri(config, run_dir)
    client = _client(uri)
    tracker = Tracker(client, run_dir, _open_run(client, uri, config, run_dir, settings, provenance, phase))
    stop = threading.Event()

    def copy() -> None:
        while not stop.wait(_EVERY_S):
            tracker.copy_metrics()

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        stop.set()
        thread.join()
        tracker.copy_metrics()
        client.set_terminated(tracker.record["run_id"], status)


def log_evaluation(run_dir: Path, metrics: dict[str, float], artifacts: list[Path]) -> None:
    """Adds test metrics to the MLflow run of a run folder; does nothing if the run was not tracked."""
    path = run_dir / _RECORD
    if not path.exists():
        return
    record = json.loads(path.read_text())
    client = _client(record["uri"])
    for name, value in metrics.items():
        client.log_metric(record["run_id"], name, value)
    for file in artifacts:
        client.log_artifact(record["run_id"], str(file))


def tracking_uri(config: TrackingConfig, run_dir: Path) -> str:
    """The configured URI, else MLFLOW_TRACKING_URI, else a SQLite file beside the run folder."""
    beside = run_dir.absolute().parent / "mlflow.db"
    return config.uri or os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{beside}"


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def git_tags() -> dict[str, str]:
    """Commit of the code and whether it was changed; empty outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        call = ["git", "-C", str(here), *words]
        return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git.commit": commit, "git.dirty": str(bool(changes)).lower()}


def _client(uri: str) -> MlflowClient:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # no notices of tables made
    if not uri.startswith("sqlite:///"):
        return MlflowClient(tracking_uri=uri)
    database = Path(uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    # The first connection makes the tables; two runs that start together must not both do it.
    with database.with_name(f".{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return MlflowClient(tracking_uri=uri)


def _open_run(
    client: MlflowClient,
    uri: str,
    config: TrackingConfig,
    run_dir: Path,
    settings: dict[str, Any],
    provenance: dict[str, Any],
    phase: str,
) -> dict[str, Any]:
    from mlflow.entities import Param

    path = run_dir / _RECORD
    if path.exists():
        record = json.loads(path.read_text())
        if record["uri"] == uri:
            client.update_run(record["run_id"], status="RUNNING")
            return record
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment:
        experiment_id = experiment.experiment_id
    else:
        # MLflow's default is ./mlruns of whoever calls; artifacts belong beside the database.
        place = f"{Path(uri.removeprefix('sqlite:///')).parent.as_uri()}/mlartifacts"
        experiment_id = client.create_experiment(
            config.experiment, place if uri.startswith("sqlite:") else None
        )
    tags = {"phase": phase, **git_tags(), **{f"data.{key}": str(value) for key, value in provenance.items()}}
    run = client.create_run(experiment_id, tags=tags, run_name=run_dir.name)
    params = [Param(key, str(value)) for key, value in flatten(settings).items()]
    client.log_batch(run.info.run_id, params=params)
    return {"uri": uri, "run_id": run.info.run_id, "last_epoch": -1}
