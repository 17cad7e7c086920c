"""C3D (Tran et al. 2015) up to fc6, the features of video that AQA papers use.

Modules are named as the tensors of DavideA/c3d-pytorch `c3d.pickle` (Sports-1M) and of the checkpoints of
jfzhang95/pytorch-video-recognition; `from_public_names` also knows that project's `ucf101-caffe.pth`.
fc7 and fc8 are left out. 61,214,464 parameters.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

FEATURES = 4096  # D
FRAMES, SIDE = 16, 112  # fc6 fixes the size of the input
# Weights made by Caffe read pictures of OpenCV: blue, green, red from 0 to 255, less the mean of Sports-1M.
MEAN_BGR = (90.0, 98.0, 102.0)


class C3D(nn.Module):
    """(B, 3, 16, 112, 112) -> (B, 4096)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 3, padding=1)
        self.conv2 = nn.Conv3d(64, 128, 3, padding=1)
        self.conv3a = nn.Conv3d(128, 256, 3, padding=1)
        self.conv3b = nn.Conv3d(256, 256, 3, padding=1)
        self.conv4a = nn.Conv3d(256, 512, 3, padding=1)
        self.conv4b = nn.Conv3d(512, 512, 3, padding=1)
        self.conv5a = nn.Conv3d(512, 512, 3, padding=1)
        self.conv5b = nn.Conv3d(512, 512, 3, padding=1)
        self.fc6 = nn.Linear(8192, FEATURES)
        for layer in self.children():
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """fc6 after its ReLU, as Caffe's feature extractor and EAGLE-Eye give it.

        Args:
            clips: (B, 3, 16, 112, 112), channels in the order of the weights, less their mean.

        Returns:
            (B, 4096) float32, not negative.

        Raises:
            ValueError: another shape.
        """
        if clips.shape[1:] != (3, FRAMES, SIDE, SIDE):
            raise ValueError(f"C3D needs clips of shape (B, 3, 16, 112, 112), got {tuple(clips.shape)}")
        x = F.max_pool3d(F.relu(self.conv1(clips)), (1, 2, 2))
        x = F.max_pool3d(F.relu(self.conv2(x)), 2)
        x = F.max_pool3d(F.relu(self.conv3b(F.relu(self.conv3a(x)))), 2)
        x = F.max_pool3d(F.relu(self.conv4b(F.relu(self.conv4a(x)))), 2)
        x = F.max_pool3d(F.relu(self.conv5b(F.relu(self.conv5a(x)))), 2, padding=(0, 1, 1))
        return F.relu(self.fc6(x.flatten(1))).float()


# ucf101-caffe.pth numbers the layers of two sequences.
_NUMBERED = {
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3a",
    "features.8": "conv3b",
    "features.11": "conv4a",
    "features.13": "conv4b",
    "features.16": "conv5a",
    "features.18": "conv5b",
    "classifier.0": "fc6",
    "classifier.3": "fc7",
    "classifier.6": "fc8",
}


def from_public_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a public file under the names of `C3D`, without fc7 and fc8; others stay as they are."""
    renamed = {}
    for name, value in tensors.items():
        layer, _, leaf = name.rpartition(".")
        layer = _NUMBERED.get(layer, layer)
        if layer not in ("fc7", "fc8"):
            renamed[f"{layer}.{leaf}"] = value
    return renamed
