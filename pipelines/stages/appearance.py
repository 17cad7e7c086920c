"""The appearance stage: frames -> features of a video or image network, or JPEG pictures.

    kind       pictures        shown to the network                            features
    i3d        200 x 112 px    centre 112 px, 16 frames from 0, 10, ..., 80    (9, 1024)
    c3d_fc6    171 x 128 px    centre 112 px, 16 frames from 0, 16, 32, ...    (windows, 4096)
    static     200 x 112 px    centre 112 px, each frame                       (frames, D of the network)
    frames     200 x 112 px    none: kept as JPEG                              none

i3d and frames read 96 frames spread evenly over the clip. Sizes, crop and windows are HP-MCoRe's test
protocol; those of c3d_fc6 are Tran et al.'s. Features are rounded to half precision before they are stored.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.errors import ConfigError
from pipelines.schema import CARRIED, FEATURE_PARTS, empty_row, rejected_row
from pipelines.stages.appearance_network import RANDOM_SEED, AppearanceNetwork, build, fitting, read_weights

VERSION = 1  # raise when the same input gives other features
JPEG_QUALITY = 95


class _Kind(NamedTuple):
    """What is fixed for a kind of features."""

    width: int
    height: int
    crop: int
    sampling: str
    window: int
    step: int
    frames_per_part: int


_KINDS = {
    "i3d": _Kind(200, 112, 112, "uniform:96", window=16, step=10, frames_per_part=96),
    "c3d_fc6": _Kind(171, 128, 112, "", window=16, step=16, frames_per_part=256),
    "static": _Kind(200, 112, 112, "", window=1, step=1, frames_per_part=256),
    "frames": _Kind(200, 112, 0, "uniform:96", window=1, step=1, frames_per_part=96),
}


@dataclass(frozen=True)
class AppearanceModel:
    """Which network on which pictures; small enough to travel to every worker.

    Args:
        kind: i3d, c3d_fc6, static or frames.
        network: i3d, c3d, timm's name, or jpeg.
        weights: the file; None = random weights, or no network at all.
        weights_sha256: of the file; "random:0" = random weights from that seed; empty = no network.
        width, height: size to which the decoder scales the whole upright frame, px.
        crop: side of the square cut from the middle of it; 0 = the whole picture.
        sampling: the only sampling this kind is defined for; empty = any.
        window: frames of one segment.
        step: frames between the starts of segments.
        frames_per_part: what every part of a long clip but the last must hold.
    """

    kind: str
    network: str
    weights: Path | None
    weights_sha256: str
    width: int
    height: int
    crop: int
    sampling: str
    window: int
    step: int
    frames_per_part: int

    def starts(self, num_frames: int) -> list[int]:
        """First frame of each segment.

        i3d: 0, 10, ..., 80 of 96 frames. c3d_fc6: every 16th; the last segment of a clip may reach beyond
        its end and then shows its last frame again and again. static: every frame. frames: none.
        """
        if self.kind == "frames":
            return []
        end = num_frames - self.window + 1 if self.kind == "i3d" else num_frames
        return list(range(0, end, self.step))

    def spec(self) -> dict:
        """Everything about this model that decides its features; part of the table's key."""
        if self.kind == "frames":
            return {
                "network": self.network,
                "picture": [self.width, self.height],
                "jpeg_quality": JPEG_QUALITY,
                "appearance_version": VERSION,
            }
        return {
            "network": self.network,
            "weights_sha256": self.weights_sha256,
            "picture": [self.width, self.height],
            "crop": self.crop,
            "window": self.window,
            "step": self.step,
            "rounding": "half precision",
            "appearance_version": VERSION,
        }


def find_appearance_model(
    kind: str, weights: Path | None, random_weights: bool, static_model: str
) -> AppearanceModel:
    """Describe the network of a kind, after proving that its weights fit.

    Args:
        kind: i3d, c3d_fc6, static or frames.
        weights: file with the tensors; see `appearance_network` for the layouts.
        random_weights: run an untrained network instead of refusing when there is no file.
        static_model: timm's name of the network of kind static.

    Raises:
        ConfigError: no weights and not `random_weights`, both, either of them for kind frames, an unknown
            timm network, or a file that does not fit.
        SecurityError: the file needs Python objects to be unpickled.
    """
    described = _KINDS[kind]
    name = {"i3d": "i3d", "c3d_fc6": "c3d", "static": static_model, "frames": "jpeg"}[kind]
    if kind == "static":
        _check_timm_name(name, described.crop)
    _check_choice(kind, weights, random_weights)
    digest = "" if kind == "frames" else f"random:{RANDOM_SEED}"
    if weights is not None:
        import torch

        tensors, digest = read_weights(weights)
        with torch.device("meta"):  # names and shapes, no memory
            network = build(kind, name)
        fitting(network, kind, tensors, weights)
        weights = weights.absolute()
    return AppearanceModel(kind, name, weights, digest, *described)


def _check_choice(kind: str, weights: Path | None, random_weights: bool) -> None:
    if kind == "frames" and (weights is not None or random_weights):
        raise ConfigError(
            "extract.kind", "frames runs no network", "Leave out --weights and --random-weights"
        )
    if weights is not None and random_weights:
        raise ConfigError("extract.random_weights", "there is a weights file too", "Leave out one of the two")
    if kind != "frames" and weights is None and not random_weights:
        raise ConfigError(
            "extract.weights",
            f"kind {kind} needs a weights file, and none is shipped",
            "Give --weights FILE, or --random-weights to try the pipeline with an untrained network",
        )


def _check_timm_name(name: str, side: int) -> None:
    """Only networks inside timm: names such as hf-hub:... would reach for the internet."""
    import timm

    try:
        settings = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # resnet18.tag with a tag that timm does not have
        settings = None
    if settings is None:
        near = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.3)
        raise ConfigError(
            "extract.static_model",
            f"{name!r} is no network of timm",
            f"Did you mean {near[0]}?" if near else "See timm.list_models()",
        )
    if settings.fixed_input_size and settings.input_size[-1] != side:
        raise ConfigError(
            "extract.static_model",
            f"{name} reads pictures of {settings.input_size[-1]} px only, and kind static gives {side} px",
            "Choose a convolutional network, e.g. regnety_002 or resnet34",
        )


@dataclass(frozen=True)
class AppearanceStage:
    """Reads decoded rows (whole frames at the model's size); gives rows of the `features` table.

    Args:
        model: what to compute.
        frames_per_batch: frames per forward pass; windows run together across clips.
        use_gpu: run on the first CUDA device the worker sees.
        precision: fp32, bf16, fp16 or auto.
    """

    model: AppearanceModel
    frames_per_batch: int
    use_gpu: bool
    precision: str

    def setup(self) -> AppearanceNetwork | None:
        if self.model.kind == "frames":
            return None
        import torch

        torch.set_flush_denormal(True)  # tiny activations slow CPU convolutions down
        model, device = self.model, "cuda" if self.use_gpu else "cpu"
        return AppearanceNetwork(
            model.kind, model.network, model.weights, model.weights_sha256, device, self.precision
        )

    def process(self, state: AppearanceNetwork | None, rows: pa.Table) -> Iterator[pa.Table]:
        clips = rows.to_pylist()
        decoded = [clip for clip in clips if clip["status"] == "ok"]
        frames = [_frames(clip, self.model) for clip in decoded]
        if state is None:
            results = iter([_jpeg_row(clip, images) for clip, images in zip(decoded, frames, strict=True)])
        else:
            found = _describe(state, self.model, frames, self.frames_per_batch)
            results = iter(
                [
                    _feature_row(clip, self.model, features)
                    for clip, features in zip(decoded, found, strict=True)
                ]
            )
        finished = [
            next(results) if clip["status"] == "ok" else rejected_row(FEATURE_PARTS, clip) for clip in clips
        ]
        yield pa.Table.from_pylist(finished, schema=FEATURE_PARTS)


def _frames(clip: dict, model: AppearanceModel) -> np.ndarray:
    """(T, h, w, 3) uint8 of a part, cut to the middle.

    Raises:
        ValueError: parts that are not cut where this kind needs it; the fault of the program, not the clip.
    """
    images = np.frombuffer(clip["frames"], np.uint8).reshape(-1, model.height, model.width, 3)
    full = model.frames_per_part
    if not (clip["last"] or len(images) == full):
        raise ValueError(f"{clip['uri']}: part {clip['part']} holds {len(images)} frames instead of {full}")
    if model.kind == "i3d" and len(images) not in (0, full):
        raise ValueError(f"{clip['uri']}: i3d reads {full} frames, got {len(images)}")
    return cut_middle(images, model.crop)


def cut_middle(images: np.ndarray, side: int) -> np.ndarray:
    """(T, h, w, 3) -> (T, side, side, 3) from the middle, half a pixel further right or down if it is odd.

    That is columns 44 to 155 of 200 and 30 to 141 of 171, as the research code has it. side 0 = unchanged.
    """
    if not side:
        return images
    top, left = ((extent - side + 1) // 2 for extent in images.shape[1:3])
    return images[:, top : top + side, left : left + side]


def _describe(
    network: AppearanceNetwork, model: AppearanceModel, clips: list[np.ndarray], frames_per_batch: int
) -> list[np.ndarray]:
    """(S, D) of each clip; batches run across clips, so short clips fill them too."""
    windows = [(images, start) for images in clips for start in model.starts(len(images))]
    size = max(1, frames_per_batch // model.window)
    found = [
        network.features(np.stack([_window(images, start, model.window) for images, start in batch]))
        for batch in (windows[first : first + size] for first in range(0, len(windows), size))
    ]
    features = np.concatenate(found) if found else np.empty((0, 0), np.float32)
    cuts = np.cumsum([len(model.starts(len(images))) for images in clips])[:-1]
    return np.split(features, cuts) if clips else []


def _window(images: np.ndarray, start: int, length: int) -> np.ndarray:
    """`length` frames from `start`; beyond the end the last one stands still."""
    return images[np.minimum(np.arange(start, start + length), len(images) - 1)]


def _feature_row(clip: dict, model: AppearanceModel, features: np.ndarray) -> dict:
    with np.errstate(over="ignore"):
        rounded = features.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        largest = np.abs(features[np.isfinite(features)]).max(initial=0)
        cause = (
            f"{model.network} gave {largest:.3g}, beyond half precision (65504)"
            if np.isfinite(features).all()
            else f"{model.network} gave values that are not finite"
        )
        return rejected_row(FEATURE_PARTS, {**clip, "error_code": "bad_features", "error_message": cause})
    num_segments, num_channels = features.shape
    offset = clip["part"] * model.frames_per_part
    return empty_row(
        FEATURE_PARTS,
        **{name: clip[name] for name in _CARRIED},
        status="ok",
        num_frames=len(clip["frame_index"]),
        frame_index=clip["frame_index"],
        time_s=clip["time_s"],
        num_segments=num_segments,
        num_channels=num_channels,
        segment_start=[offset + start for start in model.starts(len(clip["frame_index"]))],
        features=rounded.ravel(),
    )


def _jpeg_row(clip: dict, images: np.ndarray) -> dict:
    return empty_row(
        FEATURE_PARTS,
        **{name: clip[name] for name in _CARRIED},
        status="ok",
        num_frames=len(images),
        frame_index=clip["frame_index"],
        time_s=clip["time_s"],
        jpeg=[encode_jpeg(image) for image in images],
    )


def encode_jpeg(image: np.ndarray) -> bytes:
    """(h, w, 3) uint8 RGB -> JPEG of quality `JPEG_QUALITY`, colours at half resolution."""
    import cv2

    done, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError(f"OpenCV could not encode a picture of shape {image.shape}")
    return encoded.tobytes()


_CARRIED = ("clip_id", "person", "part", "last", *CARRIED)
