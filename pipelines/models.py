"""Registered models: published by `aqa evaluate`, listed, checked, and promoted through a gate."""

from __future__ import annotations

import contextlib
import json
import logging
import operator
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.bundle import DATA, make_bundle, verify_bundle
from pipelines.checkpoint import bundle_kind
from pipelines.config import TrackingConfig
from pipelines.errors import ClusterError, ConfigError, CorruptError, DataError
from pipelines.journal import SUMS, Journal, digest_of
from pipelines.redact import redact
from pipelines.sender import Refused, Unanswered
from pipelines.tracking import DIGEST_TAG, MlflowServer, answers, send_now

CHAMPION = "champion"
_SHOWN = ("test_spearman", "test_mae", "test_micro_f1")
_REQUIREMENT = re.compile(r"(\w+)(>=|<=)(-?\d+(?:\.\d+)?)")
_log = logging.getLogger(__name__)


def publish(run_dir: Path, store: Path, config: TrackingConfig) -> Path | None:
    """Makes the bundle of an evaluated run and has MLflow register it.

    Args:
        run_dir: a run that `aqa evaluate` has scored.
        store: the feature store it was scored on.
        config: the name to register it by.

    Returns:
        The bundle; None if the run is not tracked.
    """
    journal = Journal(run_dir)
    if not journal.exists:
        return None
    try:
        bundle = make_bundle(run_dir, store)
    except ConfigError as error:  # a model that reads frames
        _log.warning("no model is registered: %s", error)
        return None
    journal.model(bundle, config.registered_model or bundle_kind(run_dir))
    send_now(run_dir)
    return bundle


def list_models(uri: str) -> list[dict[str, Any]]:
    """A row per version: model, version, alias, run, metrics of the test clips, digest."""
    rows = []
    with _registry(uri) as client:
        for model in client.search_registered_models():
            alias = {str(version): name for name, version in model.aliases.items()}
            found = client.search_model_versions(f"name = '{model.name}'")
            for version in sorted(found, key=lambda version: int(version.version)):
                run = client.get_run(version.run_id)
                row = {"model": model.name, "version": int(version.version)}
                row |= {"alias": alias.get(str(version.version), ""), "run": run.info.run_name}
                row |= {name: run.data.metrics[name] for name in _SHOWN if name in run.data.metrics}
                rows.append({**row, "sha256": version.tags.get(DIGEST_TAG, "")[:12]})
    return rows


def verify(model: str, uri: str) -> dict[str, Any]:
    """Checks a bundle: its files, that it loads without pickles, and its recorded scores.

    Args:
        model: folder of a bundle, or of the registry NAME (the champion), NAME/VERSION or NAME@ALIAS.
        uri: the tracking server.

    Returns and raises: see `bundle.verify_bundle`; of the registry also ConfigError, ClusterError.
    """
    if Path(model).is_dir():
        return {"model": model, **verify_bundle(Path(model))}
    with tempfile.TemporaryDirectory() as folder:
        version, bundle = _fetch(uri, model, Path(folder))
        return {"model": _named(version), **verify_bundle(bundle)}


def promote(name: str, version: int, uri: str, require: tuple[str, ...] = (), replace: bool = False) -> dict:
    """Makes a version the champion if it passes the gate.

    The gate: `verify` passes; its error on test clips is below that of guessing without looking; every
    requirement holds; and on the same test clips it is no worse than the champion.

    Args:
        name: registered model.
        version: of it.
        uri: the tracking server.
        require: such as `spearman>=0.5` or `mae<=6`, of metrics.json.
        replace: do not compare with the champion.

    Raises:
        DataError: the gate does not open.
        ConfigError, ClusterError, CorruptError, SecurityError: see `verify`.
    """
    wanted = [_parse(text) for text in require]
    with tempfile.TemporaryDirectory() as folder:
        found, bundle = _fetch(uri, f"{name}/{version}", Path(folder) / "new")
        verify_bundle(bundle)
        metrics, where = _metrics(bundle), _named(found)
        passed = [_beats_floor(metrics, where)]
        passed += [_holds(metrics, *requirement, where) for requirement in wanted]
        with _registry(uri) as client:
            champion = client.get_registered_model(name).aliases.get(CHAMPION)
        if champion and str(champion) != str(version) and not replace:
            other, bundle = _fetch(uri, f"{name}/{champion}", Path(folder) / "old")
            passed.append(_no_worse(metrics, _metrics(bundle), where, _named(other)))
    with _registry(uri) as client:
        client.set_model_version_tag(name, str(version), "aqa.gate", "; ".join(passed))
        client.set_registered_model_alias(name, CHAMPION, str(version))
    return {"model": name, "version": version, "alias": CHAMPION, "gate": passed}


def _beats_floor(metrics: dict[str, Any], where: str) -> str:
    """Better than guessing without looking at the clip; of classes, than always naming the usual one."""
    if "majority_floor" in metrics:
        name, floor = "micro_f1", metrics["majority_floor"]["micro_f1"]
        good = metrics[name]["value"] > floor
    else:
        name, good = "mae", False
        floors = [metrics["median_floor"]["mae"]] if "median_floor" in metrics else []
        guesses = metrics.get("baselines", {}).values()
        floors += [guess["mae"]["value"] for guess in guesses if guess["mae"]["value"] is not None]
        floor = min(floors)
        good = metrics[name]["value"] < floor
    text = f"{name} {metrics[name]['value']:.4g} against {floor:.4g} of guessing"
    if not good:
        raise DataError(where, f"{text}: no better than not looking at the clips", "train a better model")
    return text


def _holds(metrics: dict[str, Any], name: str, relation: str, limit: float, where: str) -> str:
    number = metrics.get(name)
    value = number.get("value") if isinstance(number, dict) else None
    if value is None:
        known = sorted(k for k, v in metrics.items() if isinstance(v, dict) and v.get("value") is not None)
        raise ConfigError(f"requirement {name}", "the model has no such metric", f"it has {', '.join(known)}")
    compare = operator.ge if relation == ">=" else operator.le
    if not compare(value, limit):
        raise DataError(
            where, f"{name} is {value:.4g}, required is {relation}{limit:g}", "train a better model"
        )
    return f"{name} {value:.4g}{relation}{limit:g}"


def _no_worse(new: dict[str, Any], old: dict[str, Any], where: str, champion: str) -> str:
    if new["test_sha256"] != old["test_sha256"]:
        raise DataError(
            where,
            f"was tested on other clips than the champion {champion}, so they cannot be compared",
            "evaluate both on the same store, or say --replace",
        )
    name, sign = ("micro_f1", -1) if "micro_f1" in new else ("mae", 1)
    ours, theirs = new[name]["value"], old[name]["value"]
    if sign * ours > sign * theirs:
        raise DataError(
            where,
            f"{name} is {ours:.4g}, that of the champion {champion} is {theirs:.4g}",
            "keep the champion, or say --replace",
        )
    return f"{name} {ours:.4g} against {theirs:.4g} of {champion}"


def _parse(text: str) -> tuple[str, str, float]:
    found = _REQUIREMENT.fullmatch(text.replace(" ", ""))
    if not found:
        raise ConfigError(f"requirement {text!r}", "is not understood", "write spearman>=0.5 or mae<=6")
    return found[1], found[2], float(found[3])


def _metrics(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / DATA / "metrics.json").read_text())


def _fetch(uri: str, model: str, folder: Path) -> tuple[Any, Path]:
    """A version by NAME, NAME/VERSION or NAME@ALIAS, and its bundle, copied from the server."""
    folder.mkdir(parents=True, exist_ok=True)
    with _registry(uri) as client:
        name, at, alias = model.partition("@")
        if not at and "/" in model:
            name, _, number = model.rpartition("/")
            version = client.get_model_version(name, number)
        else:
            version = client.get_model_version_by_alias(name, alias or CHAMPION)
        run_id, _, path = (version.source or "").removeprefix("runs:/").partition("/")
        bundle = Path(client.download_artifacts(run_id, path, str(folder)))
        if not (bundle / SUMS).is_file() or digest_of(bundle) != version.tags.get(DIGEST_TAG):
            raise CorruptError(_named(version), "is not the bundle that was registered", "register it anew")
    return version, bundle


def _named(version: Any) -> str:
    return f"model {version.name}/{version.version}"


@contextlib.contextmanager
def _registry(uri: str) -> Iterator[Any]:
    """An MlflowClient whose errors are ours."""
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not database.is_file():
        raise ConfigError(database, "does not exist", "train a model, or name the server with --tracking.uri")
    try:
        with answers():
            yield MlflowServer(uri).client
    except Unanswered as error:
        remedy = "start it, or name another with --tracking.uri"
        raise ClusterError(f"MLflow at {redact(uri)}", str(error), remedy) from error
    except Refused as error:
        remedy = "see `aqa models list`"
        raise ConfigError(f"MLflow at {redact(uri)}", str(error).rstrip("."), remedy) from error
