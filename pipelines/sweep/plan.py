"""sweep.json: what a sweep is, written once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from pipelines.checkpoint import check_identity
from pipelines.config import Config
from pipelines.run_folder import read_json, write_json
from pipelines.settings import flatten
from pipelines.sweep.folder import Sweep
from pipelines.sweep.space import Range

FILE = "sweep.json"
SECTIONS = {"two-stage": ("expert", "pretrain"), "hp-mcore": ("hp_mcore",)}
# Settings of `tune` with which a sweep may go on although they were others before.
_NEUTRAL_TUNE = ("tune.trials", "tune.time_budget", "tune.max_concurrent")
_NEUTRAL = ("num_workers", "min_workers", "decode_workers", "use_gpu", "checkpoint_every")


def write_sweep(sweep: Sweep) -> None:
    """Writes sweep.json; from then on the sweep exists."""
    record = {
        "target": sweep.target,
        "config": sweep.config.model_dump(mode="json", exclude={"tracking"}),
        "space": [dataclasses.asdict(ranged) for ranged in sweep.space],
        "lag": sweep.lag,
        "pretrained": str(sweep.pretrained) if sweep.pretrained else None,
        "provenance": sweep.provenance,
    }
    write_json(sweep.folder / FILE, record)


def read_sweep(folder: Path) -> Sweep:
    """The sweep of a folder.

    Raises:
        CorruptError: sweep.json cannot be read.
    """
    record = read_json(folder / FILE)
    return Sweep(
        folder=folder,
        target=record["target"],
        config=Config.model_validate_json(json.dumps(record["config"]), strict=True),
        space=tuple(Range(**told | {"values": tuple(told["values"])}) for told in record["space"]),
        lag=record["lag"],
        pretrained=Path(record["pretrained"]) if record["pretrained"] else None,
        provenance=record["provenance"],
    )


def exists(folder: Path) -> bool:
    """Whether a sweep was begun there."""
    return (folder / FILE).is_file()


def resumed(sweep: Sweep) -> Sweep:
    """The sweep of the same folder, if it is the same, with those settings that may change.

    Its rows, its lag and its pretrained run are the ones it was begun with.

    Raises:
        ConfigError: the folder belongs to another sweep; names what differs.
    """
    earlier = read_sweep(sweep.folder)
    check_identity(sweep.folder, _identity(earlier), _identity(sweep))
    kept = dataclasses.replace(earlier, config=sweep.config)
    write_sweep(kept)
    return kept


def _identity(sweep: Sweep) -> dict[str, Any]:
    """What decides the trials, flat."""
    deciding = ("tune", *SECTIONS[sweep.target])
    settings = {
        path: value
        for path, value in flatten(sweep.config).items()
        if path.partition(".")[0] in deciding
        and path not in _NEUTRAL_TUNE
        and path.rpartition(".")[2] not in _NEUTRAL
    }
    space = {f"space.{ranged.path}": f"{ranged.kind} {list(ranged.values)}" for ranged in sweep.space}
    return {"target": sweep.target, "pretrained": str(sweep.pretrained), **space, **settings}
