"""Fits the two-stage model to tables of clips and poses: in this process, or in Ray Train workers.

The run folder is described in run_folder.py. Rows of the test split are dropped before anything else looks
at them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aqa_models.two_stage.config import SequenceConfig
from pipelines.checkpoint import check_identity, load_bundle
from pipelines.config import ExpertTrainConfig, PretrainConfig, TrackingConfig, TwoStageSection
from pipelines.errors import ConfigError, DataError
from pipelines.launch import Watch
from pipelines.motion import Motion, load_motions, subject_of
from pipelines.run_folder import Job, read_table, run, settings_identity
from pipelines.splits import check_subjects, choose_validation, folds, without_test

if TYPE_CHECKING:
    import pyarrow as pa
    import torch


def pretrain(
    clips: pa.Table,
    poses: pa.Table,
    config: PretrainConfig,
    run_dir: Path,
    provenance: dict[str, Any],
    tracking: TrackingConfig | None = None,
) -> dict[str, Any]:
    """Trains the non-expert on healthy motion; scores are not read.

    Args:
        clips: rows of CLIPS to learn from; rows with split test are dropped.
        poses: rows of POSES.
        config: settings.
        run_dir: folder of the run; the same folder again resumes it.
        provenance: where the tables came from (store path, version, key), for the records.
        tracking: where MLflow is; None = not tracked.

    Returns:
        Summary: run_dir, epochs, best_epoch, best_val_loss, numbers of clips and subjects,
        and the validation metrics of the best epoch (val_...).

    Raises:
        DataError, ConfigError, CorruptError, ClusterError: see errors.py.
    """
    motions = [
        motion
        for motion in load_motions(without_test(clips), poses)
        if not config.groups or motion.group in config.groups
    ]
    if not motions:
        kinds = sorted({str(group) for group in clips["group"].to_pylist()})
        raise DataError(
            "clips table",
            f"no training clip has a pose and a group of {list(config.groups) or 'any name'}",
            f"groups there are: {', '.join(kinds)}",
        )
    return _run("pretrain", motions, clips, poses, config, run_dir, None, provenance, tracking)


def train_expert(
    clips: pa.Table,
    poses: pa.Table,
    config: ExpertTrainConfig,
    run_dir: Path,
    pretrained: Path | None,
    provenance: dict[str, Any],
    tracking: TrackingConfig | None = None,
    features: pa.Table | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Trains the expert on scored motion, or on motion of known groups.

    Args:
        pretrained: run folder of `pretrain`; None = an encoder with random weights, of the kind and size that
            config says.
        features: rows of FEATURES, if the expert has an appearance stream.
        watch: of a trial of a sweep, see launch.py.

    Other arguments, result and errors: see `pretrain`. Clips without a score (of task classes: without a
    group), and of other action types than config.action_types if any are given, are left out.
    """
    check_expert(clips, config, pretrained, features)
    scored = config.model.task == "score"
    motions = [
        motion
        for motion in load_motions(without_test(clips), poses, features)
        if (motion.score is not None if scored else motion.group)
        and (not config.action_types or motion.action_type in config.action_types)
    ]
    if not motions:
        raise _nothing_to_learn(clips, config)
    if pretrained is not None:
        _check_coordinates(pretrained, motions)
    return _run(
        "expert", motions, clips, poses, config, run_dir, pretrained, provenance, tracking, features, watch
    )


def check_expert(
    clips: pa.Table, config: ExpertTrainConfig, pretrained: Path | None, features: pa.Table | None
) -> None:
    """Refuses settings that contradict each other or what is given; arguments see `train_expert`.

    Raises:
        ConfigError: such settings.
        DataError: a test subject of the clips was pretrained on.
    """
    _check_settings(config, pretrained, features)
    if pretrained is not None:
        _check_pretrained(pretrained, config, clips)


def _nothing_to_learn(clips: pa.Table, config: ExpertTrainConfig) -> DataError:
    needed = ["a score" if config.model.task == "score" else "a group", "a pose"]
    remedies = ["fill the clips table, or name the table of its poses with --poses KEY"]
    if config.action_types:
        needed.append(f"an action type of {list(config.action_types)}")
        kinds = sorted({str(kind) for kind in clips["action_type"].to_pylist()})
        remedies = [f"action types there are: {', '.join(kinds)}"]
    if config.model.appearance != "none":
        needed.append("video features")
        extract = f"`aqa extract --kind {config.feature_kind}`"
        remedies.append(f"run {extract}, or name the table of their features with --features KEY")
    return DataError("clips table", f"no training clip has {', '.join(needed)}", "; ".join(remedies))


def _check_pretrained(pretrained: Path, config: ExpertTrainConfig, clips: pa.Table) -> None:
    """Refuses an encoder that reads something else, or that has seen test subjects."""
    _, description = load_bundle(pretrained, "nonexpert")
    # An older version did not write settings that are new since, and did what their defaults say.
    there = asdict(SequenceConfig(**description["sequence"]))
    check_identity(pretrained, there, asdict(config.sequence))
    known = set(description["subjects"])
    for clip in clips.to_pylist():
        if clip["split"] == "test" and subject_of(clip) in known:
            raise DataError(
                f"subject {subject_of(clip)}",
                f"is a test subject, but {pretrained} was pretrained on it",
                "pretrain on the training split only",
            )


def _check_coordinates(pretrained: Path, motions: list[Motion]) -> None:
    _, description = load_bundle(pretrained, "nonexpert")
    if motions[0].keypoints.shape[2] != description["num_coordinates"]:
        raise DataError(
            f"clip {motions[0].clip_id}",
            f"has {motions[0].keypoints.shape[2]} coordinates, but {pretrained} was pretrained on "
            f"{description['num_coordinates']}",
            "pretrain on keypoints of the same kind",
        )


def _check_settings(config: ExpertTrainConfig, pretrained: Path | None, features: pa.Table | None) -> None:
    """Refuses settings that contradict each other or what is given."""
    start = "random" if pretrained is None else "pretrained"
    if config.encoder_start not in ("any", start):
        raise ConfigError(
            "expert.encoder_start",
            f"is {config.encoder_start}, but {'no' if pretrained is None else 'a'} pretrained run is given",
            "give --pretrained RUN" if pretrained is None else "leave --pretrained out",
        )
    if config.input_dropout and not config.model.finetune_encoder:
        raise ConfigError(
            "expert.input_dropout",
            "hides inputs of the encoder, but the encoder does not learn",
            "set model.finetune_encoder, or input_dropout to 0",
        )
    if config.ranking_weight and config.model.task == "classes":
        raise ConfigError(
            "expert.ranking_weight", "orders scores, but the task is classes", "set ranking_weight to 0"
        )
    if config.model.appearance == "none" and (config.features or features is not None):
        raise ConfigError(
            "expert.features",
            "are given, but the expert has no appearance stream",
            "leave --features out, or choose --model.appearance modules or pooled",
        )
    if config.model.appearance != "none" and features is None:
        raise ConfigError(
            "expert.model.appearance",
            f"is {config.model.appearance}, but no features of the video are given",
            f"run `aqa extract --kind {config.feature_kind}` and give its table (--features KEY)",
        )


def _run(
    phase: str,
    motions: list[Motion],
    clips: pa.Table,
    poses: pa.Table,
    config: TwoStageSection,
    run_dir: Path,
    pretrained: Path | None,
    provenance: dict[str, Any],
    tracking: TrackingConfig | None,
    features: pa.Table | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    check_subjects(clips)
    left_out = _leaves_others_out(motions, config)
    splits = {m.subject: "train" for m in motions} if left_out else choose_validation(motions, config)
    counts = {
        "clips": len(motions),
        "train_clips": sum(splits[motion.subject] == "train" for motion in motions),
        "val_clips": sum(splits[motion.subject] == "val" for motion in motions),
        "train_subjects": list(splits.values()).count("train"),
        "val_subjects": list(splits.values()).count("val"),
    }
    if left_out:  # every clip trains some members and validates another
        counts |= {"val_clips": counts["train_clips"], "val_subjects": counts["train_subjects"]}
    job = Job(
        phase=phase,
        worker=train_worker,
        config=config,
        identity=_identity(phase, motions, splits, config, pretrained),
        about={"subjects": sorted(splits)},
        tables=_tables(motions, splits, clips, {"poses": poses, "features": features}),
        counts=counts,
        spec={
            "pretrained": str(pretrained.absolute()) if pretrained else None,
            "tables": ["clips", "poses"] + ["features"] * (features is not None),
        },
    )
    return run(job, run_dir, provenance, tracking, watch)


def _leaves_others_out(motions: list[Motion], config: TwoStageSection) -> bool:
    """Whether each member of the expert is validated on other training people; are there enough of them?"""
    members = config.members if isinstance(config, ExpertTrainConfig) else 1
    if members == 1 or any(motion.split == "val" for motion in motions):
        return False
    folds(motions, members, config.seed)
    return True


def train_worker(
    spec: dict[str, Any], report: Callable[[dict[str, float]], bool | None], device: torch.device
) -> None:
    """What one worker does: reads the rows, builds the phase, trains."""
    from pipelines.expert_phase import ExpertPhase
    from pipelines.loop import run_epochs
    from pipelines.pretrain_phase import PretrainPhase

    run_dir = Path(spec["run_dir"])
    motions = load_motions(*(read_table(run_dir, name) for name in spec["tables"]))
    train = [motion for motion in motions if motion.split == "train"]
    val = [motion for motion in motions if motion.split == "val"]
    if spec["phase"] == "pretrain":
        config: TwoStageSection = PretrainConfig.model_validate(spec["config"])
        phase: PretrainPhase | ExpertPhase = PretrainPhase(train, val, config, device)  # type: ignore[arg-type]
    else:
        config = ExpertTrainConfig.model_validate(spec["config"])
        bundle = load_bundle(Path(spec["pretrained"]), "nonexpert") if spec["pretrained"] else None
        phase = ExpertPhase(train, val, config, device, bundle)
    run_epochs(phase, config, run_dir, spec["identity"], spec["about"], report)


def _identity(
    phase: str,
    motions: list[Motion],
    splits: dict[str, str],
    config: TwoStageSection,
    pretrained: Path | None,
) -> dict[str, Any]:
    """Flat description of what the run is: settings, and hashes of all it reads."""
    digest = hashlib.sha256()
    for motion in motions:
        told = [motion.clip_id, motion.subject, splits[motion.subject], motion.action_type, motion.skeleton]
        digest.update(json.dumps([*told, motion.score if phase == "expert" else None]).encode())
        digest.update(motion.keypoints.tobytes() + motion.time_s.tobytes())
        if phase == "expert":
            digest.update(motion.group.encode() + (b"" if motion.video is None else motion.video.tobytes()))
    about = {"phase": phase, "data.clips": len(motions), "data.sha256": digest.hexdigest()}
    if pretrained is not None:
        about["pretrained.sha256"] = load_bundle(pretrained, "nonexpert")[1]["sha256"]
    return about | settings_identity(config)


def _tables(
    motions: list[Motion], splits: dict[str, str], clips: pa.Table, others: dict[str, pa.Table | None]
) -> dict[str, pa.Table]:
    """The rows of these clips, `split` filled."""
    import pyarrow as pa

    chosen = {motion.clip_id: splits[motion.subject] for motion in motions}

    def kept(table: pa.Table) -> pa.Table:
        ids = table["clip_id"].to_pylist()
        return table.filter(pa.array([clip_id in chosen for clip_id in ids], type=pa.bool_()))

    rows = kept(clips)
    told = pa.array([chosen[clip_id] for clip_id in rows["clip_id"].to_pylist()], type=pa.string())
    rows = rows.set_column(rows.schema.get_field_index("split"), rows.schema.field("split"), told)
    return {"clips": rows} | {name: kept(table) for name, table in others.items() if table is not None}
