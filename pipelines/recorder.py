"""Copies what training leaves in the run folder, and the load of this machine, to the journal."""

from __future__ import annotations

import json
import time

from pipelines.journal import Journal
from pipelines.machine_load import machine_load

MEASURE_EVERY_S = 10.0


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
