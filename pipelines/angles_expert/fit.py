"""Fits the angles expert to tables of clips and poses; the run folder is described in run_folder.py.

There are no epochs that could be resumed: a fit takes minutes, and a run that was cut off starts anew. The
one row of metrics.jsonl holds what cross-validation inside the training subjects found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.checkpoint import save_bundle, write_durably
from pipelines.config import AnglesTrainConfig, TrackingConfig
from pipelines.errors import DataError
from pipelines.motion import Motion, load_motions
from pipelines.run_folder import Job, read_table, run, settings_identity
from pipelines.splits import check_subjects, without_test

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

FEWEST_SUBJECTS = 3


def fit(
    clips: pa.Table,
    poses: pa.Table,
    config: AnglesTrainConfig,
    run_dir: Path,
    provenance: dict[str, Any],
    tracking: TrackingConfig | None = None,
) -> dict[str, Any]:
    """Trains on scored motion in three dimensions.

    Args:
        clips: rows of CLIPS; rows with split test are dropped, those of split val are learned from: what has
            to be chosen is chosen by cross-validation by subject.
        poses: rows of POSES.
        config: settings.
        run_dir: folder of the run.
        provenance: where the tables came from (store path, version, key), for the records.
        tracking: where MLflow is; None = not tracked.

    Returns:
        Summary, see `run_folder.run`: best_val_loss is minus the merit on held-out subjects
        (aqa_models/angles_expert/calibration.py).

    Raises:
        DataError: nothing to learn from, fewer than three subjects, poses that cannot be used.
        ConfigError, CorruptError, ClusterError: see errors.py.
    """
    from pipelines.angles_expert.performances import make_performances

    check_subjects(clips)
    motions = [
        motion
        for motion in load_motions(without_test(clips), poses)
        if motion.score is not None and (not config.action_types or motion.action_type in config.action_types)
    ]
    subjects = sorted({motion.subject for motion in motions})
    if len(subjects) < FEWEST_SUBJECTS:
        kinds = sorted({str(kind) for kind in clips["action_type"].to_pylist()})
        raise DataError(
            "clips table",
            f"{len(subjects)} training subjects have a score, a pose and an action type of "
            f"{list(config.action_types) or 'any name'}, at least {FEWEST_SUBJECTS} are needed",
            f"action types there are: {', '.join(kinds)}",
        )
    # Refuses unusable clips before the run folder is made.
    make_performances(motions, config.rate_hz, config.repetitions)
    job = Job(
        phase="angles",
        worker=train_worker,
        config=config,
        identity=_identity(motions, config),
        about={"subjects": subjects},
        tables=_tables(motions, clips, poses),
        counts={"clips": len(motions), "subjects": len(subjects)},
    )
    return run(job, run_dir, provenance, tracking)


def train_worker(
    spec: dict[str, Any], report: Callable[[dict[str, float]], bool | None], device: torch.device
) -> None:
    """Reads the rows, fits the expert, writes the bundle."""
    from aqa_models.angles_expert.effects import channel_effects
    from aqa_models.angles_expert.expert import fit_expert
    from aqa_models.angles_expert.state import state_of
    from pipelines.angles_expert.performances import make_performances

    run_dir = Path(spec["run_dir"])
    config = AnglesTrainConfig.model_validate(spec["config"])
    motions = load_motions(*(read_table(run_dir, name) for name in ("clips", "poses")))
    performances = make_performances(motions, config.rate_hz, config.repetitions)
    expert = fit_expert(
        performances,
        config.rate_hz,
        config.network_seeds,
        config.epochs,
        config.seed,
        repetitions=config.repetitions,
    )
    tensors, told = state_of(expert)
    names = ("mean", "deviation", "median")
    targets = {
        exercise: {name: float(getattr(expert, name)[index]) for name in names}
        for index, exercise in enumerate(expert.exercises)
    }
    weights = dict(zip(expert.members, expert.weights.tolist(), strict=True))
    loss = -expert.held_out["average"]
    description = {
        "kind": "angles",
        "expert": told,
        "targets": targets,
        "weights": weights,
        "channel_effects": channel_effects(expert, performances),
        "rate_hz": config.rate_hz,
        "repetitions": config.repetitions,
        "best_epoch": 0,
        "best_val_loss": loss,
        **spec["about"],
    }
    save_bundle(run_dir / "model", tensors, description)
    row = {"epoch": 0, "val_loss": loss}
    row |= {f"val_merit_{name}": value for name, value in expert.held_out.items()}
    row |= {f"weight_{name}": value for name, value in weights.items()}
    write_durably(run_dir / "metrics.jsonl", (json.dumps(row) + "\n").encode())
    report(row)


def _identity(motions: list[Motion], config: AnglesTrainConfig) -> dict[str, Any]:
    """Flat description of what the run is: settings, and a hash of all it reads."""
    digest = hashlib.sha256()
    for motion in motions:
        told = [motion.clip_id, motion.subject, motion.action_type, motion.skeleton, motion.score]
        digest.update(json.dumps([*told, motion.repetitions]).encode())
        digest.update(motion.keypoints.tobytes() + motion.time_s.tobytes())
    about = {"phase": "angles", "data.clips": len(motions), "data.sha256": digest.hexdigest()}
    return about | settings_identity(config)


def _tables(motions: list[Motion], clips: pa.Table, poses: pa.Table) -> dict[str, pa.Table]:
    import pyarrow as pa

    wanted = {motion.clip_id for motion in motions}

    def chosen(table: pa.Table) -> pa.Table:
        keep = [clip_id in wanted for clip_id in table["clip_id"].to_pylist()]
        return table.filter(pa.array(keep, type=pa.bool_()))

    return {"clips": chosen(clips), "poses": chosen(poses)}
