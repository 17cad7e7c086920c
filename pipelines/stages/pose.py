"""Pose estimation by any top-down MMPose network, batched over frames of several clips."""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from aqa_models.skeletons import skeleton
from pipelines.errors import ConfigError
from pipelines.schema import CARRIED, POSE_PARTS, empty_row, rejected_row
from pipelines.stages.pictures import box_to_center_scale, fix_aspect

if TYPE_CHECKING:
    import torch
    from mmengine import Config

SHIPPED = "aqa-rendered"
VERSION = 2  # raise when the same input gives other keypoints

# Most frames per forward pass on a processor, whose cache larger ones leave: measured for RTMPose-t in bf16
# 6.8 ms of processor time per frame in batches of 16, 7.9 ms of 64; for HRNet-w48 16 is no worse than 8.
CPU_BATCH = 16

# MMPose names its keypoint sets by data set; ours are named by topology.
_SKELETONS = {"coco": "coco17", "humanart": "coco17", "mpii": "mpii16", "halpe26": "halpe26"}


@dataclass(frozen=True)
class PoseModel:
    """Which network: a config name and its weights; small enough to travel to every worker."""

    name: str
    weights: Path
    weights_sha256: str
    width: int
    height: int
    padding: float
    skeleton: str


def find_pose_model(name: str, weights: Path | None) -> PoseModel:
    """Look a network up by the name of its config in the package or the MMPose zoo.

    Raises:
        ConfigError: unknown config name (the nearest is named), weights missing, or not a top-down
            network with a known skeleton.
    """
    if name == SHIPPED:
        from pipelines.rendered.network import WEIGHTS

        weights = weights or WEIGHTS
    elif weights is None:
        raise ConfigError("extract.weights", f"{name} needs a weights file", "Give --weights FILE")
    if not weights.is_file():
        raise ConfigError("extract.weights", f"{weights} does not exist", "Give the path of a weights file")
    config = read_pose_config(name)
    pipeline = config.test_dataloader.dataset.pipeline
    steps = {step["type"].rsplit(".", 1)[-1]: step for step in pipeline}
    if "TopdownAffine" not in steps:
        raise ConfigError("extract.pose_config", f"{name} is no top-down network", "Choose a topdown config")
    package = config.model.backbone.type.rpartition(".")[0].partition(".")[0]
    if package and importlib.util.find_spec(package) is None:
        cause = f"{name} needs the package {package}, which is not installed"
        raise ConfigError("extract.pose_config", cause, "Install it or choose another network")
    width, height = steps["TopdownAffine"]["input_size"]
    padding = steps["GetBBoxCenterScale"].get("padding", 1.25)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return PoseModel(name, weights.absolute(), digest, width, height, padding, skeleton_of(config, name))


def read_pose_config(name: str) -> Config:
    """The MMEngine config of a name; only files inside the installed packages are ever executed."""
    from pipelines.stages import mmpose_compat
    from pipelines.stages.zoo import read_zoo_config

    mmpose_compat.install()
    if name == SHIPPED:
        from pipelines.rendered.network import pose_network_config

        return pose_network_config()
    import mmpose

    folder = Path(str(mmpose.__file__)).parent / ".mim" / "configs"
    return read_zoo_config(name, {folder: "*.py"}, "extract.pose_config", "the MMPose zoo")


def resolve_precision(precision: str) -> str:
    """`auto` as a concrete number format, which can enter the key of a table; others pass through.

    It is decided by the machine that plans: with a GPU bf16 (fp16 before Ampere), else bf16 where the
    processor multiplies it natively (AVX512-bf16 or AMX), else fp32.
    """
    if precision != "auto":
        return precision
    import torch

    if torch.cuda.is_available():
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"


class PoseNetwork:
    """An MMPose network ready to run on crops.

    Args:
        model: config name and weights.
        device: `cpu` or `cuda`.
        precision: fp32, bf16 or fp16, of the backbone and neck; the head always runs in fp32.
        flip_test: average the prediction with that of the mirrored crop, as MMPose's `flip_test` does.
        compile: compile backbone and neck with torch.compile; a processor then needs a C++ compiler.

    Raises:
        ConfigError: the weights do not fit the config, fp16 on a processor, or a flip test of a network
            trained on the joints of several data sets.
    """

    def __init__(
        self,
        model: PoseModel,
        device: str,
        precision: str = "fp32",
        flip_test: bool = False,
        compile: bool = False,
    ):
        import torch

        from pipelines.stages import mmpose_compat

        if precision == "fp16" and device == "cpu":
            raise ConfigError("extract.precision", "fp16 needs a GPU", "Choose bf16 or fp32")
        self.model, self.device, self.flip_test = model, device, flip_test
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        config = read_pose_config(model.name)
        # The config's own flip settings (mode, shift) stay: they belong to how it was trained.
        self.test_cfg = {**config.model.get("test_cfg", {}), "flip_test": flip_test}
        self.test_cfg["output_heatmaps"] = False
        if flip_test and "output_keypoint_indices" in self.test_cfg:
            cause = f"{model.name} predicts more joints than it gives, whose mirror images are not known here"
            raise ConfigError("extract.flip_test", cause, "Leave the flip test out for this network")
        config.model.test_cfg = self.test_cfg
        config.model.backbone.init_cfg = None  # it names weights on the network
        # Not mmpose.apis: it also loads the data sets and visualisers, seconds that every actor would pay.
        from mmcv.cnn import fuse_conv_bn
        from mmengine.registry import init_default_scope
        from mmpose.models import build_pose_estimator
        from mmpose.structures import PoseDataSample

        init_default_scope("mmpose")
        self.network = build_pose_estimator(config.model)
        mmpose_compat.load_weights(self.network, model.weights)
        # Faster on a CPU (docs/decisions.md); keypoints stay equal to 1e-3 px (test_pose.py).
        self.network.backbone = fuse_conv_bn(self.network.backbone)
        self.network.to(device, memory_format=torch.channels_last).eval()
        self._features = self.network.extract_feat
        if compile:
            self._features = torch.compile(self._features)
        # All that the heads of top-down networks ask of MMPose's samples, and only of the first one.
        flips = skeleton(model.skeleton).flip_order
        size = (model.width, model.height)
        self._sample = PoseDataSample(metainfo={"flip_indices": flips, "input_size": size})
        preprocessor = self.network.data_preprocessor
        # MMPose's pictures are BGR, ours RGB.
        self._swap_channels = not preprocessor._channel_conversion
        self._mean, self._std = preprocessor.mean.to(device), preprocessor.std.to(device)

    def predict(
        self, crops: np.ndarray, centers: np.ndarray, scales: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints of a batch of crops.

        Args:
            crops: (B, height, width, 3) uint8 RGB, made by the decode stage.
            centers: (B, 2) centre of each box, px of the upright frame.
            scales: (B, 2) width and height of each padded box, px.

        Returns:
            keypoints (B, J, 2) float32 px of the upright frame, confidence (B, J) in [0, 1].
        """
        import torch

        with torch.inference_mode():
            inputs = self._normalise(crops)
            features = self._run(inputs)
            if self.flip_test:
                features = [features, self._run(inputs.flip(-1))]
            found = self.network.head.predict(features, [self._sample], test_cfg=self.test_cfg)
        found = found[0] if isinstance(found, tuple) else found  # heads with visibility give a pair
        keypoints = np.concatenate([instances.keypoints for instances in found])[..., :2]
        confidence = np.concatenate([instances.keypoint_scores for instances in found])
        chosen = self.test_cfg.get("output_keypoint_indices")
        if chosen is not None:
            keypoints, confidence = keypoints[:, chosen], confidence[:, chosen]
        size = np.array([self.model.width, self.model.height])
        centers, scales = centers[:, None], scales[:, None]
        keypoints = keypoints / size * scales + centers - 0.5 * scales
        return keypoints.astype(np.float32), np.clip(confidence, 0.0, 1.0).astype(np.float32)

    def _normalise(self, crops: np.ndarray) -> torch.Tensor:
        """(B, 3, height, width) float32, channels last: the crops' own order in memory."""
        import torch

        if self._swap_channels:
            crops = np.ascontiguousarray(crops[..., ::-1])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            pixels = torch.from_numpy(crops)
        pixels = pixels.to(self.device).permute(0, 3, 1, 2).float()
        return pixels.sub_(self._mean).div_(self._std)

    def _run(self, inputs: torch.Tensor) -> Any:
        """Features in fp32, worked out in the chosen precision."""
        import torch

        half = self.dtype != torch.float32
        with torch.autocast(self.device, self.dtype if half else torch.bfloat16, enabled=half):
            features = self._features(inputs)
        return _to_float(features) if half else features


def _to_float(features: Any) -> Any:
    """Feature maps as fp32; some backbones give lists of lists of them."""
    if isinstance(features, (list, tuple)):
        return type(features)(_to_float(feature) for feature in features)
    return features.float()


@dataclass(frozen=True)
class PoseStage:
    """Reads decoded rows (crops as bytes); gives rows of the `poses` table.

    `precision` must be concrete (`resolve_precision`), for it decides the keypoints.
    """

    model: PoseModel
    frames_per_batch: int
    use_gpu: bool
    precision: str = "fp32"
    flip_test: bool = False
    compile: bool = False

    def setup(self) -> PoseNetwork:
        import torch

        torch.set_flush_denormal(True)  # measured: tiny activations slow CPU convolutions down manifold
        device = "cuda" if self.use_gpu else "cpu"
        return PoseNetwork(self.model, device, self.precision, self.flip_test, self.compile)

    def process(self, state: PoseNetwork, rows: pa.Table) -> Iterator[pa.Table]:
        clips = rows.to_pylist()
        decoded = [clip for clip in clips if clip["status"] == "ok"]
        most = self.frames_per_batch if self.use_gpu else min(self.frames_per_batch, CPU_BATCH)
        results = iter(_estimate(state, decoded, most))
        finished = [
            _pose_row(clip, self.model, *next(results))
            if clip["status"] == "ok"
            else rejected_row(POSE_PARTS, clip)
            for clip in clips
        ]
        yield pa.Table.from_pylist(finished, schema=POSE_PARTS)


def _estimate(
    network: PoseNetwork, clips: list[dict], frames_per_batch: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Keypoints and confidence of each clip; batches run across clips, so short clips fill them too."""
    if not clips:
        return []
    model = network.model
    shape = (-1, model.height, model.width, 3)
    frames = [np.frombuffer(clip["frames"], np.uint8).reshape(shape) for clip in clips]
    centers, scales = [], []
    for clip, images in zip(clips, frames, strict=True):
        boxes = np.asarray(clip["box"], np.float32).reshape(len(images), 4)
        for box in boxes:
            center, scale = box_to_center_scale(tuple(box), model.padding)
            centers.append(center)
            scales.append(fix_aspect(scale, model.width, model.height))
    crops, center, scale = np.concatenate(frames), np.stack(centers), np.stack(scales)
    parts = []
    for start in range(0, len(crops), frames_per_batch):
        batch = slice(start, start + frames_per_batch)
        parts.append(network.predict(crops[batch], center[batch], scale[batch]))
    cuts = np.cumsum([len(images) for images in frames])[:-1]
    keypoints = np.split(np.concatenate([part[0] for part in parts]), cuts)
    confidence = np.split(np.concatenate([part[1] for part in parts]), cuts)
    return list(zip(keypoints, confidence, strict=True))


def _pose_row(clip: dict, model: PoseModel, keypoints: np.ndarray, confidence: np.ndarray) -> dict:
    if not (np.isfinite(keypoints).all() and np.isfinite(confidence).all()):
        return rejected_row(
            POSE_PARTS,
            {
                **clip,
                "error_code": "bad_pose",
                "error_message": f"{model.name} gave values that are not finite",
            },
        )
    num_frames, num_joints, num_coordinates = keypoints.shape
    return empty_row(
        POSE_PARTS,
        **{name: clip[name] for name in _CARRIED},
        status="ok",
        skeleton=model.skeleton,
        unit="px",
        num_frames=num_frames,
        num_joints=num_joints,
        num_coordinates=num_coordinates,
        frame_index=clip["frame_index"],
        time_s=clip["time_s"],
        keypoints=keypoints.ravel(),
        confidence=confidence.ravel(),
        box=clip["box"],
    )


_CARRIED = ("clip_id", "person", "part", "last", *CARRIED)


def skeleton_of(config: Config, name: str) -> str:
    dataset = config.test_dataloader.dataset
    source = dataset.get("metainfo", {}).get("from_file", "")
    described = Path(source).stem or dataset.type.removesuffix("Dataset").lower()
    if described not in _SKELETONS:
        raise ConfigError(
            "extract.pose_config",
            f"{name} predicts the keypoints of {described!r}, a skeleton not known here",
            f"Choose a network for one of: {', '.join(sorted(_SKELETONS))}",
        )
    return _SKELETONS[described]
