"""`aqa tune`: tries values of some settings, and says which serve the validation people best.

Test rows never reach a trial: they are dropped before the rows of the sweep are written down.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.connect import connect
from pipelines import fit
from pipelines.config import Config
from pipelines.errors import ConfigError, DataError
from pipelines.redact import redact
from pipelines.run_folder import alone, write_table
from pipelines.settings import Source, override
from pipelines.splits import check_subjects, without_test
from pipelines.store import snapshot_of
from pipelines.sweep import best as outcome
from pipelines.sweep import plots
from pipelines.sweep.folder import Sweep, Trial
from pipelines.sweep.plan import SECTIONS, exists, resumed, write_sweep
from pipelines.sweep.run import run_trials, slots
from pipelines.sweep.search import propose
from pipelines.sweep.space import read_space
from pipelines.tracking import Tracker, track
from pipelines.train import run_folder

if TYPE_CHECKING:
    import pyarrow as pa

METRICS = {
    "two-stage score": ("val_loss", "val_mae"),
    "two-stage classes": ("val_loss", "val_accuracy"),
    "hp-mcore": ("val_loss", "val_mae", "val_spearman"),
}


def sweep(
    target: str,
    store: Path,
    name: str,
    space: Path,
    config: Config,
    *,
    pretrained: Path | None = None,
    runs: Path = Path("runs"),
    dry_run: bool = False,
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Searches settings of a training.

    Args:
        target: two-stage (the expert; also its pretraining, if settings of that vary) or hp-mcore.
        store: the feature store.
        name: of the sweep; the same name goes on with it.
        space: TOML file of what varies, see sweep/space.py.
        config: all other settings; `tune` says how to search.
        pretrained: run folder of `pretrain` that every trial starts from.
        runs: folder of the runs.
        dry_run: only say what would be tried first.
        progress: told a line per trial.

    Returns:
        sweep (folder), complete, trials (a row each, the best first), errors; and if one finished: best
        (number), best_run (its run folder), best_toml, train (commands that do it again), importances.

    Raises:
        ConfigError: a path or range of the space, or what is asked of the sweep, is wrong; nothing was tried.
        DataError: the rows cannot be trained on, or every trial failed.
        ClusterError: Ray cannot hold a trial, or lost one too often; the same command goes on.
        WriterError: another process runs this sweep.
    """
    ranges = read_space(space, SECTIONS[target], config)
    asked = Sweep(
        folder=run_folder(runs, name).absolute(),
        target=target,
        config=config,
        space=ranges,
        lag=config.tune.max_concurrent,
        pretrained=pretrained.absolute() if pretrained else None,
        provenance={},
    )
    _check(asked)
    if dry_run:
        return _first_proposals(asked)
    begun = exists(asked.folder)
    rows = {} if begun else _rows(asked, store)
    asked.folder.mkdir(parents=True, exist_ok=True)
    with alone(asked.folder):
        if begun:
            asked = resumed(asked)
        if not begun or not all(trial.ended for trial in asked.trials()):
            with connect():
                concurrent = config.tune.max_concurrent or slots(asked.section)
                if not begun:
                    asked = _begin(asked, rows, concurrent)
                _search(asked, min(concurrent, asked.lag), progress)
        return _result(asked)


def _check(asked: Sweep) -> None:
    """Refuses, before the first trial, what could not be compared or would fail."""
    tune, paths = asked.tune, [ranged.path for ranged in asked.space]
    kind = asked.target if asked.target == "hp-mcore" else f"two-stage {asked.section.model.task}"
    if tune.metric not in METRICS[kind]:
        raise ConfigError("tune.metric", f"{kind} has no {tune.metric}", f"give {' or '.join(METRICS[kind])}")
    if "expert.loss" in paths and tune.metric == "val_loss":
        raise ConfigError(
            "tune.metric", "val_loss means something else for each expert.loss", "give --metric val_mae"
        )
    if outcome.pretrains(asked) and asked.pretrained:
        raise ConfigError(
            "--pretrained", "is given, but settings of the pretraining vary", "give one or the other"
        )
    for path, changed in _ends(asked):
        if _wanted(asked.target, changed) != _wanted(asked.target, asked.config):
            raise ConfigError(
                path, "decides which tables are read, which all trials share", "fix it in --config"
            )
        if outcome.pretrains(asked) and changed.pretrain.sequence != changed.expert.sequence:
            raise ConfigError(
                path, "pretrain.sequence and expert.sequence differ", "let both be the same in --config"
            )


def _ends(asked: Sweep) -> list[tuple[str, Config]]:
    """The settings themselves, then with each end or choice of each range."""
    found = [("configuration", asked.config)]
    for ranged in asked.space:
        for value in ranged.values:
            found.append((ranged.path, override(asked.config, {ranged.path: Source(value, "search space")})))
    return found


def _wanted(target: str, config: Config) -> dict[str, tuple[str, str]]:
    """Name of the rows -> family and key of the table they are read from."""
    if target == "hp-mcore":
        from pipelines.hp_mcore.fit import FAMILIES, wanted_streams

        return {stream: (FAMILIES[stream], key) for stream, key in wanted_streams(config.hp_mcore).items()}
    wanted = {"poses": ("poses", config.expert.poses)}
    if config.expert.model.appearance != "none":
        wanted["features"] = (f"features/{config.expert.feature_kind}", config.expert.features)
    return wanted


def _rows(asked: Sweep, store: Path) -> dict[str, Any]:
    """What the trials read, without test rows, checked; and `provenance`."""
    wanted = _wanted(asked.target, asked.config)
    clips, tables, provenance = snapshot_of(store, dict(wanted.values()))
    named = {name: tables[family] for name, (family, _) in wanted.items()}
    if outcome.pretrains(asked):
        _, more, _ = snapshot_of(store, {"poses": asked.config.pretrain.poses})
        named["pretrain"] = more["poses"]
    check_subjects(clips)
    if asked.target == "two-stage" and not outcome.pretrains(asked):
        for _, changed in _ends(asked):
            fit.check_expert(clips, changed.expert, asked.pretrained, named.get("features"))
    kept = without_test(clips)
    return {
        "clips": kept,
        "tables": {name: _of_clips(table, kept) for name, table in named.items()},
        "provenance": redact(provenance),
    }


def _of_clips(table: pa.Table, clips: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    return table.filter(pc.is_in(table["clip_id"], value_set=clips["clip_id"].combine_chunks()))


def _begin(asked: Sweep, rows: dict[str, Any], concurrent: int) -> Sweep:
    """Writes the rows, then sweep.json: from then on they are what the sweep is about."""
    data = asked.folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    write_table(data / "clips.arrow", rows["clips"])
    for name, table in rows["tables"].items():
        write_table(data / f"rows-{name}.arrow", table)
    begun = dataclasses.replace(asked, lag=concurrent, provenance=rows["provenance"])
    write_sweep(begun)
    return begun


def _search(asked: Sweep, concurrent: int, progress: Callable[[str], None]) -> None:
    settings = {
        "tune": asked.tune.model_dump(mode="json"),
        "space": {ranged.path: f"{ranged.kind} {list(ranged.values)}" for ranged in asked.space},
    }
    tracking = asked.config.tracking

    def on_end(trial: Trial) -> None:
        progress(_line(asked, trial))
        if trial.value is not None:
            tracker.metrics({"objective": trial.value}, trial.number)

    progress(f"{asked.tune.trials} trials, {concurrent} side by side; see {asked.folder}")
    with track(tracking, asked.folder, settings, asked.provenance, "sweep") as tracker:
        digest = hashlib.sha256((asked.folder / "data" / "clips.arrow").read_bytes()).hexdigest()
        tracker.dataset(f"clips of {asked.folder.name}", digest, "training", asked.provenance)
        run_trials(asked, concurrent, tracking, on_end)
        _write_result(asked, tracker)


def _write_result(asked: Sweep, tracker: Tracker) -> None:
    """Table, best.toml and pictures, in the folder and in MLflow."""
    trials, written = asked.trials(), ["trials.csv"]
    outcome.write_table(asked, trials)
    best = outcome.best_of(asked, trials)
    if best is not None:
        outcome.write_best(asked, best)
        tracker.tags({"best_trial": str(best.number)})
        tracker.metrics({"best": best.value or 0.0}, sum(trial.ended for trial in trials))
        plots.draw_parallel(asked, trials, asked.folder / "plots" / "parallel.png")
        written += ["best.toml", "plots/parallel.png"]
        if shares := plots.importances(asked, trials):
            plots.draw_importances(shares, asked.folder / "plots" / "importances.png")
            written.append("plots/importances.png")
    for name in written:
        tracker.artifact(asked.folder / name)


def _result(asked: Sweep) -> dict[str, Any]:
    trials = asked.trials()
    best = outcome.best_of(asked, trials)
    failed = [trial for trial in trials if trial.status == "failed"]
    if len(failed) == len(trials):
        raise DataError(
            asked.folder,
            f"all {len(trials)} trials failed, the first with: {failed[0].error}",
            "correct that, and give the sweep another name",
        )
    found: dict[str, Any] = {
        "sweep": str(asked.folder),
        "complete": all(trial.ended for trial in trials),
        "trials": outcome.rows_of(asked, trials),
        "errors": {str(trial.number): trial.error for trial in failed},
    }
    if best is None:
        return found
    return found | {
        "best": best.number,
        "best_run": str(asked.trial_folder(best.number)),
        "best_toml": str(asked.folder / "best.toml"),
        "train": outcome.train_commands(asked),
        "importances": plots.importances(asked, trials),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The result for people, below its table."""
    told = [f"trial {number} failed: {text}" for number, text in found["errors"].items()]
    if not found["complete"]:
        told.append("Some trials have not ended; the same command goes on with them.")
    if "best" in found:
        told += [f"Best: trial {found['best']}, {found['best_run']}", f"Its settings: {found['best_toml']}"]
        told += [f"  {command}" for command in found["train"]]
    return told


def _line(asked: Sweep, trial: Trial) -> str:
    ended = [other for other in asked.trials() if other.ended]
    best = outcome.best_of(asked, asked.trials())
    value = "" if trial.value is None else f" {asked.tune.metric} {trial.value:.4g}"
    top = "" if best is None else f"; best: {best.value:.4g} of trial {best.number}"
    return (
        f"trial {trial.number} {trial.status}{value} after {trial.epochs} epochs, {trial.seconds:.0f} s "
        f"({len(ended)}/{asked.tune.trials}{top}) {trial.error}".rstrip()
    )


def _first_proposals(asked: Sweep) -> dict[str, Any]:
    tune = asked.tune
    drawn = [
        {"trial": number, **propose(asked.space, "random", asked.mode, tune.seed, number, ())}
        for number in range(min(tune.trials, 5))
    ]
    return {"dry_run": True, "sweep": str(asked.folder), "trials": tune.trials, "first": drawn}
