"""Fits HP-MCoRe to tables of clips, poses and features; the run folder is described in run_folder.py."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import HpMcoreTrainConfig, TrackingConfig
from pipelines.errors import ConfigError, DataError
from pipelines.hp_mcore.dives import NUM_FRAMES, Dive, Dives, dive_table
from pipelines.hp_mcore.frames import streamed
from pipelines.hp_mcore.weights import check_weights
from pipelines.launch import Watch
from pipelines.run_folder import Job, read_table, run, settings_identity
from pipelines.splits import check_subjects, choose_validation, without_test

if TYPE_CHECKING:
    import torch

FAMILIES = {
    "keypoints": "poses",
    "dynamic": "features/i3d",
    "static": "features/static",
    "frames": "features/frames",
}


def wanted_streams(config: HpMcoreTrainConfig) -> dict[str, str]:
    """Stream -> key of its table ("" = the only one), for what the model reads."""
    model, learns = config.model, config.encoders == "finetune"
    reads = {
        "keypoints": model.use_pose,
        "dynamic": model.use_dynamic and not learns,
        "static": model.reads_static and not learns,
        "frames": (model.use_dynamic or model.reads_static) and learns,
    }
    keys = {
        "keypoints": config.poses,
        "dynamic": config.dynamic,
        "static": config.static,
        "frames": config.frames,
    }
    return {name: keys[name] for name, needed in reads.items() if needed}


def fit(
    clips: pa.Table,
    streams: dict[str, pa.Table],
    config: HpMcoreTrainConfig,
    run_dir: Path,
    provenance: dict[str, Any],
    tracking: TrackingConfig | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Trains on scored dives with annotated transitions.

    Args:
        clips: rows of CLIPS; rows with split test are dropped, those without score left out.
        streams: any of keypoints, dynamic, static, frames -> rows of POSES or FEATURES.
        config: settings.
        run_dir: folder of the run; the same folder again resumes it.
        provenance: where the tables came from (store path, versions, keys), for the records.
        tracking: where MLflow is; None = not tracked.
        watch: of a trial of a sweep, see launch.py.

    Returns:
        Summary, see `run_folder.run`.

    Raises:
        DataError, ConfigError, CorruptError, ClusterError: see errors.py.
    """
    starting_weights = check_weights(config)
    check_subjects(clips)
    table = dive_table(without_test(clips), streams, NUM_FRAMES)
    table = table.filter(pc.is_valid(table["score"]))
    facts = Dives(table).facts
    if not facts:
        raise DataError(
            "clips table",
            f"no training clip has a score and {', '.join(streams)}",
            "extract poses and features or frames of these clips first (`aqa extract --sampling uniform:96`)",
        )
    splits = choose_validation(facts, config)
    _check(facts, splits, config)
    told = pa.array([splits[fact.subject] for fact in facts])
    table = table.set_column(table.schema.get_field_index("split"), "split", told)
    parts = [splits[fact.subject] for fact in facts]
    job = Job(
        phase="hp_mcore",
        worker=train_worker,
        config=config,
        identity=_identity(table, config) | starting_weights,
        about={"subjects": sorted(splits), **starting_weights},
        tables={"dives": table},
        counts={
            "clips": len(facts),
            "train_clips": parts.count("train"),
            "val_clips": parts.count("val"),
            "dive_numbers": len({fact.action_type for fact in facts}),
        },
        spec={"streams": "frames" in streams},
    )
    return run(job, run_dir, provenance, tracking, watch)


def train_worker(
    spec: dict[str, Any], report: Callable[[dict[str, float]], bool | None], device: torch.device
) -> None:
    """What one worker does: maps the rows, builds the phase, trains."""
    from pipelines.hp_mcore.phase import HpMcorePhase
    from pipelines.loop import run_epochs

    run_dir = Path(spec["run_dir"])
    config = HpMcoreTrainConfig.model_validate(spec["config"])
    dives = Dives(read_table(run_dir, "dives"))
    showing = None
    if dives.pictures is not None and config.num_workers:
        showing = partial(streamed, run_dir, dives.pictures, config.decode_workers)
    phase = HpMcorePhase(dives, config, device, showing)
    run_epochs(phase, config, run_dir, spec["identity"], spec["about"], report)


def _check(facts: list[Dive], splits: dict[str, str], config: HpMcoreTrainConfig) -> None:
    """Refuses what the model cannot learn, before the run folder is made."""
    from pipelines.hp_mcore.score import points_per_unit

    # The last procedure needs its own first frame, and legacy knows exactly three procedures.
    fewest = 2 if config.model.decoding == "halves" else 1
    for fact in facts:
        if len(fact.transitions) < fewest:
            raise DataError(
                f"clip {fact.clip_id}",
                f"has {len(fact.transitions)} transitions within its frames, at least {fewest} are needed",
                "fill transitions_s of the clips table, or take the clip out",
            )
        points_per_unit(fact, config)
    numbers = len({fact.action_type for fact in facts if splits[fact.subject] == "train"})
    if numbers > config.model.action_numbers:
        raise ConfigError(
            "hp_mcore.model.action_numbers",
            f"is {config.model.action_numbers}, but there are {numbers} dive numbers",
            f"set it to {numbers} or more",
        )


def _identity(table: pa.Table, config: HpMcoreTrainConfig) -> dict[str, Any]:
    """Flat description of what the run is: settings, and a hash of all it reads."""
    dives = Dives(table)
    digest = hashlib.sha256()
    for row, fact in enumerate(dives.facts):
        told = [fact.clip_id, fact.subject, fact.split, fact.action_type, fact.score, fact.difficulty]
        splash = None if np.isnan(fact.splash) else fact.splash
        digest.update(json.dumps([*told, splash, fact.transitions]).encode())
        dives.hash_into(digest, row)
    return {
        "phase": "hp_mcore",
        "data.clips": len(dives),
        "data.sha256": digest.hexdigest(),
        **settings_identity(config),
    }
