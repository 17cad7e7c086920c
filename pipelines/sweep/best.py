"""The result of a sweep: the trials as a table, and the best one as a configuration file."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from pipelines.checkpoint import write_durably
from pipelines.settings import to_toml
from pipelines.sweep.folder import Sweep, Trial


def ranking(sweep: Sweep, trials: Sequence[Trial]) -> list[Trial]:
    """Finished trials, the best first; then stopped, failed and unfinished ones. Ties: the earlier trial."""
    order = ("finished", "stopped", "failed", "unfinished", "waiting")
    sign = 1.0 if sweep.mode == "min" else -1.0
    return sorted(trials, key=lambda t: (order.index(t.status), sign * (t.value or 0.0), t.number))


def best_of(sweep: Sweep, trials: Sequence[Trial]) -> Trial | None:
    """The best finished trial; a stopped one was worse than others after as many epochs."""
    first = ranking(sweep, trials)[0]
    return first if first.status == "finished" else None


def rows_of(sweep: Sweep, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The table: trial, status, objective, epochs, seconds, and a column per setting."""
    paths = [ranged.path for ranged in sweep.space]
    return [
        {
            "trial": trial.number,
            "status": trial.status,
            sweep.tune.metric: trial.value,
            "epochs": trial.epochs,
            "seconds": round(trial.seconds, 1),
            **{path: trial.params.get(path) for path in paths},
        }
        for trial in ranking(sweep, trials)
        if trial.params
    ]


def write_table(sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Writes SWEEP/trials.csv."""
    rows = rows_of(sweep, trials)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_durably(sweep.folder / "trials.csv", text.getvalue().encode())


def write_best(sweep: Sweep, best: Trial) -> None:
    """Writes SWEEP/best.toml: every setting of the best trial, which `aqa train --config` takes as it is."""
    sections = sections_of(sweep)
    head = [
        f"# Trial {best.number} of the sweep {sweep.folder.name}: {sweep.tune.metric} {best.value:.6g}",
        *(f"# {command}" for command in train_commands(sweep)),
    ]
    text = "\n".join(head) + "\n" + to_toml(sweep.config_of(best), sections)
    write_durably(sweep.folder / "best.toml", text.encode())


def sections_of(sweep: Sweep) -> tuple[str, ...]:
    """The sections of the configuration that a trial reads."""
    if sweep.target == "hp-mcore":
        return ("hp_mcore",)
    return ("pretrain", "expert") if pretrains(sweep) else ("expert",)


def pretrains(sweep: Sweep) -> bool:
    """Whether each trial pretrains its own encoder, because settings of the pretraining vary."""
    return any(ranged.path.startswith("pretrain.") for ranged in sweep.space)


def train_commands(sweep: Sweep) -> list[str]:
    """What trains the best trial again, to its last digit on the same rows and processor."""
    store, file = sweep.provenance["store"], sweep.folder / "best.toml"
    if sweep.target == "hp-mcore":
        return [f"aqa train hp-mcore --store {store} --name best --config {file}"]
    expert = f"aqa train expert --store {store} --name best --config {file}"
    if pretrains(sweep):
        pretrain = f"aqa train pretrain --store {store} --name best-pretrained --config {file}"
        return [pretrain, f"{expert} --pretrained runs/best-pretrained"]
    return [expert + (f" --pretrained {sweep.pretrained}" if sweep.pretrained else "")]
