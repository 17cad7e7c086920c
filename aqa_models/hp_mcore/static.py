"""Static visual encoder: an image network per frame, with gated shifts in time (paper figure 2)."""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aqa_models.hp_mcore.recompute import recomputed

# Names of HpMcoreConfig.static_network (without _gsm) -> timm's.
_NETWORKS = {
    "rny002": "regnety_002",
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
}
_GATED = "_gsm"


def shifted_channels(channels: int) -> int:
    """How many of C channels a gated shift folds: a quarter, rounded up to a multiple of 4."""
    return -(-channels // 16) * 4


class GatedShift(nn.Module):
    """Gated Shift Module (Sudhakaran et al., CVPR 2020): a gate per pixel says what moves by one frame.

    The gates of the first half of the folded channels let through what comes from the next frame, those of
    the second half from the previous one; beyond the ends there is nothing. What a gate holds back stays.
    The gates start at 0, so that nothing moves. (The released code also permutes the folded channels
    afterwards; the convolution that follows can undo that by its weights, but pretrained ones would not fit.)
    """

    def __init__(self, channels: int):
        super().__init__()
        self.fold = shifted_channels(channels)
        self.frames = 1  # T, set before each pass: the images of a clip lie one after the other
        self.norm = nn.BatchNorm3d(self.fold)
        self.gate = nn.Conv3d(self.fold, 2, 3, padding=1, groups=2)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B T, C, h, w) -> the same shape."""
        # Channels last is how the network's images lie in memory, so permuting moves nothing.
        clips = x.permute(0, 2, 3, 1).unflatten(0, (-1, self.frames))  # (B, T, h, w, C)
        first, second, rest = clips.tensor_split((self.fold // 2, self.fold), dim=-1)
        active = F.relu(self.norm(clips[..., : self.fold].permute(0, 4, 1, 2, 3)))
        gates = torch.tanh(self.gate(active)).permute(0, 2, 3, 4, 1)  # (B, T, h, w, 2)
        forth, back = first * gates[..., :1], second * gates[..., 1:]
        from_next = F.pad(forth[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))
        from_previous = F.pad(back[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
        mixed = torch.cat([first - forth + from_next, second - back + from_previous, rest], dim=-1)
        return mixed.flatten(0, 1).permute(0, 3, 1, 2)

    def before(self, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """The same as a hook that runs before a convolution."""
        return (self(inputs[0]),)


class StaticEncoder(nn.Module):
    """Frames -> one vector per frame.

    `network` is a plain timm network with timm's names: weights are loaded into it. The gated shifts lie
    beside it, in `shifts`, and run before the first convolution of each residual block.

    Args:
        name: a value of `HpMcoreConfig.static_network`.
        freeze_norms: batch normalisation keeps its statistics also in training (its weights still learn),
            as in the released code.
        checkpoint: computes the activations again in the backward pass: less memory, more time.

    Attributes:
        width: D, 368 (rny002), 512 (resnet18, resnet34) or 2048 (resnet50).

    Raises:
        ValueError: a name that is none of these.
    """

    def __init__(self, name: str, freeze_norms: bool = True, checkpoint: bool = False):
        super().__init__()
        plain = name.removesuffix(_GATED)
        if plain not in _NETWORKS:
            known = ", ".join(f"{known}[{_GATED}]" for known in _NETWORKS)
            raise ValueError(f"unknown static network {name!r}; known: {known}")
        self.network = timm.create_model(_NETWORKS[plain], pretrained=False, num_classes=0)
        self.width: int = self.network.num_features  # type: ignore[assignment]
        self.freeze_norms, self.checkpoint = freeze_norms, checkpoint
        self.shifts = nn.ModuleList()
        for conv in first_convolutions(self.network) if name.endswith(_GATED) else []:
            shift = GatedShift(conv.in_channels)
            conv.register_forward_pre_hook(shift.before)
            self.shifts.append(shift)

    def train(self, mode: bool = True) -> StaticEncoder:
        super().train(mode)
        if self.freeze_norms:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, frames: Tensor) -> Tensor:
        """Features of the frames.

        Args:
            frames: (B, T, 3, h, w) normalised RGB.

        Returns:
            (B, T, D) float32.

        Raises:
            ValueError: another shape.
        """
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise ValueError(f"the static encoder needs (B, T, 3, h, w), got {tuple(frames.shape)}")
        for shift in self.shifts:
            shift.frames = frames.shape[1]  # type: ignore[assignment]
        x = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        again = self.checkpoint and torch.is_grad_enabled()
        for part in self.network.children():  # stem, stages, pool: these networks of timm are chains
            x = recomputed(part, x, self) if again else part(x)
        return x.float().unflatten(0, frames.shape[:2])


def first_convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """The first convolution of each residual block of a timm RegNet or ResNet, in order."""
    blocks = [
        module for module in network.modules() if hasattr(module, "conv1") and hasattr(module, "downsample")
    ]
    return [getattr(block.conv1, "conv", block.conv1) for block in blocks]  # RegNet wraps it with its norm
