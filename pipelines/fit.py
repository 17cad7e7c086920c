"""Fits the two-stage model to tables of clips and poses: in this process, or in Ray Train workers.

    RUN/config.json         the resolved configuration and where the data came from
    RUN/data/               the rows to train on, as Arrow files, while training
    RUN/checkpoints/        see checkpoint.py
    RUN/metrics.jsonl       one line per epoch
    RUN/model/              the model of the best epoch
    RUN/summary.json        written last: the run is finished

The same call with the same run folder goes on where it stopped. Rows of the test split are dropped before
anything else looks at them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import tracking as tracking_module
from pipelines.checkpoint import check_identity, load_bundle, write_durably
from pipelines.config import ExpertTrainConfig, PretrainConfig, TrackingConfig, TrainSection
from pipelines.errors import CorruptError, DataError
from pipelines.launch import launch
from pipelines.motion import Motion, load_motions, subject_of

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

# Settings that say how and where to train, not what: a run may go on with other values.
_NEUTRAL = ("num_workers", "use_gpu", "checkpoint_every", "poses")
_log = logging.getLogger(__name__)


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
        for motion in load_motions(_without_test(clips), poses)
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
) -> dict[str, Any]:
    """Trains the expert on scored motion.

    Args:
        pretrained: run folder of `pretrain`; None = an encoder with random weights of config.encoder_units.

    Other arguments, result and errors: see `pretrain`. Clips without a score, and of other action
    types than config.action_types if any are given, are left out.
    """
    if pretrained is not None:
        _, description = load_bundle(pretrained, "nonexpert")
        wanted = config.model_dump(mode="json")["sequence"]
        check_identity(pretrained, description["sequence"], wanted)
        known = set(description["subjects"])
        for clip in clips.to_pylist():
            if clip["split"] == "test" and subject_of(clip) in known:
                raise DataError(
                    f"subject {subject_of(clip)}",
                    f"is a test subject, but {pretrained} was pretrained on it",
                    "pretrain on the training split only",
                )
    motions = [
        motion
        for motion in load_motions(_without_test(clips), poses)
        if motion.score is not None and (not config.action_types or motion.action_type in config.action_types)
    ]
    if not motions:
        kinds = sorted({str(kind) for kind in clips["action_type"].to_pylist()})
        raise DataError(
            "clips table",
            f"no training clip has a score, a pose and an action type of {list(config.action_types)}",
            f"action types there are: {', '.join(kinds)}",
        )
    return _run("expert", motions, clips, poses, config, run_dir, pretrained, provenance, tracking)


def _run(
    phase: str,
    motions: list[Motion],
    clips: pa.Table,
    poses: pa.Table,
    config: TrainSection,
    run_dir: Path,
    pretrained: Path | None,
    provenance: dict[str, Any],
    tracking: TrackingConfig | None,
) -> dict[str, Any]:
    run_dir = run_dir.absolute()
    check_subjects(clips)
    splits = choose_validation(motions, config)
    identity = _identity(phase, motions, splits, config, pretrained)
    stored = _stored(run_dir / "summary.json")
    if stored:
        check_identity(run_dir, stored["identity"], identity)
        _log.warning("%s: already finished; returning its summary", run_dir)
        return {**stored["summary"], "resumed": True}
    about = {"subjects": sorted(splits), "provenance": provenance, "phase": phase}
    record = {"identity": identity, "config": config.model_dump(mode="json"), **about}
    record["pretrained"] = str(pretrained.absolute()) if pretrained else None
    earlier = _stored(run_dir / "config.json")
    if earlier:
        check_identity(run_dir, earlier["identity"], identity)
    run_dir.mkdir(parents=True, exist_ok=True)
    _write_json(run_dir / "config.json", record)
    _write_data(run_dir / "data", motions, splits, clips, poses)
    spec = {**record, "run_dir": str(run_dir), "about": about}
    with tracking_module.track(tracking, run_dir, record["config"], provenance, phase) as tracker:
        launch(train_worker, spec, config)
        summary = _summary(run_dir, motions, splits)
        tracker.finish({key: summary[key] for key in ("best_epoch", "best_val_loss")}, [run_dir / "model"])
    shutil.rmtree(run_dir / "data")
    _write_json(run_dir / "summary.json", {"identity": identity, "summary": summary})
    return {**summary, "resumed": bool(earlier)}


def check_subjects(clips: pa.Table) -> None:
    """DataError if a split has an unknown name or a subject is in two splits."""
    seen: dict[str, str] = {}
    columns = ("clip_id", "dataset", "subject_id", "split")
    for clip in clips.select(columns).to_pylist():
        split = clip["split"] or "train"
        if split not in ("train", "val", "test"):
            raise DataError(
                f"clip {clip['clip_id']}", f"has split {split!r}", "use train, val, test or leave it empty"
            )
        subject = subject_of(clip)
        if seen.setdefault(subject, split) != split:
            raise DataError(
                f"subject {subject}",
                f"is in the splits {seen[subject]} and {split}",
                "put all clips of a person into one split",
            )


def choose_validation(motions: list[Motion], config: TrainSection) -> dict[str, str]:
    """Subject -> train or val.

    Rows with split val decide if there are any. Otherwise every k-th subject is taken, in the order of
    group and mean score, from a random start, so that validation covers the range of the scores.
    """
    subjects = {motion.subject: "val" if motion.split == "val" else "train" for motion in motions}
    if "val" not in subjects.values() and len(subjects) >= 3:
        generator = np.random.default_rng(config.seed)
        scores = {subject: [m.score or 0.0 for m in motions if m.subject == subject] for subject in subjects}
        groups = {motion.subject: motion.group for motion in motions}
        noise = dict(zip(sorted(subjects), generator.random(len(subjects)), strict=True))
        order = sorted(subjects, key=lambda s: (groups[s], float(np.mean(scores[s])), noise[s]))
        count = max(1, round(config.validation_share * len(order)))
        for position in (np.arange(count) + generator.random()) * len(order) / count:
            subjects[order[int(position)]] = "val"
    counts = {split: list(subjects.values()).count(split) for split in ("train", "val")}
    if counts["train"] < 2 or counts["val"] < 1:
        raise DataError(
            "clips table",
            f"has {counts['train']} training and {counts['val']} validation subjects with usable poses",
            "at least 2 and 1 are needed (or 3 subjects and no val rows)",
        )
    return subjects


def train_worker(
    spec: dict[str, Any], report: Callable[[dict[str, float]], None], device: torch.device
) -> None:
    """What one worker does: reads the rows, builds the phase, trains."""
    from pipelines.loop import run_epochs
    from pipelines.phases import ExpertPhase, PretrainPhase

    run_dir = Path(spec["run_dir"])
    motions = load_motions(*(_read_arrow(run_dir / "data" / f"{name}.arrow") for name in ("clips", "poses")))
    train = [motion for motion in motions if motion.split == "train"]
    val = [motion for motion in motions if motion.split == "val"]
    if spec["phase"] == "pretrain":
        config: TrainSection = PretrainConfig.model_validate(spec["config"])
        phase: PretrainPhase | ExpertPhase = PretrainPhase(train, val, config, device)  # type: ignore[arg-type]
    else:
        config = ExpertTrainConfig.model_validate(spec["config"])
        bundle = load_bundle(Path(spec["pretrained"]), "nonexpert") if spec["pretrained"] else None
        phase = ExpertPhase(train, val, config, device, bundle)
    run_epochs(phase, config, run_dir, spec["identity"], spec["about"], report)


def _without_test(clips: pa.Table) -> pa.Table:
    import pyarrow as pa

    keep = [split != "test" for split in clips["split"].to_pylist()]
    return clips.filter(pa.array(keep, type=pa.bool_()))


def _identity(
    phase: str, motions: list[Motion], splits: dict[str, str], config: TrainSection, pretrained: Path | None
) -> dict[str, Any]:
    """Flat description of what the run is: settings, and hashes of all it reads."""
    settings = {k: v for k, v in config.model_dump(mode="json").items() if k not in _NEUTRAL}
    digest = hashlib.sha256()
    for motion in motions:
        told = [motion.clip_id, motion.subject, splits[motion.subject], motion.action_type, motion.skeleton]
        digest.update(json.dumps([*told, motion.score if phase == "expert" else None]).encode())
        digest.update(motion.keypoints.tobytes() + motion.time_s.tobytes())
    about = {"phase": phase, "data.clips": len(motions), "data.sha256": digest.hexdigest()}
    if pretrained is not None:
        about["pretrained.sha256"] = load_bundle(pretrained, "nonexpert")[1]["sha256"]
    return about | tracking_module.flatten(settings)


def _write_data(
    folder: Path, motions: list[Motion], splits: dict[str, str], clips: pa.Table, poses: pa.Table
) -> None:
    import pyarrow as pa

    chosen = {motion.clip_id: splits[motion.subject] for motion in motions}
    ids = clips["clip_id"].to_pylist()
    rows = clips.filter(pa.array([clip_id in chosen for clip_id in ids], type=pa.bool_()))
    told = pa.array([chosen[clip_id] for clip_id in rows["clip_id"].to_pylist()], type=pa.string())
    rows = rows.set_column(rows.schema.get_field_index("split"), rows.schema.field("split"), told)
    keep = pa.array([clip_id in chosen for clip_id in poses["clip_id"].to_pylist()], type=pa.bool_())
    folder.mkdir(exist_ok=True)
    for name, table in (("clips", rows), ("poses", poses.filter(keep))):
        with (
            pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as out,
        ):
            out.write_table(table)


def _read_arrow(path: Path) -> pa.Table:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def _summary(run_dir: Path, motions: list[Motion], splits: dict[str, str]) -> dict[str, Any]:
    from pipelines.loop import read_metrics

    rows = read_metrics(run_dir / "metrics.jsonl")
    description = _stored(run_dir / "model" / "config.json")
    best = next(row for row in rows if row["epoch"] == description["best_epoch"])
    return {
        "run_dir": str(run_dir),
        "epochs": len(rows),
        "best_epoch": description["best_epoch"],
        "best_val_loss": description["best_val_loss"],
        "clips": len(motions),
        "train_clips": sum(splits[motion.subject] == "train" for motion in motions),
        "val_clips": sum(splits[motion.subject] == "val" for motion in motions),
        "train_subjects": list(splits.values()).count("train"),
        "val_subjects": list(splits.values()).count("val"),
        **{name: value for name, value in best.items() if name.startswith("val_")},
    }


def _stored(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise CorruptError(path, "is not readable as JSON", "give this run another name") from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_durably(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
