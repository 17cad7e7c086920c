"""What reaches the journal of a run: what its verb tells, what training leaves, the load of the machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pipelines.journal import Journal
from pipelines.machine_load import machine_load

MEASURE_EVERY_S = 10.0


class Tracker:
    """What a verb tells about its run while the run is open; every call only writes to the journal.

    Args:
        run_dir: the run folder; as `tracking.parent` it makes other runs children of this one.
        journal: None = tracking is off, every call does nothing.
    """

    def __init__(self, run_dir: Path, journal: Journal | None):
        self.run_dir, self.journal = run_dir, journal

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Points; one of a name and step that was told before is left out."""
        if self.journal:
            self.journal.metrics(values, step)

    def tags(self, values: dict[str, str]) -> None:
        """Texts to find the run by."""
        if self.journal:
            self.journal.tags(values)

    def dataset(self, name: str, digest: str, context: str, source: dict[str, Any]) -> None:
        """Rows that the run reads, see `Journal.dataset`."""
        if self.journal:
            self.journal.dataset(name, digest, context, source)

    def artifact(self, path: Path, place: str = "") -> None:
        """A file or folder to keep with the run; `place` is a folder among the artifacts."""
        if self.journal:
            self.journal.artifact(path, place)

    def model(self, path: Path, name: str) -> None:
        """A model folder to register, see `Journal.model`."""
        if self.journal:
            self.journal.model(path, name)

    def finish(self, metrics: dict[str, float], artifacts: list[Path]) -> None:
        """Final numbers, and folders that keep their names."""
        self.metrics(metrics)
        for path in artifacts:
            self.artifact(path, path.name)


class Recorder:
    """Brings what training leaves in the run folder, and the load of the machine, to the journal."""

    def __init__(self, journal: Journal):
        self.journal, self.read, self.measured = journal, (0, 0), 0.0
        self.sample = max((n for name, n in journal.steps.items() if name.startswith("system/")), default=-1)

    def record(self) -> None:
        """New epochs, and every ten seconds a sample of the load."""
        self.copy_epochs()
        if time.monotonic() - self.measured >= MEASURE_EVERY_S:
            self.measured, self.sample = time.monotonic(), self.sample + 1
            self.journal.metrics(machine_load(self.journal.run_dir), self.sample)

    def copy_epochs(self) -> None:
        """Rows of metrics.jsonl; what a resumed training writes again is known already."""
        path = self.journal.run_dir / "metrics.jsonl"
        if not path.exists():
            return
        found = path.stat()
        state = (found.st_size, found.st_mtime_ns)
        if state == self.read:
            return
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # else it is being written
                row = json.loads(line)
                self.journal.metrics({k: v for k, v in row.items() if k != "epoch"}, row["epoch"])
        self.read = state
