"""Poses of all people in a frame at once, by a one-stage MMPose network (RTMO, YOLOX-Pose).

No detector goes before it and nothing is cut out: the frame is scaled, every person comes with a box, and
`people.py` says who is who and who is the athlete.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.errors import ConfigError
from pipelines.schema import POSES, empty_row, rejected_row
from pipelines.stages.detect import DETECTIONS, detections_row, keep_boxes
from pipelines.stages.people import people_rows
from pipelines.stages.pictures import Letterbox
from pipelines.stages.pose import CPU_BATCH, read_pose_config, skeleton_of

VERSION = 1  # raise when the same frames give other rows

# DETECTIONS with the poses in its boxes.
FOUND = pa.schema(
    [
        *DETECTIONS,
        ("keypoints", pa.list_(pa.float32())),  # (N, J, 2) px of the upright frame
        ("confidence", pa.list_(pa.float32())),  # (N, J)
    ]
)


@dataclass(frozen=True)
class OneStageModel:
    """Which network: a config name and its weights; small enough to travel to every worker."""

    name: str
    weights: Path
    weights_sha256: str
    picture: Letterbox
    skeleton: str


def is_one_stage(name: str) -> bool:
    """Whether a config of the MMPose zoo shows its network whole frames. ConfigError: there is none."""
    return "BottomupResize" in _steps(name)


def _steps(name: str) -> dict[str, dict]:
    pipeline = read_pose_config(name).test_dataloader.dataset.pipeline
    return {step["type"].rsplit(".", 1)[-1]: step for step in pipeline}


def find_one_stage_model(name: str, weights: Path | None) -> OneStageModel:
    """Look a one-stage network up by the name of its config in the MMPose zoo.

    Raises:
        ConfigError: weights missing, a network that gives no boxes (part grouping, such as DEKR) or wants
            several scales, or joints that are not known here.
    """
    if weights is None:
        raise ConfigError("extract.weights", f"{name} needs a weights file", "Give --weights FILE")
    if not weights.is_file():
        raise ConfigError("extract.weights", f"{weights} does not exist", "Give the path of a weights file")
    config, resize = read_pose_config(name), _steps(name)["BottomupResize"]
    grey = set(resize.get("pad_val", (0, 0, 0)))
    if config.model.head.type not in _HEADS or resize.get("resize_mode", "fit") != "fit" or len(grey) != 1:
        raise ConfigError(
            "extract.pose_config",
            f"{name} is neither a top-down network nor a one-stage network that gives boxes",
            "Choose a topdown config, or one of rtmo or yoloxpose",
        )
    return OneStageModel(
        name=name,
        weights=weights.absolute(),
        weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        picture=Letterbox(*resize["input_size"], border=int(grey.pop())),
        skeleton=skeleton_of(config, name),
    )


_HEADS = ("RTMOHead", "YOLOXPoseHead")


@dataclass(frozen=True)
class People:
    """The people in one frame, the surest first.

    Attributes:
        boxes: (N, 4) float32 px of the upright frame.
        scores: (N,) float32.
        keypoints: (N, J, 2) float32 px of the upright frame.
        confidence: (N, J) float32 in [0, 1].
    """

    boxes: np.ndarray
    scores: np.ndarray
    keypoints: np.ndarray
    confidence: np.ndarray


class OneStageNetwork:
    """A one-stage network ready to run on letterboxed frames.

    Args:
        model: config name and weights.
        device: `cpu` or `cuda`.
        precision: fp32, bf16 or fp16, of the backbone and neck; the head always runs in fp32.
        compile: compile backbone and neck with torch.compile.

    Raises:
        ConfigError: the weights do not fit the config.
    """

    def __init__(self, model: OneStageModel, device: str, precision: str = "fp32", compile: bool = False):
        import torch

        from pipelines.stages import mmpose_compat

        self.model, self.device = model, device
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        config = read_pose_config(model.name)
        config.model.backbone.init_cfg = None  # it names weights on the network
        config.model.data_preprocessor.batch_augments = None  # of training
        from mmcv.cnn import fuse_conv_bn
        from mmengine.registry import init_default_scope
        from mmpose.models import build_pose_estimator

        init_default_scope("mmpose")
        self.network = build_pose_estimator(config.model)
        mmpose_compat.load_weights(self.network, model.weights)
        self.network.backbone = fuse_conv_bn(self.network.backbone)
        self.network.to(device, memory_format=torch.channels_last).eval()
        self._features = self.network.extract_feat
        if compile:
            self._features = torch.compile(self._features)
        preprocessor = self.network.data_preprocessor
        # MMPose's pictures are BGR, ours RGB.
        self._swap_channels = not preprocessor._channel_conversion
        plain = not preprocessor._enable_normalize
        self._mean = 0.0 if plain else preprocessor.mean.to(device)
        self._std = 1.0 if plain else preprocessor.std.to(device)

    def predict(self, pictures: np.ndarray, sizes: list[tuple[int, int]]) -> list[People]:
        """The people of a batch of frames.

        Args:
            pictures: (B, height, width, 3) uint8 RGB, letterboxed.
            sizes: B times width and height of the upright frame.
        """
        import torch

        half = self.dtype != torch.float32
        samples = [self._sample(size) for size in sizes]
        with torch.inference_mode():
            with torch.autocast(self.device, self.dtype if half else torch.bfloat16, enabled=half):
                features = self._features(self._normalise(pictures))
            features = [feature.float() for feature in features]
            found = self.network.head.predict(features, samples, test_cfg=self.network.test_cfg)
            results = self.network.add_pred_to_datasample(found, None, samples)
        return [_surest(result.pred_instances, size) for result, size in zip(results, sizes, strict=True)]

    def _normalise(self, pictures: np.ndarray) -> Any:
        """(B, 3, height, width) float32, channels last."""
        import torch

        if self._swap_channels:
            pictures = np.ascontiguousarray(pictures[..., ::-1])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            pixels = torch.from_numpy(pictures)
        return pixels.to(self.device).permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._std)

    def _sample(self, size: tuple[int, int]) -> Any:
        """How the picture lies in the frame, as `BottomupResize` says it."""
        from mmpose.structures import PoseDataSample

        picture = self.model.picture
        factor = min(picture.width / size[0], picture.height / size[1])
        return PoseDataSample(
            metainfo={
                "input_size": (picture.width, picture.height),
                "input_center": np.array(size, np.float32) / 2,
                "input_scale": np.array([picture.width, picture.height], np.float32) / np.float32(factor),
            }
        )


def _surest(found: Any, size: tuple[int, int]) -> People:
    boxes, order = keep_boxes(np.asarray(found.bboxes, np.float32), np.asarray(found.bbox_scores), size)
    return People(
        boxes=boxes,
        scores=np.asarray(found.bbox_scores, np.float32)[order],
        keypoints=np.asarray(found.keypoints, np.float32)[order],
        confidence=np.clip(np.asarray(found.keypoint_scores, np.float32)[order], 0.0, 1.0),
    )


@dataclass(frozen=True)
class OneStageStage:
    """Reads decoded rows whose frames are letterboxed; gives rows of FOUND.

    Args:
        model: the network.
        frames_per_batch: frames per forward pass, across clips.
        use_gpu: run on the GPU.
        precision: concrete (`pose.resolve_precision`), for it decides the keypoints.
        compile: see `OneStageNetwork`.
    """

    model: OneStageModel
    frames_per_batch: int
    use_gpu: bool
    precision: str = "fp32"
    compile: bool = False

    def setup(self) -> OneStageNetwork:
        import torch

        torch.set_flush_denormal(True)  # as in pose.py
        return OneStageNetwork(self.model, "cuda" if self.use_gpu else "cpu", self.precision, self.compile)

    def process(self, state: OneStageNetwork, rows: pa.Table) -> Iterator[pa.Table]:
        parts = rows.to_pylist()
        decoded = [row for row in parts if row["status"] == "ok"]
        results = iter(self._find(state, decoded))
        finished = [
            next(results) if row["status"] == "ok" else {name: row.get(name) for name in FOUND.names}
            for row in parts
        ]
        yield pa.Table.from_pylist(finished, schema=FOUND)

    def _find(self, network: OneStageNetwork, rows: list[dict]) -> list[dict]:
        picture = self.model.picture
        shape = (-1, picture.height, picture.width, 3)
        frames = [np.frombuffer(row["frames"], np.uint8).reshape(shape) for row in rows]
        sizes = [(row["width_px"], row["height_px"]) for row in rows]
        everything = [
            (number, frame) for number, pictures in enumerate(frames) for frame in range(len(pictures))
        ]
        most = self.frames_per_batch if self.use_gpu else min(self.frames_per_batch, CPU_BATCH)
        found: list[list[People]] = [[] for _ in rows]
        for start in range(0, len(everything), most):
            batch = everything[start : start + most]
            pictures = np.stack([frames[number][frame] for number, frame in batch])
            people = network.predict(pictures, [sizes[number] for number, _ in batch])
            for (number, _), one in zip(batch, people, strict=True):
                found[number].append(one)
        return [
            _found_row(row, pictures[:, *picture.inside(size)], people)
            for row, pictures, size, people in zip(rows, frames, sizes, found, strict=True)
        ]


def _found_row(row: dict, pictures: np.ndarray, people: list[People]) -> dict:
    boxes = [(one.boxes, one.scores) for one in people]
    flat = {
        name: np.concatenate([getattr(one, name).ravel() for one in people] or [np.empty(0)])
        for name in ("keypoints", "confidence")
    }
    return detections_row(row, np.arange(len(people)), pictures, boxes) | flat


def pose_rows(found: dict, rule: str, max_people: int, skeleton: str) -> list[dict]:
    """Rows of POSES of one clip.

    Args:
        found: row of FOUND, all parts joined.
        rule: who is the athlete, see people.py.
        max_people: most rows, the athlete first.
        skeleton: name of the joint set.

    Returns:
        One row per person, from the first frame to the last in which the person was found; where not found in
        between, keypoints are NaN and confidence is 0. One rejected row if there is nobody.
    """
    people = people_rows(found, rule, max_people)
    if people[0]["status"] != "ok":
        return [rejected_row(POSES, person) for person in people]
    return [_pose_row(found, person, skeleton) for person in people]


def _pose_row(found: dict, person: dict, skeleton: str) -> dict:
    count = len(found["box_scores"])
    confidence = np.asarray(found["confidence"], np.float32).reshape(count, -1)
    keypoints = np.asarray(found["keypoints"], np.float32).reshape(*confidence.shape, 2)
    chosen = _which(found, person)
    seen = chosen >= 0
    return empty_row(
        POSES,
        **{name: value for name, value in person.items() if name in POSES.names},
        skeleton=skeleton,
        unit="px",
        num_joints=confidence.shape[1],
        num_coordinates=2,
        keypoints=np.where(seen[:, None, None], keypoints[chosen], np.nan).astype(np.float32).ravel(),
        confidence=np.where(seen[:, None], confidence[chosen], 0.0).astype(np.float32).ravel(),
    )


def _which(found: dict, person: dict) -> np.ndarray:
    """(T,) which of the N people found is the person in each frame of hers; -1 = not found there."""
    boxes = np.asarray(found["boxes"], np.float32).reshape(-1, 4)
    ends = np.concatenate([[0], np.cumsum(found["frame_detections"])]).astype(int)
    # A frame that was sampled twice shows the same people twice.
    frames = np.searchsorted(np.asarray(found["frame_index"]), np.asarray(person["frame_index"]))
    own = np.asarray(person["box"], np.float32).reshape(-1, 4)
    chosen = np.full(len(frames), -1)
    for place in np.flatnonzero(np.isfinite(np.asarray(person["box_score"], np.float32))):
        start, end = ends[frames[place]], ends[frames[place] + 1]
        chosen[place] = start + np.flatnonzero((boxes[start:end] == own[place]).all(axis=1))[0]
    return chosen
