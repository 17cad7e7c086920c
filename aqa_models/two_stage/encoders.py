"""An encoder beside the paper's GRU: a temporal convolution network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_KERNEL = 5
_CONVOLUTIONS = 2  # of a layer


class TcnEncoder(nn.Module):
    """Dilated convolutions over time with residual connections (Bai, Kolter, Koltun 2018, not causal).

    A layer is two convolutions of 5 frames, dilated by 4^i and 2 * 4^i; each is followed by a layer norm over
    the channels and ReLU and added to its input. Two layers see 61 frames. States are zero on padding before
    every convolution, so padding changes nothing.

    Args:
        num_features: F.
        units: W; the states are 2 W wide, as those of a bidirectional GRU of W units.
        layers: number of layers.
    """

    def __init__(self, num_features: int, units: int, layers: int):
        super().__init__()
        self.width = 2 * units
        self.widen = nn.Linear(num_features, self.width)
        dilations = [2**step for step in range(_CONVOLUTIONS * layers)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(self.width, self.width, _KERNEL, dilation=d, padding=d * (_KERNEL // 2))
            for d in dilations
        )
        self.norms = nn.ModuleList(nn.LayerNorm(self.width) for _ in dilations)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B, T) -> states (B, T, 2W), zero on padding; mean of each layer (layers, B, 2W)."""
        shown = valid[..., None].to(x.dtype)
        states, means = self.widen(x) * shown, []
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            found = convolution(states.transpose(1, 2)).transpose(1, 2)
            states = (states + F.relu(norm(found))) * shown
            means.append(states.sum(dim=1) / shown.sum(dim=1))
        return states, torch.stack(means[_CONVOLUTIONS - 1 :: _CONVOLUTIONS])
