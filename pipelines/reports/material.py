"""What a run left behind, and what its store still holds, read once for all sections of its page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.compare_runs import predictions_of
from pipelines.errors import AqaError, ConfigError
from pipelines.evaluate import read_metrics_file
from pipelines.loop import read_metrics
from pipelines.run_folder import read_json
from pipelines.store import Store, open_store

RENDERED = (
    "The athletes of these clips are drawn by the program: the numbers on this page say nothing about real "
    "people."
)


@dataclass(frozen=True)
class RunMaterial:
    """A training run.

    Attributes:
        folder: RUN.
        record: RUN/config.json.
        summary: of RUN/summary.json; empty if it has not finished.
        description: of the model; empty if there is none.
        epochs: rows of RUN/metrics.jsonl.
        metrics: RUN/metrics.json; empty if it was not evaluated.
        predictions: rows of PREDICTIONS, in the order of the file.
        store: of the training, if it is still there.
        no_store: else, why not.
        clips: clip_id -> row of CLIPS of the version that the run read.
    """

    folder: Path
    record: dict[str, Any]
    summary: dict[str, Any]
    description: dict[str, Any]
    epochs: list[dict[str, float]]
    metrics: dict[str, Any]
    predictions: list[dict[str, Any]]
    store: Store | None = None
    no_store: str = ""
    clips: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def phase(self) -> str:
        """Pretrain, expert, angles or hp_mcore."""
        return self.record["phase"]

    @property
    def provenance(self) -> dict[str, Any]:
        return self.record.get("provenance", {})

    @property
    def told_scores(self) -> bool:
        """Whether there are scores of test clips, and not classes."""
        return bool(self.predictions) and self.predictions[0]["predicted"] is not None

    @property
    def test_clips(self) -> list[dict[str, Any]]:
        """Rows of CLIPS of the test clips that were scored, as far as the store knows them."""
        known = (self.clips.get(row["clip_id"]) for row in self.predictions)
        return [row for row in known if row]

    @property
    def datasets(self) -> set[str]:
        """Data sets of the test clips; of all clips if nothing was tested."""
        return {row["dataset"] or "" for row in self.test_clips or self.clips.values()}

    @property
    def rendered(self) -> bool:
        return any(is_rendered(name) for name in self.datasets)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and judged scores (N,) of the test clips, in points."""
        columns = ([row[name] for row in self.predictions] for name in ("predicted", "score"))
        predicted, true = (np.array(column, float) for column in columns)
        return predicted, true

    def pose_key(self) -> str:
        """Key of the pose table that the run read; empty if it read none."""
        return self.provenance.get("poses_key", "")


def is_rendered(dataset: str) -> bool:
    """Whether clips of a data set are drawn by the program."""
    return dataset == "rendered" or dataset.endswith("_twin")


def read_run(folder: Path, store: Path | None = None) -> RunMaterial:
    """Everything there is about a run.

    Args:
        folder: of the run.
        store: where the store of the training is now; None = where it was.

    Raises:
        ConfigError: no run lies there.
        CorruptError: a file of it cannot be read.
        StorageError: `store` is given and holds none.
    """
    record = read_json(folder / "config.json")
    if "phase" not in record or "config" not in record:
        raise ConfigError(folder, "holds no training run", "give a folder that `aqa train` wrote")
    metrics = read_metrics_file(folder / "metrics.json")
    found = RunMaterial(
        folder=folder,
        record=record,
        summary=read_json(folder / "summary.json").get("summary", {}),
        description=read_json(folder / "model" / "config.json"),
        epochs=read_metrics(folder / "metrics.jsonl"),
        metrics=metrics,
        predictions=list(predictions_of(folder).values()) if metrics else [],
    )
    return _with_store(found, store)


def _with_store(run: RunMaterial, given: Path | None) -> RunMaterial:
    from dataclasses import replace

    told = run.provenance.get("store")
    if given is None and not told:
        return replace(run, no_store="The run does not say which store it read.")
    try:
        store = open_store(given or Path(str(told)))
        clips = store.clips.read(run.provenance.get("clips_version"))
    except AqaError as error:
        if given is not None:
            raise
        return replace(run, no_store=f"The store of the training cannot be read now. {error}")
    return replace(run, store=store, clips={row["clip_id"]: row for row in clips.to_pylist()})
