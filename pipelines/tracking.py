"""Runs in MLflow: the only file that imports it, and only the driver calls it.

Whatever is tracked is written to the journal of the run folder first (journal.py), and a background thread
sends it with short time limits (sender.py). So workers need no connection, SQLite has one writer, and a
server that is slow, stopped or gone costs training nothing: what it lacks is sent when the run goes on, or by
`aqa tracking send`. A tree of runs (a sweep with its trials) is sent by one process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import __version__
from pipelines.config import TrackingConfig
from pipelines.errors import ConfigError
from pipelines.journal import Journal, digest_of, root_of, tree
from pipelines.recorder import Recorder, Tracker
from pipelines.redact import redact
from pipelines.sender import Refused, Sender, Unanswered

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow import MlflowClient

RECORD_EVERY_S, SEND_EVERY_S = 2.0, 2.0
REQUEST_TIMEOUT_S = 10
_KEY, DIGEST_TAG = "aqa.key", "aqa.digest"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_log = logging.getLogger(__name__)


def begin(
    config: TrackingConfig,
    run_dir: Path,
    settings: dict[str, Any],
    provenance: dict[str, Any],
    phase: str,
) -> Journal:
    """Opens a run in its journal and returns at once; for a parent whose children run in other processes.

    Arguments as `track`. The children open it in MLflow before themselves. `end` closes it.
    """
    journal = Journal(run_dir)
    tags = {"phase": phase, **git_tags(), **{f"data.{key}": str(value) for key, value in provenance.items()}}
    params = {key: str(value) for key, value in flatten(settings).items()}
    journal.open(run_dir.name, config.experiment, config.parent, {"tags": tags, "params": params})
    if config.parent is None:
        journal.note_server(redact(tracking_uri(config, run_dir)))
    journal.set_status("RUNNING")
    return journal


def end(run_dir: Path, status: str) -> bool:
    """Closes a run of `begin` as FINISHED, FAILED or KILLED, and sends the rest, see `send_now`."""
    Journal(run_dir).set_status(status)
    return send_now(run_dir)


@contextlib.contextmanager
def track(
    config: TrackingConfig | None,
    run_dir: Path,
    settings: dict[str, Any],
    provenance: dict[str, Any],
    phase: str,
) -> Iterator[Tracker]:
    """Opens the MLflow run of a run folder, records and sends while the body runs, and closes it.

    Rows that training appends to RUN/metrics.jsonl become metrics, and the load of this machine too.

    Args:
        config: where MLflow is, and the parent if there is one; None = no tracking.
        run_dir: the run folder; a run that is resumed goes on in its MLflow run.
        settings: nested configuration, logged as flat parameters.
        provenance: logged as tags `data.<key>`.
        phase: logged as tag.

    Raises:
        ConfigError: MLflow cannot be told by this URI. A server that does not answer is no error.
    """
    if config is None:
        yield Tracker(run_dir, None)
        return
    journal = begin(config, run_dir, settings, provenance, phase)
    root = root_of(run_dir)
    sender = Sender(root, _known_uri(root, config.uri), MlflowServer)
    recorder = Recorder(journal)
    stop = threading.Event()
    threads = [
        threading.Thread(target=_repeat, args=(recorder.record, RECORD_EVERY_S, stop), daemon=True),
        threading.Thread(target=_repeat, args=(sender.send_if_due, SEND_EVERY_S, stop), daemon=True),
    ]
    for thread in threads:
        thread.start()
    status = "FAILED"
    try:
        yield Tracker(run_dir, journal)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        stop.set()
        threads[0].join()
        recorder.copy_epochs()
        journal.set_status(status)
        sender.close(threads[1])


def log_evaluation(
    run_dir: Path, metrics: dict[str, float], artifacts: list[Path], step: int, dataset: dict[str, Any]
) -> None:
    """Adds test metrics to the MLflow run of a run folder; does nothing if the run was not tracked.

    Args:
        metrics: name -> value.
        artifacts: files to keep.
        step: number of the evaluation, from 0.
        dataset: what was scored: digest, and whatever else says where it came from.
    """
    journal = Journal(run_dir)
    if not journal.exists:
        return
    journal.metrics(metrics, step)
    journal.dataset(f"test of {run_dir.name}", dataset["digest"], "evaluation", dataset)
    for path in artifacts:
        journal.artifact(path, "evaluation")
    send_now(run_dir)


def send_now(run_dir: Path, uri: str = "") -> bool:
    """Sends what a server lacks of a run and of its relatives, for at most some seconds; whether it has all.

    Args:
        run_dir: a tracked run folder.
        uri: the server; empty = the one the run was opened for, which must not have been moved since.
    """
    root = root_of(run_dir)
    return Sender(root, uri or _known_uri(root), MlflowServer).close()


def settle(folder: Path, uri: str = "") -> list[dict[str, Any]]:
    """Sends all runs below a folder; those that nobody works on any more are marked as killed.

    Returns:
        A row per root: run, server, complete.

    Raises:
        ConfigError: no tracked run lies there, or MLflow cannot be told by the URI.
    """
    found = {root_of(path.parent.parent) for path in folder.rglob("tracking/journal.jsonl")}
    if not found:
        raise ConfigError(folder, "holds no tracked run", "give folders that `aqa train` wrote")
    rows = []
    for root in sorted(found):
        sender = Sender(root, uri or _known_uri(root), MlflowServer)
        if sender.holds:
            for run_dir in tree(root):
                journal = Journal(run_dir)
                if journal.status == "RUNNING":
                    journal.set_status("KILLED")
        rows.append({"run": str(root), "server": sender.name, "complete": sender.close()})
    return rows


def _known_uri(root: Path, configured: str = "") -> str:
    """The server a root was opened for; its password, which is not recorded, is in the settings."""
    known = Journal(root).server()
    names = ("AQA_TRACKING__URI", "MLFLOW_TRACKING_URI")
    for given in (configured, *(os.environ.get(name, "") for name in names)):
        if given and redact(given) == known:
            return given
    return known or tracking_uri(TrackingConfig(), root)


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


def _repeat(action: Callable[[], object], every_s: float, stop: threading.Event) -> None:
    action()
    while not stop.wait(every_s):
        action()


class MlflowServer:
    """A tracking server or database of MLflow, see sender.Server.

    Raises:
        ConfigError: MLflow cannot be told by this URI.
    """

    def __init__(self, uri: str):
        self.uri, self._client = uri, None
        if not uri.startswith(_DATABASES):
            self._client = client(uri)
        else:
            # Here, because an import in a thread would slow training.
            import mlflow.store.model_registry.sqlalchemy_store
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    @property
    def client(self) -> MlflowClient:
        """Made on first use: that of a database already contacts it."""
        if self._client is None:
            self._client = client(self.uri)
        return self._client

    def open_run(self, event: dict[str, Any], parent_id: str | None) -> str:
        """Id of the run of this key, made if there is none; its parameters and tags are logged."""
        from mlflow.entities import Param, RunTag

        with answers():
            tags = {**event["tags"], _KEY: event["key"]}
            if parent_id:
                tags["mlflow.parentRunId"] = parent_id
            experiment_id = self._experiment(event["experiment"])
            found = self._runs(experiment_id, event["key"])
            if found:
                run_id = found[0]
            else:
                run = self.client.create_run(experiment_id, event["time_ms"], tags, event["name"])
                run_id = run.info.run_id
            params = [Param(key, value) for key, value in event["params"].items()]
            for begin in range(0, len(params), 100):
                self.client.log_batch(run_id, params=params[begin : begin + 100])
            self.client.log_batch(run_id, tags=[RunTag(*item) for item in tags.items()])
        return run_id

    def send(self, run_id: str, run_dir: Path, events: list[dict[str, Any]]) -> None:
        """Events of one kind; MLflow keeps one of points that are equal to the time stamp."""
        with answers():
            getattr(self, f"_send_{events[0]['event']}")(run_id, run_dir, events)

    def _send_metrics(self, run_id: str, run_dir: Path, events: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(name, value, event["time_ms"], event["step"])
            for event in events
            for name, value in event["values"].items()
        ]
        for begin in range(0, len(points), 1000):
            self.client.log_batch(run_id, metrics=points[begin : begin + 1000])

    def _send_tags(self, run_id: str, run_dir: Path, events: list[dict[str, Any]]) -> None:
        for name, value in events[0]["values"].items():
            self.client.set_tag(run_id, name, value)

    def _send_dataset(self, run_id: str, run_dir: Path, events: list[dict[str, Any]]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        event = events[0]
        source = json.dumps(event["source"])
        rows = Dataset(event["name"], event["digest"], "aqa feature store", source)
        tags = [InputTag("mlflow.data.context", event["context"])]
        self.client.log_inputs(run_id, [DatasetInput(rows, tags)])

    def _send_artifact(self, run_id: str, run_dir: Path, events: list[dict[str, Any]]) -> None:
        path, place = run_dir / events[0]["path"], events[0]["place"] or None
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), place)
        elif path.is_file():
            self.client.log_artifact(run_id, str(path), place)
        else:
            raise Refused(f"{path} is not there any more")

    def _send_model(self, run_id: str, run_dir: Path, events: list[dict[str, Any]]) -> None:
        """One version of the registered model per digest."""
        from mlflow.exceptions import MlflowException

        event = events[0]
        path, name, digest = run_dir / event["path"], event["name"], event["digest"]
        if not path.is_dir() or digest_of(path) != digest:
            raise Refused(f"{path} is not there any more, or was made anew")
        if self.client.search_model_versions(f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'"):
            return
        self.client.log_artifacts(run_id, str(path), path.name)
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"runs:/{run_id}/{path.name}"
        self.client.create_model_version(name, source, run_id, tags={DIGEST_TAG: digest})

    def _send_status(self, run_id: str, run_dir: Path, events: list[dict[str, Any]]) -> None:
        status, time_ms = events[0]["status"], events[0]["time_ms"]
        if status == "RUNNING":
            self.client.update_run(run_id, status=status)
            return
        self.client.set_terminated(run_id, status, end_time=time_ms)
        # A request to make the run that timed out and was served late all the same made a second one.
        run = self.client.get_run(run_id)
        for other in self._runs(run.info.experiment_id, run.data.tags[_KEY]):
            if other != run_id:
                self.client.delete_run(other)

    def _runs(self, experiment_id: str, key: str) -> list[str]:
        found = self.client.search_runs([experiment_id], f"tags.`{_KEY}` = '{key}'")
        return [run.info.run_id for run in sorted(found, key=lambda run: run.info.run_id)]

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found:
            return found.experiment_id
        place = None
        if self.uri.startswith("sqlite:///"):
            # MLflow's default is ./mlruns of whoever calls; artifacts belong beside the database.
            place = f"{Path(self.uri.removeprefix('sqlite:///')).parent.as_uri()}/mlartifacts"
        try:
            return self.client.create_experiment(name, place)
        except MlflowException:
            found = self.client.get_experiment_by_name(name)  # two runs that start together
            if found is None:
                raise
            return found.experiment_id


@contextlib.contextmanager
def answers() -> Iterator[None]:
    """What goes wrong with a server becomes Refused where trying again cannot help, else Unanswered."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        text = re.sub(" with (timeout )?exception .*", "", str(redact(str(error))).partition("\n")[0])[:300]
        hopeless = ("INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")
        raise (Refused if error.error_code in hopeless else Unanswered)(text) from None
    except (RequestException, SQLAlchemyError, OSError) as error:
        raise Unanswered(str(redact(str(error))).partition("\n")[0][:300]) from None


def client(uri: str) -> MlflowClient:
    """A client that gives up soon; MLflow's own would try for minutes.

    Raises:
        ConfigError: MLflow knows no store of this kind.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would print a password in the URI
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_TIMEOUT_S))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # no notices of tables made
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        database.parent.mkdir(parents=True, exist_ok=True)
        # The first connection makes the tables; two runs that start together must not both do it.
        with database.with_name(f".{database.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return MlflowClient(tracking_uri=uri)
    try:
        return MlflowClient(tracking_uri=uri)
    except MlflowException as error:
        cause = str(redact(str(error))).partition("\n")[0]
        remedy = "give http://host:port or sqlite:///file.db in tracking.uri or MLFLOW_TRACKING_URI"
        raise ConfigError(f"tracking URI {redact(uri)}", cause, remedy) from None


def save_pyfunc(
    folder: Path, data: Path, takes: pa.Schema, gives: pa.Schema, example: dict[str, Any]
) -> None:
    """Writes a folder that MLflow loads and serves as a model: code and data, no pickle.

    Args:
        folder: new folder.
        data: what served_model.py reads; copied to FOLDER/artifacts.
        takes: columns of its input; what may be null may be left out.
        gives: columns of its output.
        example: a row of the input.
    """
    import pandas as pd
    from mlflow.models.signature import ModelSignature
    from mlflow.pyfunc import save_model

    # Not the lock file of whatever project lies in the working directory, and no progress bar for copying.
    os.environ |= {"MLFLOW_UV_AUTO_DETECT": "false", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it misses a version of pip to write down
    save_model(
        path=str(folder),
        python_model=str(Path(__file__).with_name("served_model.py")),
        artifacts={data.name: str(data)},
        signature=ModelSignature(inputs=_mlflow_schema(takes), outputs=_mlflow_schema(gives)),
        input_example=pd.DataFrame([example]),
        pip_requirements=[f"aqa=={__version__}"],
    )


def load_pyfunc(folder: Path) -> Any:
    """The model of a folder of `save_pyfunc`, with `predict` of a data frame; a pickle is refused."""
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    import mlflow.pyfunc

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it warns where aqa is not installed by pip
    return mlflow.pyfunc.load_model(str(folder))


def flavors_of(folder: Path) -> dict[str, Any]:
    """What MLflow would load of a model folder, and how."""
    from mlflow.models import Model

    return Model.load(str(folder)).flavors


def _mlflow_schema(schema: pa.Schema) -> Any:
    import pyarrow as pa
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    def kind(of: pa.DataType) -> Any:
        if pa.types.is_list(of):
            return Array(kind(of.value_type))
        if pa.types.is_string(of):
            return DataType.string
        return DataType.long if pa.types.is_integer(of) else DataType.double

    return Schema([ColSpec(kind(field.type), field.name, required=not field.nullable) for field in schema])
