"""One trial: the training that `aqa train` runs, with other values of some settings, on the sweep's rows.

A trial is a run folder, so a trial that was killed goes on from its newest checkpoint, and the model of any
trial can be evaluated like that of any other run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import fit
from pipelines.config import HpMcoreTrainConfig, TrackingConfig, TrainSection
from pipelines.errors import ConfigError, DataError, WriterError
from pipelines.journal import Journal
from pipelines.run_folder import read_table, write_json
from pipelines.sweep.folder import Sweep, Trial
from pipelines.sweep.plan import read_sweep

WAIT_FOR_A_DEAD_ONE_S = 60.0  # a killed sweep's trial may live on for as long as Ray needs to notice
DRIVER_MEMORY = 300 * 1024**2


@dataclass(frozen=True)
class Halving:
    """Whether a trial is to be stopped, asked after each epoch; see launch.Watch.

    Attributes:
        folder: of the sweep.
        number: of the trial.
        tells: whether it is asked in the trial's own process, which tells Ray Tune its metrics; for workers
            of Ray Train, Ray does it (launch.py).
    """

    folder: Path
    number: int
    tells: bool

    def __call__(self, row: dict[str, float]) -> bool:
        if self.tells:
            _tell(row)
        return read_sweep(self.folder).is_hopeless(self.number)


def resources(config: TrainSection) -> tuple[dict[str, float], dict[str, float]]:
    """What Ray must hold for a trial: for its own process, and for that and its workers together.

    A process that only waits for its workers holds no core, or trials would wait for each other's cores.
    """
    gpu = 1.0 if config.use_gpu else 0.0
    if not config.num_workers:
        own = {"CPU": 1.0} | ({"GPU": gpu} if gpu else {})
        return own, own
    cpu = 1.0
    if isinstance(config, HpMcoreTrainConfig) and config.encoders == "finetune":
        cpu = 0.5 + config.decode_workers
    total = {"CPU": cpu * config.num_workers} | ({"GPU": gpu * config.num_workers} if gpu else {})
    return {"memory": DRIVER_MEMORY}, total


def run_trial(given: dict[str, Any], tracking: TrackingConfig) -> None:
    """What Ray Tune runs: trains, or goes on, or does nothing if the trial has ended.

    Args:
        given: `sweep`, the folder, and `number`.
        tracking: where MLflow is; the trial's run becomes a child of the sweep's.
    """
    sweep = read_sweep(Path(given["sweep"]))
    trial = sweep.trial(given["number"])
    if not trial.ended:
        _train_or_note(sweep, trial, tracking.model_copy(update={"parent": sweep.folder}))
    ended = sweep.trial(trial.number)
    _tell({"number": ended.number, "ended": 1})


def _train_or_note(sweep: Sweep, trial: Trial, tracking: TrackingConfig) -> None:
    folder = sweep.trial_folder(trial.number)
    began = time.monotonic()
    while True:
        try:
            _train(sweep, trial, tracking)
            return
        except WriterError:
            if time.monotonic() - began > WAIT_FOR_A_DEAD_ONE_S:
                raise
            time.sleep(1.0)
        except (ConfigError, DataError) as error:  # these values cannot be trained, today or tomorrow
            told = {"kind": type(error).__name__, "where": error.where}
            write_json(folder / "failed.json", {**told, "cause": error.cause, "remedy": error.remedy})
            journal = Journal(folder)
            journal.open(folder.name, tracking.experiment, sweep.folder, {"tags": {}, "params": {}})
            journal.tags({"error": str(error)})
            journal.set_status("FAILED")
            return


def _train(sweep: Sweep, trial: Trial, tracking: TrackingConfig | None) -> None:
    config, folder = sweep.config_of(trial), sweep.trial_folder(trial.number)
    watch = Halving(sweep.folder, trial.number, tells=sweep.section.num_workers == 0)
    clips = read_table(sweep.folder, "clips")
    tables = {
        path.stem.partition("-")[2]: read_table(sweep.folder, path.stem)
        for path in (sweep.folder / "data").glob("rows-*.arrow")
    }
    if sweep.target == "hp-mcore":
        from pipelines.hp_mcore.fit import fit as fit_dives

        fit_dives(clips, tables, config.hp_mcore, folder, sweep.provenance, tracking, watch)
        return
    pretrained = sweep.pretrained
    if "pretrain" in tables:
        pretrained = folder / "pretrain"
        fit.pretrain(clips, tables["pretrain"], config.pretrain, pretrained, sweep.provenance)
    poses, features = tables["poses"], tables.get("features")
    fit.train_expert(
        clips, poses, config.expert, folder, pretrained, sweep.provenance, tracking, features, watch
    )


def _tell(row: dict[str, float]) -> None:
    from ray import tune

    tune.report(row)
