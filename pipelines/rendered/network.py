"""The pose network in the package: a small top-down network for the 16 MPII joints, as an MMPose config.

The backbone is RTMPose's CSPNeXt (Jiang et al. 2023, arXiv:2303.07399), narrower; the head predicts
heatmaps, which need far fewer training frames than SimCC. Input is square, as whole frames often are.
Trained on rendered frames only (train_network.py); measure_network.py tells how well it does where.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine import Config

INPUT_SIZE = (192, 192)
"""Width and height of the network's input in pixels."""
WEIGHTS = Path(__file__).with_name("pose_network.safetensors")
PADDING = 1.1
"""The athlete's box grows by this factor before it is cut out."""

# Index of the same joint on the other side, MPII order.
FLIP = (5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10)

HEATMAP_SIZE = (INPUT_SIZE[0] // 4, INPUT_SIZE[1] // 4)

# DARK (Zhang et al. 2020): unbiased Gaussian targets, peaks refined below a heatmap's pixel.
_CODEC = {
    "type": "MSRAHeatmap",
    "input_size": INPUT_SIZE,
    "heatmap_size": HEATMAP_SIZE,
    "sigma": 2.0,
    "unbiased": True,
}

_MODEL = {
    "type": "TopdownPoseEstimator",
    "data_preprocessor": {
        "type": "PoseDataPreprocessor",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "bgr_to_rgb": True,
    },
    "backbone": {
        "_scope_": "mmdet",
        "type": "CSPNeXt",
        "arch": "P5",
        "expand_ratio": 0.5,
        "deepen_factor": 0.167,
        "widen_factor": 0.25,
        "out_indices": (3, 4),
        "channel_attention": True,
        "norm_cfg": {"type": "BN"},
        "act_cfg": {"type": "SiLU"},
    },
    # strides 16 and 32, the latter enlarged, side by side: 128 + 256 channels
    "neck": {"type": "FeatureMapProcessor", "select_index": (0, 1), "concat": True},
    "head": {
        "type": "HeatmapHead",
        "in_channels": 384,
        "out_channels": 16,
        "deconv_out_channels": (64, 64),
        "deconv_kernel_sizes": (4, 4),
        "loss": {"type": "KeypointMSELoss", "use_target_weight": True},
        "decoder": _CODEC,
    },
    "test_cfg": {"flip_test": False},
}


def pose_network_config() -> Config:
    """The network's MMPose config; `mmpose.apis.init_model` builds it after `mmpose_compat.install()`."""
    from copy import deepcopy

    import mmpose
    from mmengine import Config

    pipeline = [
        {"type": "LoadImage"},
        {"type": "GetBBoxCenterScale", "padding": PADDING},
        {"type": "TopdownAffine", "input_size": INPUT_SIZE},
        {"type": "PackPoseInputs"},
    ]
    skeleton = Path(str(mmpose.__file__)).parent / ".mim" / "configs" / "_base_" / "datasets" / "mpii.py"
    dataset = {
        "type": "MpiiDataset",
        "data_mode": "topdown",
        "metainfo": {"from_file": str(skeleton)},
        "pipeline": pipeline,
        "test_mode": True,
    }
    loader = {"batch_size": 64, "num_workers": 0, "dataset": dataset}
    return Config(
        {
            "default_scope": "mmpose",
            "codec": _CODEC,
            "model": deepcopy(_MODEL),
            "train_dataloader": loader,
            "val_dataloader": loader,
            "test_dataloader": loader,
        }
    )
