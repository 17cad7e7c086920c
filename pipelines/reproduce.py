"""`aqa reproduce`: trains a run again from its record, and says what came out otherwise.

The record is RUN/config.json: settings, seed, and the versions of the store's tables. The rows of these
versions are read again, even if the store has newer ones; other rows are refused before the training.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipelines.checkpoint import check_identity, load_bundle
from pipelines.config import Config
from pipelines.environment import differing, environment
from pipelines.errors import ConfigError, CorruptError, DataError
from pipelines.run_folder import environments, read_json, settings_identity, write_json
from pipelines.store import open_store

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

KINDS = {"pretrain": "nonexpert", "expert": "expert", "angles": "angles", "hp_mcore": "hp_mcore"}
Tables = dict[str, "pa.Table"]


def reproduce(run: Path, out: Path | None = None, store: Path | None = None) -> dict[str, Any]:
    """Trains a finished run again and compares.

    Args:
        run: folder of the run.
        out: folder of the new run, which is not tracked; None = RUN-again beside it.
        store: where the store of the training is now; None = where it was.

    Returns:
        run, out, same (whether weights, epochs and predictions are equal to the last bit), weights {same,
        tensors, differing, largest_difference}, training {epochs, first_differing_epoch, rows of metric,
        recorded, rebuilt}, test (likewise, with clips and largest_difference of a prediction; or `reason`),
        and environment (rows of what, recorded, now; None if the run did not record it).

    Raises:
        ConfigError: the run is not finished, lacks what is needed, or `out` belongs to another run.
        DataError: the store holds other rows than the run was trained on.
        CorruptError: files of the recorded versions are gone.
    """
    run = run.absolute()
    out = out.absolute() if out else run.with_name(f"{run.name}-again")
    record = _record(run)
    if out == run:
        raise ConfigError("--out", "is the run itself", "name a new folder")
    section = _settings(run, record)
    place = store or Path(record["provenance"]["store"])
    weights, _ = load_bundle(run, KINDS[record["phase"]])
    clips, tables = rows_of(place, record["provenance"])
    _expect(out, record, section)
    recorded = environments(run)
    with _threads(int(recorded[-1]["threads"]) if recorded else 0):
        _train(run, out, record, section, clips, tables, place)
        test = _test(run, out, record["phase"], clips, tables)
    result = {
        "run": str(run),
        "out": str(out),
        "weights": _weights(weights, load_bundle(out, KINDS[record["phase"]])[0]),
        "training": _training(run, out),
        "test": test,
        "environment": differing(recorded[-1], environment()) if recorded else None,
    }
    parts = (result["weights"], result["training"], result["test"])
    return {"same": all(part.get("same", True) for part in parts), **result}


def lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    found, training, test = (result[name] for name in ("weights", "training", "test"))
    told = [f"{result['run']} was trained again as {result['out']}"]
    if found["same"]:
        told.append(f"weights     equal to the last bit ({found['tensors']} tensors)")
    else:
        worst = found["largest_difference"]
        size = "of another shape" if worst is None else f"by at most {worst:.3g}"
        told.append(f"weights     {found['differing']} of {found['tensors']} tensors differ, {size}")
    if training["same"]:
        told.append(f"training    all {training['epochs']} epochs equal")
    else:
        told.append(f"training    differs from epoch {training['first_differing_epoch']} on")
        told += [f"  {r['metric']:20} {_n(r['recorded'])} -> {_n(r['rebuilt'])}" for r in training["rows"]]
    if "reason" in test:
        told.append(f"test        not compared: {test['reason']}")
    elif test["same"]:
        told.append(f"test        {test['clips']} predictions equal")
    else:
        told.append(f"test        predictions differ by at most {_n(test['largest_difference'])}")
        told += [f"  {r['metric']:20} {_n(r['recorded'])} -> {_n(r['rebuilt'])}" for r in test["rows"]]
    rows = result["environment"]
    if rows is None:
        told.append("made with   not recorded: the run is older than this record")
    elif not rows:
        told.append("made with   the same versions on the same kind of machine")
    else:
        told.append("made with   other versions or another machine:")
        told += [f"  {row['what']:20} {row['recorded'] or 'none'} -> {row['now'] or 'none'}" for row in rows]
    return told


def _n(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _record(run: Path) -> dict[str, Any]:
    record = read_json(run / "config.json")
    if not record:
        raise ConfigError(run, "holds no training run", "give a folder that `aqa train` wrote")
    if not (run / "summary.json").is_file():
        raise ConfigError(run, "has not finished", "finish it first: its training command goes on with it")
    provenance = record.get("provenance", {})
    lacking = [name for name in ("identity", "config", "phase") if name not in record]
    lacking += [f"provenance.{name}" for name in ("store", "clips_version") if name not in provenance]
    if lacking or record["phase"] not in KINDS:
        raise ConfigError(
            run / "config.json",
            f"does not say {', '.join(lacking) or 'a phase that is known'}",
            "only runs of `aqa train` on a store can be rebuilt; train it again from its data",
        )
    return record


def _settings(run: Path, record: dict[str, Any]) -> Any:
    """The section of the configuration that the run was trained with."""
    kind = Config.model_fields[record["phase"]].annotation
    try:
        return kind.model_validate(record["config"])  # type: ignore[union-attr]
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        recorded = environments(run)
        version = f"version {recorded[-1]['aqa']}" if recorded else "the version that wrote it"
        raise ConfigError(
            run / "config.json",
            f"holds the setting {path}, which this version does not take ({first['msg']})",
            f"use {version}",
        ) from error


def rows_of(store: Path, provenance: dict[str, Any]) -> tuple[pa.Table, Tables]:
    """The rows that a run read: clips, and family -> rows, of the recorded versions.

    Args:
        store: folder of the store.
        provenance: as `store.snapshot_of` gives it.

    Raises:
        StorageError: no store there.
        CorruptError: the store lacks a table or version, or files of it were removed by vacuum.
    """
    opened = open_store(store)
    keys = [name.removesuffix("_key") for name in provenance if name.endswith("_key")]
    families = {kind: kind if kind in ("poses", "people") else f"features/{kind}" for kind in keys}
    wanted = {"clips": (opened.clips, provenance["clips_version"])}
    for kind, family in families.items():
        wanted[family] = opened.table(family, provenance[f"{kind}_key"]), provenance[f"{kind}_version"]
    found = {}
    for family, (table, version) in wanted.items():
        if not table.exists() or version > table.version():
            held = f"it ends at version {table.version()}" if table.exists() else "it is not there"
            raise CorruptError(
                table.path,
                f"version {version} was read by the run, but {held}",
                "name the store of the training with --store",
            )
        gone = [name for name in table.file_names(version) if not (table.path / name).is_file()]
        if gone:
            raise CorruptError(
                table.path,
                f"{len(gone)} files of version {version}, which the run read, are gone: "
                "`aqa store vacuum --keep-versions` removed them, or they were deleted",
                "restore the store from a copy; without these rows the run cannot be rebuilt",
            )
        found[family] = table.read(version)
    return found.pop("clips"), found


def _expect(out: Path, record: dict[str, Any], section: Any) -> None:
    """Notes in the new folder what is to be trained there: training refuses other rows or settings.

    Settings that came after the run was made have their defaults.
    """
    expected = settings_identity(section) | record["identity"]
    earlier = read_json(out / "config.json")
    if earlier:
        check_identity(out, earlier["identity"], expected)
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(out, "holds other files", "name a new folder with --out")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "config.json", {"identity": expected})


def _train(
    run: Path, out: Path, record: dict[str, Any], section: Any, clips: pa.Table, tables: Tables, store: Path
) -> None:
    from pipelines import fit
    from pipelines.angles_expert.fit import fit as fit_angles
    from pipelines.hp_mcore.fit import FAMILIES
    from pipelines.hp_mcore.fit import fit as fit_dives

    phase, provenance = record["phase"], {**record["provenance"], "store": str(store.absolute())}
    try:
        if phase == "hp_mcore":
            streams = {name: tables[family] for name, family in FAMILIES.items() if family in tables}
            fit_dives(clips, streams, section, out, provenance)
        elif phase == "angles":
            fit_angles(clips, tables["poses"], section, out, provenance)
        elif phase == "pretrain":
            fit.pretrain(clips, tables["poses"], section, out, provenance)
        else:
            start = Path(record["pretrained"]) if record.get("pretrained") else None
            features = tables.get(f"features/{section.feature_kind}")
            fit.train_expert(clips, tables["poses"], section, out, start, provenance, features=features)
    except ConfigError as error:
        if error.where != str(out):
            raise
        raise DataError(
            run,
            f"cannot be rebuilt from {store}: " + error.cause.removeprefix("belongs to another run "),
            "name the store of the training with --store, and put the pretrained run back if that differs",
        ) from error


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """As many threads as the run had, because sums in another order differ in the last digit; 0 = as now."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Any]:
    import torch

    names, worst, count = sorted(one.keys() | other.keys()), 0.0, 0
    for name in names:
        a, b = one.get(name), other.get(name)
        if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
            count, worst = count + 1, math.inf
        elif not torch.equal(a, b):
            count, worst = count + 1, max(worst, float((a.double() - b.double()).abs().max()))
    shown = worst if math.isfinite(worst) else None
    return {"same": not count, "tensors": len(names), "differing": count, "largest_difference": shown}


def _training(run: Path, out: Path) -> dict[str, Any]:
    from pipelines.loop import read_metrics

    one, other = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(folder / "metrics.jsonl")]
        for folder in (run, out)
    )
    unequal = [k for k in range(max(len(one), len(other))) if one[k : k + 1] != other[k : k + 1]]
    summaries = [read_json(folder / "summary.json")["summary"] for folder in (run, out)]
    names = [name for name in summaries[0] if name.startswith(("best_", "val_"))]
    rows = [
        {"metric": name, "recorded": summaries[0][name], "rebuilt": summaries[1].get(name)}
        for name in names
        if summaries[0][name] != summaries[1].get(name)
    ]
    first = unequal[0] if unequal else None
    return {"same": not unequal, "epochs": len(one), "first_differing_epoch": first, "rows": rows}


def _test(run: Path, out: Path, phase: str, clips: pa.Table, tables: Tables) -> dict[str, Any]:
    """The predictions of both for the test clips, if the run was evaluated on these."""
    if phase == "pretrain":
        return {"reason": "pretraining is not tested"}
    if not (run / "predictions.parquet").is_file():
        return {"reason": "the run was not evaluated"}
    _evaluate(out, phase, clips, tables)
    from pipelines.compare_runs import predictions_of

    one, other = predictions_of(run), predictions_of(out)
    if one.keys() != other.keys():
        return {"reason": "the run was evaluated on other clips than its store version holds"}
    field = "predicted_group" if any(row["predicted_group"] for row in one.values()) else "predicted"
    unequal = [name for name in one if one[name][field] != other[name][field]]
    worst = None
    if field == "predicted":
        worst = max((abs(one[name][field] - other[name][field]) for name in unequal), default=0.0)
    metrics = [read_json(folder / "metrics.json") for folder in (run, out)]
    rows = [
        {"metric": name, "recorded": value["value"], "rebuilt": metrics[1][name]["value"]}
        for name, value in metrics[0].items()
        if isinstance(value, dict) and "value" in value and value["value"] != metrics[1][name]["value"]
    ]
    return {"same": not unequal, "clips": len(one), "largest_difference": worst, "rows": rows}


def _evaluate(out: Path, phase: str, clips: pa.Table, tables: Tables) -> None:
    from pipelines.config import EvaluateConfig

    config = EvaluateConfig()
    if phase == "hp_mcore":
        from pipelines.hp_mcore import evaluate as dives
        from pipelines.hp_mcore.fit import FAMILIES

        streams = {name: tables[family] for name, family in FAMILIES.items() if family in tables}
        dives.evaluate_tables(out, clips, streams, config)
    elif phase == "angles":
        from pipelines.angles_expert import evaluate as angles

        angles.evaluate_tables(out, clips, tables["poses"], config)
    else:
        from pipelines.evaluate import evaluate_tables

        features = next((rows for family, rows in tables.items() if family.startswith("features/")), None)
        evaluate_tables(out, clips, tables["poses"], config, features)
