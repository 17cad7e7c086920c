"""`aqa pose train` and `aqa pose evaluate`: a pose network learns manual labels, and is measured on others.

RUN/config.json         the resolved configuration, data and hashes
RUN/checkpoints/        see checkpoint.py; the averaged weights are its `best`
RUN/metrics.jsonl       one line per checkpoint
RUN/model/              model.safetensors (averaged weights) and config.json, for `aqa extract --weights`
RUN/summary.json        written last: the run is finished
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from pipelines.checkpoint import check_identity, write_durably
from pipelines.config import PoseTrainConfig, TrackingConfig
from pipelines.errors import ConfigError
from pipelines.launch import launch
from pipelines.pose_labels.annotations import Label, read_labels, split_labels
from pipelines.rendered.body import JOINTS
from pipelines.tracking import flatten, track

SKELETON = "mpii16"
_NEUTRAL = ("num_workers", "min_workers", "use_gpu", "checkpoint_every")  # how and where, not what
_log = logging.getLogger(__name__)


def train(
    labels: Path,
    images: Path,
    name: str,
    config: PoseTrainConfig,
    *,
    pose_config: str = "aqa-rendered",
    weights: Path | None = None,
    groups: Path | None = None,
    hold_out: tuple[str, ...] = (),
    rotations: int = 1,
    runs: Path = Path("runs"),
    tracking: TrackingConfig | None = None,
) -> dict[str, Any]:
    """Fine-tune a network on labelled frames, and measure it before and after on the groups held out.

    Args:
        labels: JSON file, see annotations.py.
        images: folder of the images.
        name: of the run; the same name resumes it.
        config: settings.
        pose_config: MMPose config with the 16 joints of MPII, or the network in the package.
        weights: file to start from; None = the network in the package.
        groups: CSV image, group.
        hold_out: groups kept from training, to measure on; with () nothing is measured.
        rotations: turns shown when measuring, see measure.estimate.
        runs: folder of the runs.
        tracking: where MLflow is; None = not tracked.

    Returns:
        Summary: run_dir, weights (for `aqa extract`), steps, frames, frames_held_out, loss, and before and
        after if groups were held out.

    Raises:
        DataError, ConfigError, ClusterError, CorruptError: see errors.py.
    """
    from pipelines.stages.pose import find_pose_model

    if not name or Path(name).name != name or name in (".", ".."):
        raise ConfigError(f"name {name!r}", "is not a plain folder name", "Use letters, digits, - and _")
    run_dir = (runs / name).absolute()
    model = find_pose_model(pose_config, weights)
    check_skeleton(pose_config, model.skeleton)
    learned, kept = split_labels(read_labels(labels, images, groups), hold_out)
    identity = _identity(learned, model.weights_sha256, pose_config, config)
    stored = _stored(run_dir / "summary.json")
    if stored:
        check_identity(run_dir, stored["identity"], identity)
        _log.warning("%s: already finished; returning its summary", run_dir)
        return {**stored["summary"], "resumed": True}
    resumed = (run_dir / "config.json").exists()
    run_dir.mkdir(parents=True, exist_ok=True)
    spec = {
        "identity": identity, "config": config.model_dump(mode="json"), "run_dir": str(run_dir),
        "pose_config": pose_config, "weights": str(model.weights), "weights_sha256": model.weights_sha256,
        "labels": str(labels.absolute()), "images": str(images.absolute()),
        "groups": str(groups.absolute()) if groups else None, "hold_out": list(hold_out),
    }  # fmt: skip
    _write_json(run_dir / "config.json", spec)
    provenance = {key: spec[key] for key in ("labels", "images", "weights_sha256", "hold_out")}
    with track(tracking, run_dir, {"pose_train": spec["config"]}, provenance, "pose") as tracker:
        tracker.dataset(
            "pose labels", identity["labels.sha256"], "training", {"frames": len(learned), **provenance}
        )
        launch(train_worker, spec, config)
        tracker.finish({}, [run_dir / "model"])
    summary = _summary(spec, len(learned), kept, rotations)
    _write_json(run_dir / "summary.json", {"identity": identity, "summary": summary})
    return {**summary, "resumed": resumed}


def _summary(spec: dict[str, Any], learned: int, kept: list[Label], rotations: int) -> dict[str, Any]:
    """What `train` returns, less `resumed`: measures the groups held out."""
    run_dir, pose_config = Path(spec["run_dir"]), spec["pose_config"]
    weights = run_dir / "model" / "model.safetensors"
    last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    summary = {
        "run_dir": str(run_dir), "pose_config": pose_config, "weights": str(weights),
        "steps": spec["config"]["steps"], "frames": learned, "frames_held_out": len(kept),
        "loss": last["loss"],
    }  # fmt: skip
    if kept:
        summary["before"] = measure_labels(kept, pose_config, Path(spec["weights"]), rotations)
        summary["after"] = measure_labels(kept, pose_config, weights, rotations)
    return summary


def train_worker(spec: dict[str, Any], report: Any, device: Any) -> None:
    """What one worker does: reads the labels, builds the network, trains."""
    from pipelines.pose_labels.learn import run_steps
    from pipelines.stages.pose import read_pose_config

    groups = Path(spec["groups"]) if spec["groups"] else None
    labels = read_labels(Path(spec["labels"]), Path(spec["images"]), groups)
    about = {key: spec[key] for key in ("pose_config", "weights_sha256", "hold_out")}
    run_steps(
        split_labels(labels, spec["hold_out"])[0], read_pose_config(spec["pose_config"]),
        Path(spec["weights"]), PoseTrainConfig.model_validate(spec["config"]), Path(spec["run_dir"]),
        spec["identity"], about, report, device,
    )  # fmt: skip


def evaluate(
    labels: Path,
    images: Path,
    *,
    pose_config: str = "aqa-rendered",
    weights: Path | None = None,
    groups: Path | None = None,
    only: tuple[str, ...] = (),
    rotations: int = 1,
    flip: bool = False,
) -> dict[str, Any]:
    """Measure a network on labelled frames, overall and per group.

    Args:
        only: groups to measure; () = all.
        flip: also show the mirrored box, mean of both.
        Others: see `train`.

    Returns:
        pose_config, weights, and the measures of measure.scores; with groups also by_group.
    """
    from pipelines.stages.pose import find_pose_model

    model = find_pose_model(pose_config, weights)
    check_skeleton(pose_config, model.skeleton)
    chosen = read_labels(labels, images, groups)
    chosen = split_labels([*chosen], only)[1] if only else chosen
    return {
        "pose_config": pose_config,
        "weights": str(model.weights),
        **measure_labels(chosen, pose_config, model.weights, rotations, flip),
    }


def measure_labels(
    labels: list[Label], pose_config: str, weights: Path, rotations: int, flip: bool = False
) -> dict[str, Any]:
    """Measures of one network on labels, with those of each group if there are several."""
    from pipelines.pose_labels.measure import estimate, scores
    from pipelines.pose_labels.views import Input
    from pipelines.stages.pose import PoseNetwork, find_pose_model, read_pose_config

    network = PoseNetwork(find_pose_model(pose_config, weights), "cpu")
    shown = Input.of(read_pose_config(pose_config))
    keypoints, confidence = estimate(network, labels, shown, rotations=rotations, flip=flip)
    result = scores(labels, keypoints, confidence) | {"rotations": rotations, "flip": flip}
    names = sorted({label.group for label in labels})
    if len(names) > 1:
        result["by_group"] = {}
        for name in names:
            rows = [n for n, label in enumerate(labels) if label.group == name]
            result["by_group"][name] = scores([labels[n] for n in rows], keypoints[rows], confidence[rows])
    return result


def summary_lines(summary: dict[str, Any]) -> list[str]:
    """A training's summary for people."""
    lines = [
        f"{key:16} {summary[key]}" for key in ("run_dir", "weights", "frames", "frames_held_out", "steps")
    ]
    if "after" not in summary:
        return lines
    return [*lines, "", *measure_lines({key: summary[key] for key in ("before", "after")})]


def measure_lines(measures: dict[str, dict[str, Any]]) -> list[str]:
    """Measures as a table: a row per network and group, then the error of each joint."""
    names = ("frames", "pck_0.2", "pckh_0.5", "oks_ap", "error_torso")
    rows = {}
    for title, found in measures.items():
        rows[title or "all"] = found
        rows |= {f"{title} {group}".strip(): part for group, part in found.get("by_group", {}).items()}
    wide = max(len(title) for title in rows)
    lines = [" " * wide + "".join(f"{name:>13}" for name in names)]
    for title, found in rows.items():
        lines.append(f"{title:{wide}}" + "".join(f"{found[name]!s:>13}" for name in names))
    lines += ["", f"{'error in torso lengths':22}" + "".join(f"{title or 'all':>10}" for title in measures)]
    for joint in JOINTS:
        cells = (found["error_torso_per_joint"][joint] for found in measures.values())
        lines.append(f"{joint:22}" + "".join(f"{cell!s:>10}" for cell in cells))
    return lines


def check_skeleton(pose_config: str, skeleton: str) -> None:
    """ConfigError if a network predicts other joints than the labels have."""
    if skeleton != SKELETON:
        raise ConfigError(
            "pose_config",
            f"{pose_config} predicts {skeleton}, the labels are {SKELETON}",
            "Choose a config of MPII; the weights may be those of the same network for COCO",
        )


def _identity(
    labels: list[Label], weights_sha256: str, pose_config: str, config: PoseTrainConfig
) -> dict[str, Any]:
    """Flat description of what the run is: settings, and hashes of all it reads."""
    digest = hashlib.sha256()
    for label in labels:
        digest.update(hashlib.sha256(label.image.read_bytes()).digest())
        digest.update(label.joints.tobytes() + label.visible.tobytes() + label.center.tobytes())
        digest.update(repr(label.side).encode())
    settings = {k: v for k, v in config.model_dump(mode="json").items() if k not in _NEUTRAL}
    about = {"pose_config": pose_config, "weights.sha256": weights_sha256, "labels.frames": len(labels)}
    return about | {"labels.sha256": digest.hexdigest()} | flatten(settings)


def _stored(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_durably(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
