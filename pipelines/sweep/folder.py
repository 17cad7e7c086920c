"""The folder of a sweep, and what it tells of its trials: the only memory a sweep has.

    SWEEP/sweep.json              what is searched, and with which settings; written after the rows
    SWEEP/data/                   the rows that all trials read; test rows are left out
    SWEEP/trials/trial-003/       the run folder of a trial (run_folder.py), and in it
                 trial.json       its values, written before it starts
                 failed.json      instead of a summary: why it ended
                 pretrain/        the run folder of its own pretraining, if that is searched too
    SWEEP/trials.csv, best.toml, plots/   the result, when all have ended
    SWEEP/ray/                    Ray Tune's own records, never read

Every file is whole or not there, so a sweep may be killed at any moment and goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.config import Config, TuneConfig
from pipelines.loop import read_metrics
from pipelines.run_folder import read_json, write_json
from pipelines.settings import Source, override
from pipelines.sweep.asha import is_rung, is_worse
from pipelines.sweep.search import Told, propose
from pipelines.sweep.space import Range

Status = Literal["waiting", "unfinished", "failed", "stopped", "finished"]


@dataclass(frozen=True)
class Trial:
    """What is known of a trial.

    Attributes:
        number: from 0, in the order of the proposals.
        params: dotted path -> value; empty while it waits.
        status: waiting = without values; unfinished = it has them; stopped = not worth its other epochs.
        value: the objective at the best epoch; None unless finished or stopped.
        epochs: how many it has trained.
        seconds: of training.
        error: why it failed.
    """

    number: int
    params: dict[str, Any]
    status: Status = "waiting"
    value: float | None = None
    epochs: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def ended(self) -> bool:
        return self.status in ("failed", "stopped", "finished")


@dataclass(frozen=True)
class Sweep:
    """A sweep on disk.

    Attributes:
        folder: SWEEP.
        target: two-stage or hp-mcore.
        config: settings of all trials; `tracking` is left at its default, it may hold a password.
        space: what varies.
        lag: trial i may know trials 0 to i - lag; as many as may run at once.
        pretrained: run folder that the trials start from, or None.
        provenance: where the rows came from.
    """

    folder: Path
    target: str
    config: Config
    space: tuple[Range, ...]
    lag: int
    pretrained: Path | None
    provenance: dict[str, Any]

    @property
    def tune(self) -> TuneConfig:
        return self.config.tune

    @property
    def mode(self) -> Literal["min", "max"]:
        """Whether a smaller or a larger objective is better."""
        return "max" if self.tune.metric in ("val_spearman", "val_accuracy") else "min"

    @property
    def section(self) -> Any:
        """The settings of the training whose validation counts."""
        return self.config.hp_mcore if self.target == "hp-mcore" else self.config.expert

    @property
    def first_rung(self) -> int:
        """Epochs after which trials are compared first."""
        return self.tune.first_rung or max(1, self.section.epochs // self.tune.reduction**2)

    def trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"trial-{number:03d}"

    def trial(self, number: int) -> Trial:
        """What the disk says of a trial."""
        folder = self.trial_folder(number)
        params = read_json(folder / "trial.json").get("params", {})
        if not params:
            return Trial(number, {})
        rows = read_metrics(folder / "metrics.jsonl")
        told = {"epochs": len(rows), "seconds": sum(row["seconds"] for row in rows)}
        failed = read_json(folder / "failed.json")
        if failed:
            return Trial(number, params, "failed", error=f"{failed['where']}: {failed['cause']}", **told)
        summary = read_json(folder / "summary.json").get("summary")
        if not summary:
            return Trial(number, params, "unfinished", **told)
        value = summary.get(self.tune.metric)
        if value is None:
            return Trial(number, params, "failed", error=f"its best epoch has no {self.tune.metric}", **told)
        meant = read_json(folder / "config.json")["config"]["epochs"]
        return Trial(number, params, "stopped" if len(rows) < meant else "finished", value, **told)

    def trials(self) -> list[Trial]:
        """All that have values, in order, and those still to come."""
        started = sum(1 for _ in (self.folder / "trials").glob("trial-*/trial.json"))
        return [self.trial(number) for number in range(max(started, self.tune.trials))]

    def config_of(self, trial: Trial) -> Config:
        """The settings of a trial.

        Raises:
            ConfigError: its values contradict each other.
        """
        given = {path: Source(value, f"trial {trial.number}") for path, value in trial.params.items()}
        return override(self.config, given)

    def visible(self, number: int) -> list[int]:
        """Other trials that the decisions about a trial may depend on.

        With `in_order` those that must have ended before it starts, so that nothing depends on which of the
        trials that run side by side is faster.
        """
        if self.tune.in_order:
            return list(range(number - self.lag + 1))
        return [other.number for other in self.trials() if other.number != number and other.params]

    def start(self, number: int) -> Trial:
        """Gives a trial its values, once; the trials it may know have ended."""
        path = self.trial_folder(number) / "trial.json"
        if not path.is_file():
            seen = [trial for trial in map(self.trial, self.visible(number)) if trial.ended]
            known = [Told(t.params, t.value, t.epochs if t.status == "stopped" else 0) for t in seen]
            tune = self.tune
            params = propose(self.space, tune.searcher, self.mode, tune.seed, number, known)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"number": number, "params": params})
        return self.trial(number)

    def is_hopeless(self, number: int) -> bool:
        """Whether a trial is to be stopped after the epoch that it has just written down."""
        rows = read_metrics(self.trial_folder(number) / "metrics.jsonl")
        done = len(rows)
        if self.tune.scheduler == "none" or not is_rung(done, self.first_rung, self.tune.reduction):
            return False
        others = [read_metrics(self.trial_folder(other) / "metrics.jsonl") for other in self.visible(number)]
        values = [objective(them[:done], self.tune.metric) for them in others if len(them) >= done]
        value = objective(rows, self.tune.metric)
        known = [other for other in values if other is not None]
        return value is not None and is_worse(value, known, self.tune.reduction, self.mode)


def objective(rows: list[dict[str, float]], metric: str) -> float | None:
    """The validation metric of the epoch with the smallest validation loss, whose weights are kept."""
    return min(rows, key=lambda row: row["val_loss"]).get(metric)
