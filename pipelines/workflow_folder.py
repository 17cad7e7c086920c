"""The folder of a workflow: what it works on, and what each of its steps found.

    FOLDER/workflow.json         what to work on and the resolved settings, fixed when the workflow starts
    FOLDER/data/                 rendered athletes, if asked for
    FOLDER/store/                the feature store, unless another one is named
    FOLDER/runs/STEP/            run folders of the trainings
    FOLDER/steps/STEP/           result.json, card.html; error.json of a step that failed
    FOLDER/steps/history.jsonl   when each step began and ended
    FOLDER/report.html           the card of the whole workflow

It holds all that a step needs, so that a step may run in another process, or on a machine that reaches it.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.checkpoint import write_durably
from pipelines.config import Config
from pipelines.errors import ConfigError, CorruptError
from pipelines.redact import redact
from pipelines.result import to_json

RECORD = "workflow.json"
URI_VARIABLE = "AQA_TRACKING__URI"  # brings the steps the password that the record does not hold

NEEDS: dict[str, tuple[str, ...]] = {
    "import": (),
    "plan": ("import",),
    "extract": ("plan",),
    "pretrain": ("extract",),
    "expert": ("pretrain",),
    "hp-mcore": ("extract",),
    "evaluate": ("expert", "hp-mcore"),
    "report": ("evaluate",),
}
"""Step -> the steps whose results it reads directly."""


@dataclass(frozen=True)
class Workflow:
    """What a workflow works on.

    Args:
        folder: of the workflow.
        run: names one run of it, for jobs.
        manifest: clips table; None = rendered athletes, or what the store holds.
        rendered: render athletes first.
        store: the feature store.
        address: dashboard of the cluster that runs the steps as jobs; empty = they run here.
        first: step to begin with; empty = at the beginning.
        last: step to end with; empty = at the end.
        config: the settings.
    """

    folder: Path
    run: str
    manifest: Path | None
    rendered: bool
    store: Path
    address: str
    first: str
    last: str
    config: Config

    def question(self) -> dict[str, Any]:
        """All but the name of the run, as JSON values; without the password of a tracking URI."""
        config = self.config.model_dump(mode="json")
        config["tracking"]["uri"] = redact(config["tracking"]["uri"])
        return {
            "manifest": str(self.manifest) if self.manifest else None,
            "rendered": self.rendered,
            "store": str(self.store),
            "address": self.address,
            "first": self.first,
            "last": self.last,
            "config": config,
        }

    def save(self) -> None:
        """Fixes all this for the steps."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / RECORD, {"run": self.run, **self.question()})

    @property
    def steps(self) -> set[str]:
        """Steps that this run does: those from `first` on, up to and with `last`."""
        found = set(NEEDS)
        if self.first:
            found &= {step for step in NEEDS if self.first in before(step) | {step}}
        if self.last:
            found &= before(self.last) | {self.last}
        return found

    def run_dir(self, step: str) -> Path:
        """Run folder of a training."""
        return self.folder / "runs" / step

    def step_dir(self, step: str) -> Path:
        """Where a step leaves its result and card."""
        return self.folder / "steps" / step

    def tracked_dir(self, step: str) -> Path:
        """The folder that is the step's run in MLflow: of a training its own, else that of the step."""
        run_dir = self.run_dir(step)
        return run_dir if step in ("pretrain", "expert", "hp-mcore") else self.step_dir(step)

    def result(self, step: str) -> dict[str, Any]:
        """What a finished step found.

        Raises:
            ConfigError: the step was not done in this folder.
        """
        found = read(self.step_dir(step) / "result.json")
        if found is None:
            raise ConfigError(
                f"step {step}", f"was not done in {self.folder}", f"leave out --from, or say --from {step}"
            )
        return found

    def save_result(self, step: str, result: dict[str, Any]) -> None:
        """The step is done."""
        _write(self.step_dir(step) / "result.json", result)
        (self.step_dir(step) / "error.json").unlink(missing_ok=True)

    def error(self, step: str) -> dict[str, Any] | None:
        """What a step failed with: kind, where, cause, remedy, exit_code."""
        return read(self.step_dir(step) / "error.json")

    def save_error(self, step: str, error: dict[str, Any]) -> None:
        """The step has failed."""
        _write(self.step_dir(step) / "error.json", error)

    def note(self, step: str, event: str) -> None:
        """A line of the history."""
        path = self.folder / "steps" / "history.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        line = {"run": self.run, "step": step, "event": event, "time_s": round(time.time(), 3)}
        with path.open("a") as file:
            file.write(json.dumps({**line, "pid": os.getpid()}) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """Lines of the history: run, step, event (begin, end, fail), time_s, pid."""
        path = self.folder / "steps" / "history.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def done(self, step: str) -> bool:
        """Whether this run has finished a step; `end` stands for the whole."""
        told = (self.run, step, "end")
        return any((line["run"], line["step"], line["event"]) == told for line in self.history())


def open_workflow(folder: Path) -> Workflow:
    """The workflow of a folder.

    Raises:
        ConfigError: there is none.
        CorruptError: its record cannot be read.
    """
    found = read(folder / RECORD)
    if found is None:
        raise ConfigError(folder, "holds no workflow", "start one with `aqa run`")
    try:
        tracking = found["config"]["tracking"]
        given = os.environ.get(URI_VARIABLE, "")
        tracking["uri"] = given if redact(given) == tracking["uri"] else tracking["uri"]
        return Workflow(
            folder=folder.absolute(),
            manifest=Path(found["manifest"]) if found["manifest"] else None,
            store=Path(found["store"]),
            config=Config.model_validate_json(json.dumps(found["config"]), strict=True),
            **{name: found[name] for name in ("run", "rendered", "address", "first", "last")},
        )
    except (KeyError, ValueError) as error:
        raise CorruptError(
            folder / RECORD, "is not a workflow of this version", "name another folder"
        ) from error


def before(step: str) -> set[str]:
    """All steps that must be done before a step."""
    return set(NEEDS[step]).union(*map(before, NEEDS[step]))


def read(path: Path) -> Any:
    """A JSON file; None if it is not there.

    Raises:
        CorruptError: it cannot be read.
    """
    try:
        return json.loads(path.read_text()) if path.is_file() else None
    except ValueError as error:
        raise CorruptError(path, "is not readable as JSON", "delete it and run again") from error


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, (to_json(content) + "\n").encode())
