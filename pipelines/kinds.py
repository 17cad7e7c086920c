"""What can be extracted: for each kind its table, what its key means, and the stages that make its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import ExtractConfig
from pipelines.errors import ConfigError
from pipelines.schema import FEATURES, PEOPLE, POSES, rejected_row
from pipelines.stages import appearance, decode, detect, one_stage, people, pictures, pose
from pipelines.stages.base import BLOCK_BYTES
from pipelines.stages.crops import DecodeStage
from pipelines.stages.quality import pose_quality

if TYPE_CHECKING:
    from pipelines.stages.base import Stage


@dataclass(frozen=True)
class Work:
    """One pass over the clips.

    Args:
        family: folder of its tables: poses, people or features/<kind>.
        schema: of the table.
        spec: everything that decides the content of the rows; its hash is the table's key.
        decode: the first stage.
        network: the second stage, for workers without a GPU.
        finish: makes rows of the table from the joined rows of the network.
    """

    family: str
    schema: pa.Schema
    spec: dict
    decode: DecodeStage
    network: Stage
    finish: Callable[[pa.Table], pa.Table]

    def on_gpu(self, use_gpu: bool) -> Stage:
        """The network stage for workers with or without a GPU."""
        return replace(self.network, use_gpu=use_gpu)  # type: ignore[type-var]


def find_people_work(config: ExtractConfig) -> Work | None:
    """The pass that finds the athlete, if a detector is asked for; poses then take their boxes from it.

    Raises:
        ConfigError: the detector is unknown, or another kind than pose is asked for.
    """
    if not config.detector_config:
        return None
    if config.kind != "pose":
        raise ConfigError(
            "extract.detector_config",
            f"kind {config.kind} shows whole frames",
            "Leave it out, or use --kind pose",
        )
    if one_stage.is_one_stage(config.pose_config):
        raise ConfigError(
            "extract.detector_config",
            f"{config.pose_config} finds people by itself",
            "Leave the detector out, or choose a topdown config",
        )
    model = detect.find_detector(config.detector_config, config.detector_weights)
    spec = {
        "kind": "people",
        **_decoding(config),
        "detector": model.name,
        "weights_sha256": model.weights_sha256,
        "picture": [model.fit.width, model.fit.height, model.fit.keep_aspect],
        "every": config.detector_every,
        "athlete": config.athlete,
        "people": config.people,
        "detect_version": detect.VERSION,
        "people_version": people.VERSION,
    }
    network = detect.DetectStage(model, config.detector_every, config.frames_per_batch, use_gpu=False)
    finish = _ChoosePeople(config.athlete, config.people)
    return Work("people", PEOPLE, spec, _decode_stage(config, model.fit), network, finish)


def find_work_of(config: ExtractConfig, *, people_key: str = "") -> Work:
    """The pass that makes what is asked for.

    Args:
        config: kind, network, sampling.
        people_key: table whose boxes are used; empty = boxes of the clips table.
    """
    precision = pose.resolve_precision(config.precision)
    if config.kind == "pose" and one_stage.is_one_stage(config.pose_config):
        return _one_stage_work(config, precision)
    if config.kind == "pose":
        return _pose_work(config, precision, people_key)
    return _appearance_work(config, precision)


def _pose_work(config: ExtractConfig, precision: str, people_key: str) -> Work:
    model = pose.find_pose_model(config.pose_config, config.weights)
    spec = {
        "kind": "poses",
        **_decoding(config),
        "boxes": f"people/{people_key}" if people_key else "clips table, else the whole frame",
        "network": model.name,
        "weights_sha256": model.weights_sha256,
        "input_size": [model.width, model.height],
        "padding": model.padding,
        "skeleton": model.skeleton,
        "precision": precision,
        "flip_test": config.flip_test,
        "smoothing": config.smoothing,
        "pose_version": pose.VERSION,
    }
    picture = pictures.Crop(model.width, model.height, model.padding)
    network = pose.PoseStage(
        model,
        config.frames_per_batch,
        use_gpu=False,
        precision=precision,
        flip_test=config.flip_test,
        compile=config.compile,
    )
    finish = _FinishPoses(config.smoothing)
    return Work("poses", POSES, spec, _decode_stage(config, picture), network, finish)


def _one_stage_work(config: ExtractConfig, precision: str) -> Work:
    if config.flip_test:
        cause = f"{config.pose_config} has no flip test in MMPose"
        raise ConfigError("extract.flip_test", cause, "Leave it out for this network")
    model = one_stage.find_one_stage_model(config.pose_config, config.weights)
    spec = {
        "kind": "poses",
        **_decoding(config),
        "boxes": "found by the network",
        "network": model.name,
        "weights_sha256": model.weights_sha256,
        "input_size": [model.picture.width, model.picture.height],
        "athlete": config.athlete,
        "people": config.people,
        "skeleton": model.skeleton,
        "precision": precision,
        "smoothing": config.smoothing,
        "people_version": people.VERSION,
        "one_stage_version": one_stage.VERSION,
    }
    network = one_stage.OneStageStage(model, config.frames_per_batch, False, precision, config.compile)
    finish = _ChoosePoses(config.athlete, config.people, model.skeleton, _FinishPoses(config.smoothing))
    return Work("poses", POSES, spec, _decode_stage(config, model.picture), network, finish)


def _appearance_work(config: ExtractConfig, precision: str) -> Work:
    model = appearance.find_appearance_model(
        config.kind, config.weights, config.random_weights, config.static_model
    )
    if model.sampling and config.sampling not in ("all", model.sampling):
        raise ConfigError(
            "extract.sampling",
            f"kind {config.kind} reads {model.sampling}, not {config.sampling}",
            f"Leave it out, or give {model.sampling}",
        )
    config = config.model_copy(update={"sampling": model.sampling or config.sampling})
    spec = {"kind": config.kind, **_decoding(config), **model.spec()}
    if config.kind != "frames":
        spec["precision"] = precision
    stage = replace(
        _decode_stage(config, pictures.Resize(model.width, model.height)),
        frames_per_part=model.frames_per_part,
    )
    network = appearance.AppearanceStage(model, config.frames_per_batch, use_gpu=False, precision=precision)
    return Work(f"features/{config.kind}", FEATURES, spec, stage, network, _finish_features)


@dataclass(frozen=True)
class _ChoosePeople:
    """Detections of whole clips -> rows of PEOPLE."""

    rule: str
    most: int

    def __call__(self, rows: pa.Table) -> pa.Table:
        chosen = [
            person for row in rows.to_pylist() for person in people.people_rows(row, self.rule, self.most)
        ]
        return pa.Table.from_pylist(chosen, schema=PEOPLE)


@dataclass(frozen=True)
class _FinishPoses:
    """Poses of whole clips -> rows of POSES: repaired in time if asked for, with their quality.

    Args:
        smoothing: none, repair or smooth.
        tracks: (clip_id, person) -> columns of the people table that go along.
    """

    smoothing: str
    tracks: dict[tuple[str, int], dict] = field(default_factory=dict)

    def __call__(self, rows: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._finish(row) for row in rows.to_pylist()], schema=POSES)

    def _finish(self, row: dict) -> dict:
        from pipelines.pose_labels.repair import repair_clip

        row = {name: row[name] for name in POSES.names}
        if row["status"] != "ok":
            return row
        shape = (row["num_frames"], row["num_joints"], row["num_coordinates"])
        keypoints = np.asarray(row["keypoints"], np.float32).reshape(shape)
        confidence = np.asarray(row["confidence"], np.float32).reshape(shape[:2])
        time_s = np.asarray(row["time_s"])
        if self.smoothing != "none":
            keypoints = repair_clip(keypoints, confidence, time_s, self.smoothing)[0].astype(np.float32)
        quality = pose_quality(keypoints, confidence, time_s)
        known = {name: value for name, value in quality.items() if np.isfinite(value)}
        track = self.tracks.get((row["clip_id"], row["person"]), {})
        return row | track | known | {"keypoints": keypoints.ravel()}


@dataclass(frozen=True)
class _ChoosePoses:
    """People found by a one-stage network in whole clips -> rows of POSES."""

    rule: str
    most: int
    skeleton: str
    finish: _FinishPoses

    def __call__(self, rows: pa.Table) -> pa.Table:
        chosen = [
            person
            for row in rows.to_pylist()
            for person in one_stage.pose_rows(row, self.rule, self.most, self.skeleton)
        ]
        return self.finish(pa.Table.from_pylist(chosen, schema=POSES))


@dataclass(frozen=True)
class Boxed:
    """A plan of poses whose people are known.

    Args:
        clips: the plan with people and their boxes in the column `people`.
        nobody: rejected rows of POSES for the clips without people.
        several: number of people of each clip that has more than one.
        work: the pass, which now also writes what is known of each track.
    """

    clips: pa.Table
    nobody: pa.Table
    several: dict[str, int]
    work: Work


def give_boxes(clips: pa.Table, work: Work, people_rows: pa.Table) -> Boxed:
    """Add the tracked people (rows of PEOPLE) to a plan of poses."""
    ids = clips.column("clip_id").combine_chunks()
    mine = people_rows.filter(pc.is_in(people_rows.column("clip_id"), ids)).sort_by(
        [("clip_id", "ascending"), ("person", "ascending")]
    )
    columns = [mine.column(name).combine_chunks() for name in ("person", "frame_index", "box")]
    persons = pa.StructArray.from_arrays(columns, names=["person", "frame_index", "box"])
    named = np.asarray(mine.column("clip_id"))
    names, starts, counts = np.unique(named, return_index=True, return_counts=True)
    lists = pa.ListArray.from_arrays(pa.array([*starts, len(persons)], pa.int32()), persons)
    clips = clips.append_column("people", lists.take(pc.index_in(ids, pa.array(names, pa.string()))))
    lost = mine.filter(pc.equal(mine.column("status"), "rejected"))
    empty = pc.is_in(ids, lost.column("clip_id").combine_chunks())
    digests = dict(zip(ids.to_pylist(), clips.column("clip_digest").to_pylist(), strict=True))
    rejected = [
        rejected_row(POSES, {**row, "clip_digest": digests[row["clip_id"]]}) for row in lost.to_pylist()
    ]
    tracks = mine.select(["clip_id", "person", *_OF_TRACK]).to_pylist()
    known = {(row.pop("clip_id"), row.pop("person")): row for row in tracks}
    return Boxed(
        clips=clips.filter(pc.invert(empty)),
        nobody=pa.Table.from_pylist(rejected, schema=POSES),
        several={str(name): int(count) for name, count in zip(names, counts, strict=True) if count > 1},
        work=replace(work, finish=replace(work.finish, tracks=known)),  # type: ignore[type-var]
    )


_OF_TRACK = ["track_id", "id_switches", "missing_share"]


def _finish_features(rows: pa.Table) -> pa.Table:
    return rows.select(FEATURES.names)


def _decode_stage(
    config: ExtractConfig, picture: pictures.Crop | pictures.Resize | pictures.Fit | pictures.Letterbox
) -> DecodeStage:
    return DecodeStage(
        sampling=config.sampling,
        picture=picture,
        frames_per_part=max(1, BLOCK_BYTES // (picture.width * picture.height * 3)),
        referee_share=config.referee_share,
        timeout_s=config.decode_timeout_s,
        memory_mb=config.decode_memory_mb,
    )


def _decoding(config: ExtractConfig) -> dict:
    return {
        "decoder": "decord in order, or PyAV where it fails",
        "decode_version": decode.VERSION,
        "sampling": config.sampling,
    }
