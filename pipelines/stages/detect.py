"""Detection of people by any MMDetection network, batched over frames of several clips.

The stage gives raw boxes; who is who and who is the athlete needs the whole clip and is told by `people.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.errors import ConfigError
from pipelines.stages.camera import camera_motion
from pipelines.stages.pictures import Fit, fit_size

if TYPE_CHECKING:
    from mmengine import Config

VERSION = 1  # raise when the same frames give other rows

KEEP_SCORE = 0.1
"""Least score of a box that is kept; tracking continues with unsure boxes but never begins with one."""
MAX_BOXES = 50
"""Most boxes kept per frame, the surest first."""

_PERSON_CLASSES = ("person", "pedestrian")  # the latter in the MOT challenge; compared in lower case

# What detection tells of one part of a clip; parts are joined by concatenating the list columns.
DETECTIONS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("part", pa.int32()),
        ("last", pa.bool_()),
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("error_message", pa.string()),
        ("attempts", pa.int32()),
        ("clip_digest", pa.string()),
        ("uri", pa.string()),
        ("source_sha256", pa.string()),
        ("source_bytes", pa.int64()),
        ("source_mtime_ns", pa.int64()),
        ("decoder", pa.string()),
        ("decoder_note", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("num_frames", pa.int32()),  # T, frames shown to the detector
        ("frame_index", pa.list_(pa.int32())),  # (T,)
        ("time_s", pa.list_(pa.float64())),  # (T,)
        ("frame_detections", pa.list_(pa.int32())),  # (T,) boxes per frame; their sum is N
        ("boxes", pa.list_(pa.float32())),  # (N, 4) x1 y1 x2 y2, px of the upright frame
        ("box_scores", pa.list_(pa.float32())),  # (N,)
        # (T, 4) a, b, x, y: the picture moved as (u, v) -> (au - bv + x, bu + av + y) since the frame before
        ("camera", pa.list_(pa.float32())),
        ("picture_change", pa.list_(pa.float32())),  # (T,) mean difference of grey levels to the frame before
    ]
)


@dataclass(frozen=True)
class DetectorModel:
    """Which detector: a config name and its weights; small enough to travel to every worker.

    Args:
        name: config in the zoo.
        weights: file.
        weights_sha256: its hash.
        fit: size of the picture it wants.
        pad_width: pictures are padded at the right to this width; 0 = not.
        pad_height: and at the bottom to this height.
        pad_square: pad to a square.
        pad_multiple: pad both sides to multiples of this.
        pad_value: grey level of the padding.
        person_class: index of the class of people.
    """

    name: str
    weights: Path
    weights_sha256: str
    fit: Fit
    pad_width: int
    pad_height: int
    pad_square: bool
    pad_multiple: int
    pad_value: int
    person_class: int


def find_detector(name: str, weights: Path | None) -> DetectorModel:
    """Look a detector up by the name of its config in the MMDetection zoo (or MMPose's few detectors).

    Raises:
        ConfigError: unknown config (the nearest is named), weights missing, no class of people, or a
            detector that needs more than a picture (text, proposals, video).
    """
    if weights is None:
        raise ConfigError(
            "extract.detector_weights", f"{name} needs a weights file", "Give --detector-weights FILE"
        )
    if not weights.is_file():
        raise ConfigError(
            "extract.detector_weights", f"{weights} does not exist", "Give the path of a weights file"
        )
    config = read_detector_config(name)
    dataset = config.get("test_dataloader", {}).get("dataset", {})
    steps = {_kind(step): step for step in dataset.get("pipeline", [])}
    foreign = set(steps) - {
        "LoadImageFromFile", "Resize", "Pad", "LoadAnnotations", "LoadPanopticAnnotations", "PackDetInputs"
    }  # fmt: skip
    if "Resize" not in steps or "scale" not in steps["Resize"] or foreign:
        raise ConfigError(
            "extract.detector_config",
            f"{name} needs more than a scaled picture ({', '.join(sorted(foreign)) or 'no Resize'})",
            "Choose a detector such as rtmdet_m_8xb32-300e_coco or faster-rcnn_r50_fpn_1x_coco",
        )
    resize, pad = steps["Resize"], steps.get("Pad", {})
    pad_width, pad_height = pad.get("size") or (0, 0)
    return DetectorModel(
        name=name,
        weights=weights.absolute(),
        weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        fit=Fit(*resize["scale"], keep_aspect=resize.get("keep_ratio", False)),
        pad_width=pad_width,
        pad_height=pad_height,
        pad_square=pad.get("pad_to_square", False),
        pad_multiple=pad.get("size_divisor") or 1,
        pad_value=_grey(pad.get("pad_val", 0), name),
        person_class=_person_class(config, name),
    )


def _kind(step: dict) -> str:
    kind = step["type"]
    return (kind if isinstance(kind, str) else kind.__name__).rsplit(".", 1)[-1]


def _grey(value: Any, name: str) -> int:
    """The one grey level of a padding that configs write as 114, (114, 114, 114) or dict(img=...)."""
    value = value.get("img", 0) if isinstance(value, dict) else value
    levels = {int(level) for level in (value if isinstance(value, (list, tuple)) else [value])}
    if len(levels) != 1:
        raise ConfigError("extract.detector_config", f"{name} pads with a colour", "Choose another detector")
    return levels.pop()


def read_detector_config(name: str) -> Config:
    """The MMEngine config of a detector.

    Raises ConfigError for an unknown name.
    """
    from pipelines.stages import mmpose_compat
    from pipelines.stages.zoo import read_zoo_config

    mmpose_compat.install()
    import mmdet
    import mmpose

    folders = {
        Path(str(mmdet.__file__)).parent / ".mim" / "configs": "*.py",
        Path(str(mmpose.__file__)).parent / ".mim" / "demo" / "mmdetection_cfg": "*.py",
    }
    return read_zoo_config(name, folders, "extract.detector_config", "the MMDetection zoo")


def _person_class(config: Config, name: str) -> int:
    """Index of the class of people among those the head tells apart."""
    from pipelines.stages import mmpose_compat

    mmpose_compat.install()
    import mmdet.datasets  # noqa: F401  fills the registry
    from mmdet.registry import DATASETS

    dataset = config.test_dataloader.dataset
    classes = dataset.get("metainfo", {}).get("classes")
    if classes is None:
        classes = DATASETS.get(dataset.type).METAINFO.get("classes", ())
    classes = [classes] if isinstance(classes, str) else list(classes)
    places = [index for index, label in enumerate(classes) if label.lower() in _PERSON_CLASSES]
    heads = set(_class_counts(config.model))
    if not places or heads != {len(classes)}:
        found = ", ".join(classes[:4]) if heads == {len(classes)} else f"a head of {sorted(heads)} classes"
        raise ConfigError(
            "extract.detector_config",
            f"{name} does not detect people (it knows {found}{', ...' if len(classes) > 4 else ''})",
            "Choose a detector with a class person, e.g. one trained on COCO",
        )
    return places[0]


def _class_counts(part: Any) -> Iterator[int]:
    """Every `num_classes` of the box heads in a model's description."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("bbox_head", "roi_head"):
                yield from _counts_below(value)


def _counts_below(part: Any) -> Iterator[int]:
    if isinstance(part, dict):
        if isinstance(part.get("num_classes"), int):
            yield part["num_classes"]
        for key, value in part.items():
            if not key.startswith(("mask", "semantic", "loss")):
                yield from _counts_below(value)
    elif isinstance(part, (list, tuple)):
        for value in part:
            yield from _counts_below(value)


class DetectorNetwork:
    """A MMDetection network ready to run on pictures."""

    def __init__(self, model: DetectorModel, device: str):
        import torch

        from pipelines.stages import mmpose_compat

        self.model = model
        config = read_detector_config(model.name)
        if "backbone" in config.model and "init_cfg" in config.model.backbone:
            config.model.backbone.init_cfg = None  # it names weights on the network
        import mmdet.models  # noqa: F401  fills the registry
        from mmcv.cnn import fuse_conv_bn
        from mmdet.registry import MODELS
        from mmengine.model.utils import revert_sync_batchnorm
        from mmengine.registry import DefaultScope

        with DefaultScope.overwrite_default_scope("mmdet"):
            network = revert_sync_batchnorm(MODELS.build(config.model))
        mmpose_compat.load_weights(network, model.weights)
        if hasattr(network, "backbone"):
            network.backbone = fuse_conv_bn(network.backbone)
        self.network = network.to(device).to(memory_format=torch.channels_last).eval()

    def predict(self, pictures: np.ndarray, size: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """People in pictures of one size.

        Args:
            pictures: (B, height, width, 3) uint8 RGB, already scaled by `fit_size`.
            size: width and height of the upright frame the boxes are told in.

        Returns:
            For each picture boxes (N, 4) float32 px and scores (N,), every box of people the detector gives.
        """
        import torch

        device = next(self.network.parameters()).device
        batch = torch.from_numpy(self._padded(pictures)).permute(0, 3, 1, 2).flip(1).to(device)
        samples = [self._sample(batch.shape[2:], pictures.shape[1:3], size) for _ in pictures]
        with torch.inference_mode():
            data = self.network.data_preprocessor({"inputs": list(batch), "data_samples": samples}, False)
            data["inputs"] = data["inputs"].contiguous(memory_format=torch.channels_last)
            results = self.network(**data, mode="predict")
        people = []
        for result in results:
            found = result.pred_instances
            keep = found.labels == self.model.person_class
            people.append(
                (found.bboxes[keep].float().cpu().numpy(), found.scores[keep].float().cpu().numpy())
            )
        return people

    def _padded(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures with the config's own padding at the right and the bottom."""
        model, (height, width) = self.model, pictures.shape[1:3]
        wide, high = max(width, model.pad_width), max(height, model.pad_height)
        if model.pad_square:
            wide = high = max(wide, high)
        wide, high = (-(-side // model.pad_multiple) * model.pad_multiple for side in (wide, high))
        if (wide, high) == (width, height):
            return np.ascontiguousarray(pictures)
        out = np.full((len(pictures), high, wide, 3), model.pad_value, np.uint8)
        out[:, :height, :width] = pictures
        return out

    def _sample(self, padded: Any, picture: tuple[int, int], size: tuple[int, int]) -> Any:
        from mmdet.structures import DetDataSample

        return DetDataSample(
            metainfo={
                "img_id": 0,
                "img_shape": tuple(padded),
                "ori_shape": (size[1], size[0]),
                "scale_factor": (picture[1] / size[0], picture[0] / size[1]),
            }
        )


@dataclass(frozen=True)
class DetectStage:
    """Reads decoded rows whose frames were scaled by `model.fit`; gives rows of DETECTIONS.

    Args:
        model: the detector.
        every: of each part the first, then every n-th frame is shown to it, and the last frame of the clip.
        frames_per_batch: frames per forward pass, across clips of one size.
        use_gpu: run on the GPU.
    """

    model: DetectorModel
    every: int
    frames_per_batch: int
    use_gpu: bool

    def setup(self) -> DetectorNetwork:
        import torch

        torch.set_flush_denormal(True)  # as in pose.py
        return DetectorNetwork(self.model, "cuda" if self.use_gpu else "cpu")

    def process(self, state: DetectorNetwork, rows: pa.Table) -> Iterator[pa.Table]:
        parts = rows.to_pylist()
        decoded = [_Part.of(row, self.model.fit, self.every) for row in parts if row["status"] == "ok"]
        results = iter(_detect(state, decoded, self.frames_per_batch))
        finished = [
            next(results) if row["status"] == "ok" else {name: row.get(name) for name in DETECTIONS.names}
            for row in parts
        ]
        yield pa.Table.from_pylist(finished, schema=DETECTIONS)


@dataclass(frozen=True)
class _Part:
    """The frames of a decoded row that the detector sees."""

    row: dict
    shown: np.ndarray  # (T,) positions in the row
    pictures: np.ndarray  # (T, h, w, 3)
    size: tuple[int, int]  # of the upright frame

    @staticmethod
    def of(row: dict, fit: Fit, every: int) -> _Part:
        size = (row["width_px"], row["height_px"])
        width, height = fit_size(*size, fit)
        pictures = np.frombuffer(row["frames"], np.uint8).reshape(-1, height, width, 3)
        shown = np.arange(0, len(pictures), every)
        if row["last"] and len(pictures) and shown[-1] != len(pictures) - 1:
            shown = np.append(shown, len(pictures) - 1)
        return _Part(row, shown, pictures if every == 1 else pictures[shown], size)


def _detect(network: DetectorNetwork, parts: list[_Part], frames_per_batch: int) -> list[dict]:
    """Rows of DETECTIONS; frames of equal size share batches, so that padding never depends on neighbours."""
    found: list[list] = [[None] * len(part.pictures) for part in parts]
    sizes: dict[tuple, list[tuple[int, int]]] = {}
    for number, part in enumerate(parts):
        places = [(number, frame) for frame in range(len(part.pictures))]
        sizes.setdefault((part.size, part.pictures.shape[1:3]), []).extend(places)
    for (size, _), places in sizes.items():
        for start in range(0, len(places), frames_per_batch):
            batch = places[start : start + frames_per_batch]
            pictures = np.stack([parts[number].pictures[frame] for number, frame in batch])
            for (number, frame), people in zip(batch, network.predict(pictures, size), strict=True):
                found[number][frame] = _kept(*people, size)
    return [
        detections_row(part.row, part.shown, part.pictures, people)
        for part, people in zip(parts, found, strict=True)
    ]


def _kept(boxes: np.ndarray, scores: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    boxes, order = keep_boxes(boxes, scores, size)
    return boxes, scores[order]


def keep_boxes(boxes: np.ndarray, scores: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes cut at the frame's edges, the surest first; unsure, tiny and not finite ones dropped.

    Args:
        boxes: (N, 4) px.
        scores: (N,).
        size: width and height of the frame.

    Returns:
        (M, 4) boxes, and (M,) which of the N they were.
    """
    boxes = np.clip(boxes, 0, np.array([*size, *size], np.float32))
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = np.flatnonzero((scores >= KEEP_SCORE) & (sides >= 2).all(axis=1))  # NaN compares false
    order = keep[np.argsort(-scores[keep], kind="stable")][:MAX_BOXES]
    return boxes[order], order


def detections_row(
    decoded: dict, shown: np.ndarray, pictures: np.ndarray, people: list[tuple[np.ndarray, np.ndarray]]
) -> dict:
    """A row of DETECTIONS.

    Args:
        decoded: row of `crops.DECODED`.
        shown: (T,) positions in it that the network saw.
        pictures: (T, h, w, 3) uint8, the whole frame.
        people: for each boxes (N, 4) px of the upright frame, and scores (N,).
    """
    row = {name: decoded.get(name) for name in DETECTIONS.names}
    size = (decoded["width_px"], decoded["height_px"])
    camera, change = camera_motion(pictures, [boxes for boxes, _ in people], size)
    return row | {
        "num_frames": len(shown),
        "frame_index": np.asarray(decoded["frame_index"], np.int32)[shown],
        "time_s": np.asarray(decoded["time_s"], np.float64)[shown],
        "frame_detections": np.array([len(boxes) for boxes, _ in people], np.int32),
        "boxes": np.concatenate([boxes.ravel() for boxes, _ in people] or [np.empty(0)]).astype(np.float32),
        "box_scores": np.concatenate([scores for _, scores in people] or [np.empty(0)]).astype(np.float32),
        "camera": camera.ravel(),
        "picture_change": change,
    }
