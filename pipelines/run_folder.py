"""A run folder: what a training is, its data while it trains, and its summary once it is finished.

    RUN/config.json         the resolved configuration and where the data came from
    RUN/environment.json    versions and processor; one entry for each environment in which it trained
    RUN/data/               the rows to train on, as Arrow files that workers map, while training
    RUN/checkpoints/        see checkpoint.py
    RUN/metrics.jsonl       one line per epoch
    RUN/model/              the model of the best epoch
    RUN/summary.json        written last: the run is finished
    RUN/tracking/           what MLflow is told, see journal.py

The same job with the same run folder goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import tracking as tracking_module
from pipelines.checkpoint import check_identity, newest_epoch, write_durably
from pipelines.config import AnglesTrainConfig, TrackingConfig, TrainSection
from pipelines.environment import environment
from pipelines.errors import CorruptError, WriterError
from pipelines.launch import Watch, Worker, launch
from pipelines.plots import loss_curves
from pipelines.redact import redact

if TYPE_CHECKING:
    import pyarrow as pa

# Settings that say how and where to train, not what: a run may go on with other values.
# What lies behind keys and paths is part of the identity by its hash.
_NEUTRAL = (
    *("num_workers", "min_workers", "decode_workers", "use_gpu", "checkpoint_every"),
    *("poses", "features", "dynamic", "static", "frames", "dynamic_weights", "static_weights"),
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        phase: pretrain, expert, angles or hp_mcore.
        worker: what each process runs; its spec holds config, identity, about, run_dir and `spec`.
        config: the section of the configuration.
        identity: flat description of what is trained on what, with data.sha256, the hash of all it reads;
            another one in the folder is refused.
        about: what the description of the model shall say besides.
        tables: name -> rows, written to RUN/data/NAME.arrow.
        counts: numbers of clips and the like for the summary.
        spec: more JSON values for the worker.
    """

    phase: str
    worker: Worker
    config: TrainSection | AnglesTrainConfig
    identity: dict[str, Any]
    about: dict[str, Any]
    tables: dict[str, pa.Table]
    counts: dict[str, int]
    spec: dict[str, Any] = field(default_factory=dict)


def settings_identity(config: TrainSection | AnglesTrainConfig) -> dict[str, Any]:
    """The settings that decide what a run computes, flat."""
    return tracking_module.flatten(
        {name: value for name, value in config.model_dump(mode="json").items() if name not in _NEUTRAL}
    )


def run(
    job: Job,
    run_dir: Path,
    provenance: dict[str, Any],
    tracking: TrackingConfig | None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Trains, or goes on, or returns the summary of a finished run.

    Args:
        job: what to train.
        run_dir: folder of the run.
        provenance: where the tables came from (store path, version, key), for the records.
        tracking: where MLflow is; None = not tracked.
        watch: of a trial of a sweep; it may end the training early.

    Returns:
        Summary: run_dir, epochs, best_epoch, best_val_loss, the job's counts, the validation metrics of the
        best epoch (val_...), and `resumed`.

    Raises:
        ConfigError: the folder belongs to another run.
        WriterError: another process is training it.
        CorruptError, DataError, ClusterError: see errors.py.
    """
    run_dir, provenance = run_dir.absolute(), redact(provenance)
    stored = read_json(run_dir / "summary.json")
    if stored:
        check_identity(run_dir, stored["identity"], job.identity)
        _log.warning("%s: already finished; returning its summary", run_dir)
        return {**stored["summary"], "resumed": True}
    earlier = read_json(run_dir / "config.json")
    if earlier:
        check_identity(run_dir, earlier["identity"], job.identity)
    run_dir.mkdir(parents=True, exist_ok=True)
    with alone(run_dir):
        return _train(job, run_dir, bool(earlier), provenance, tracking, watch)


def _train(
    job: Job,
    run_dir: Path,
    resumed: bool,
    provenance: dict[str, Any],
    tracking: TrackingConfig | None,
    watch: Watch | None,
) -> dict[str, Any]:
    about = {**job.about, "provenance": provenance, "phase": job.phase}
    record = {"identity": job.identity, "config": job.config.model_dump(mode="json"), **about, **job.spec}
    write_json(run_dir / "config.json", record)
    _note_environment(run_dir)
    (run_dir / "data").mkdir(exist_ok=True)
    for name, table in job.tables.items():
        write_table(run_dir / "data" / f"{name}.arrow", table)
    spec = {**record, "run_dir": str(run_dir), "about": about}
    with tracking_module.track(tracking, run_dir, record["config"], provenance, job.phase) as tracker:
        rows = {**job.counts, **provenance}
        tracker.dataset(f"{job.phase} training", job.identity["data.sha256"], "training", rows)
        with _told(job, run_dir, watch):
            launch(job.worker, spec, job.config, watch)
        summary = _summary(run_dir, job.counts)
        if tracking:
            _tell(tracker, summary)
    shutil.rmtree(run_dir / "data")
    write_json(run_dir / "summary.json", {"identity": job.identity, "summary": summary})
    return {**summary, "resumed": resumed}


def _told(job: Job, run_dir: Path, watch: Watch | None) -> contextlib.AbstractContextManager[None]:
    """Lines about the epochs, unless this is a trial, or has no epochs."""
    if watch or not isinstance(job.config, TrainSection):
        return contextlib.nullcontext()
    from pipelines.epoch_lines import epoch_lines

    if job.config.num_workers:  # what its workers say of it does not come here
        epoch = newest_epoch(run_dir / "checkpoints")
        if epoch:
            _log.warning("%s: going on after epoch %d", run_dir, epoch)
    return epoch_lines(run_dir, job.config.epochs, _log.info)


def environments(run_dir: Path) -> list[dict[str, str]]:
    """Where the run was trained, oldest first, see environment.py; empty for runs that do not tell."""
    return read_json(run_dir / "environment.json").get("environments", [])


def _note_environment(run_dir: Path) -> None:
    known, now = environments(run_dir), environment()
    if known[-1:] != [now]:
        write_json(run_dir / "environment.json", {"environments": [*known, now]})


def _tell(tracker: tracking_module.Tracker, summary: dict[str, Any]) -> None:
    """Final numbers, the model and a picture of the losses, for MLflow."""
    from pipelines.loop import read_metrics

    run_dir = tracker.run_dir
    numbers = {key: summary[key] for key in summary if key.startswith("best_")}
    tracker.metrics(numbers)
    tracker.artifact(run_dir / "model", "model")
    epochs = read_metrics(run_dir / "metrics.jsonl")
    tracker.artifact(loss_curves(epochs, run_dir / "plots" / "losses.png"), "plots")


@contextlib.contextmanager
def alone(run_dir: Path) -> Iterator[None]:
    """Holds a run folder: two processes in one would write over each other's checkpoints.

    Raises:
        WriterError: another process holds it.
    """
    folder = os.open(run_dir, os.O_RDONLY)
    try:
        _lock(folder, run_dir)
        yield
    finally:
        os.close(folder)


def _lock(folder: int, run_dir: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WriterError(
            run_dir, "another process is training this run", "wait for it, or give this run another name"
        ) from None


def read_table(run_dir: Path, name: str) -> pa.Table:
    """A table of the job, mapped from its file: it costs no memory until it is read."""
    import pyarrow as pa

    with pa.memory_map(str(run_dir / "data" / f"{name}.arrow")) as source:
        return pa.ipc.open_file(source).read_all()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of the run; empty if it is not there.

    Raises:
        CorruptError: it cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise CorruptError(path, "is not readable as JSON", "give this run another name") from error


def write_table(path: Path, table: pa.Table) -> None:
    """An Arrow file that can be mapped."""
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A file that is there whole or not at all, even after a crash."""
    write_durably(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def _summary(run_dir: Path, counts: dict[str, int]) -> dict[str, Any]:
    from pipelines.loop import read_metrics

    rows = read_metrics(run_dir / "metrics.jsonl")
    description = read_json(run_dir / "model" / "config.json")
    best = next(row for row in rows if row["epoch"] == description["best_epoch"])
    return {
        "run_dir": str(run_dir),
        "epochs": len(rows),
        "best_epoch": description["best_epoch"],
        "best_val_loss": description["best_val_loss"],
        **counts,
        **{name: value for name, value in best.items() if name.startswith("val_")},
    }
