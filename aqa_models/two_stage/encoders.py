"""Encoders beside the paper's GRU: a temporal convolution network, a transformer, a state-space model.

Each returns what the GRU does, states of 2 W numbers, and padding changes nothing.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_KERNEL = 5
_CONVOLUTIONS = 2  # of a layer
_HEADS = 4
_MODES = 16  # of a state-space channel; a mode is a complex number and its conjugate


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


class TransformerEncoder(nn.Module):
    """Self-attention over the frames, norm first (Vaswani et al. 2017; Xiong et al. 2020).

    The place of a frame, counted from the first valid one, is told by sines of 1 to 10,000 frames.

    Args:
        num_features: F.
        units: W; the states are 2 W wide. 2 W must be a multiple of 4 heads.
        layers: number of layers.
    """

    def __init__(self, num_features: int, units: int, layers: int):
        super().__init__()
        self.width = 2 * units
        self.widen = nn.Linear(num_features, self.width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                self.width, _HEADS, 2 * self.width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B, T) -> states (B, T, 2W), zero on padding; mean of each layer (layers, B, 2W)."""
        shown = valid[..., None].to(x.dtype)
        states, means = self.widen(x) + places(valid, self.width).to(x.dtype), []
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=~valid)
            means.append((states * shown).sum(dim=1) / shown.sum(dim=1))
        return states * shown, torch.stack(means)


def places(valid: Tensor, width: int) -> Tensor:
    """(B, T) -> (B, T, width): sines and cosines of the number of valid frames before each frame."""
    place = (valid.cumsum(dim=1) - 1).clamp(min=0).float()
    steps = torch.arange(0, width, 2, device=valid.device)
    angles = place[..., None] * torch.exp(steps * (-math.log(10_000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(2)


class StateSpaceEncoder(nn.Module):
    """Diagonal linear state-space layers, read in both directions (S4D-Lin; Gu, Gupta, Goel, Re 2022).

    A layer is a norm, the long convolution of `StateSpace` each way, GELU and a linear map of both ways,
    added to its input.

    Args:
        num_features: F.
        units: W; the states are 2 W wide.
        layers: number of layers.
    """

    def __init__(self, num_features: int, units: int, layers: int):
        super().__init__()
        self.width = 2 * units
        self.widen = nn.Linear(num_features, self.width)
        self.norms = nn.ModuleList(nn.LayerNorm(self.width) for _ in range(layers))
        self.ways = nn.ModuleList(
            nn.ModuleList([StateSpace(self.width), StateSpace(self.width)]) for _ in range(layers)
        )
        self.mixes = nn.ModuleList(nn.Linear(2 * self.width, self.width) for _ in range(layers))

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F), (B, T) -> states (B, T, 2W), zero on padding; mean of each layer (layers, B, 2W)."""
        shown = valid[..., None].to(x.dtype)
        states, means = self.widen(x) * shown, []
        for norm, ways, mix in zip(self.norms, self.ways, self.mixes, strict=True):
            read = norm(states) * shown
            there = ways[0](read)
            back = ways[1](read.flip(1)).flip(1)
            states = (states + mix(F.gelu(torch.cat([there, back], dim=-1)))) * shown
            means.append(states.sum(dim=1) / shown.sum(dim=1))
        return states, torch.stack(means)


class StateSpace(nn.Module):
    """h' = A h + B u, y = C h + D u in each channel, A diagonal, stepped by zero-order hold.

    Started as S4D-Lin says: A_n = -1/2 + i pi n, B = 1, step log-uniform in .001 to .1.

    Args:
        width: H channels, each with 16 modes of its own.
    """

    def __init__(self, width: int):
        super().__init__()
        low, high = math.log(1e-3), math.log(1e-1)
        self.log_step = nn.Parameter(torch.rand(width) * (high - low) + low)
        self.log_decay = nn.Parameter(torch.full((width, _MODES), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(_MODES).float().repeat(width, 1))
        self.output = nn.Parameter(torch.randn(width, _MODES, 2) * math.sqrt(0.5))
        self.direct = nn.Parameter(torch.randn(width))

    def kernel(self, length: int) -> Tensor:
        """(H, length): the answer to one impulse, without D."""
        poles = torch.complex(-self.log_decay.exp(), self.frequency)
        stepped = poles * self.log_step.exp()[:, None]
        gain = torch.view_as_complex(self.output) * (stepped.exp() - 1) / poles
        powers = (stepped[..., None] * torch.arange(length, device=poles.device)).exp()
        return 2 * torch.einsum("hn,hnl->hl", gain, powers).real

    def forward(self, u: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H); the convolution with the kernel, by Fourier transforms of 2 T frames."""
        frames, told = u.shape[1], u.float().transpose(1, 2)
        spectrum = torch.fft.rfft(self.kernel(frames), 2 * frames) * torch.fft.rfft(told, 2 * frames)
        found = torch.fft.irfft(spectrum, 2 * frames)[..., :frames] + self.direct[:, None] * told
        return found.transpose(1, 2).to(u.dtype)
