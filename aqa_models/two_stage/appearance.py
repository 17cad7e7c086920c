"""The appearance stream of the expert: temporal modules over features of video (paper section 3.2).

A module follows the adaptive block of EAGLE-Eye (Nekoui, Cruz, Cheng, WACV 2021): three temporal
receptive fields side by side. What the paper leaves open is in docs/papers.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aqa_models.two_stage.config import ExpertConfig
from aqa_models.two_stage.norm import BatchNorm

KERNELS = (3, 5, 7)
MIN_SEGMENTS = 4  # two modules halve the time twice


class TemporalModule(nn.Module):
    """Pointwise convolution; depthwise convolutions of 3, 5 and 7 steps, each halved in time; concatenated.

    Args:
        channels: C_in.
        branch_channels: C_b, of each branch; 3 C_b leave.
    """

    def __init__(self, channels: int, branch_channels: int):
        super().__init__()
        self.narrow = nn.Conv1d(channels, branch_channels, 1)
        self.branches = nn.ModuleList(
            nn.Conv1d(branch_channels, branch_channels, size, padding=size // 2, groups=branch_channels)
            for size in KERNELS
        )
        self.norms = nn.ModuleList(BatchNorm(branch_channels) for _ in KERNELS)

    def forward(self, x: Tensor, valid: Tensor, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Halves the time.

        Args:
            x: (B, C_in, S), anything on padding.
            valid: (B, S) bool, True on the first steps of each row.
            counts: (B,) bool, clips that the statistics of training are taken of; None = all.

        Returns:
            (B, 3 C_b, S // 2), zero on padding, and its (B, S // 2) bool: valid where both parts are.
        """
        shown = valid[:, None]
        narrow = self.narrow(x).masked_fill(~shown, 0.0)
        left = valid[:, : valid.shape[1] // 2 * 2].unflatten(1, (-1, 2)).all(dim=2)
        learned = None if counts is None else counts[:, None].expand_as(left)[left]
        found = []
        for convolution, norm in zip(self.branches, self.norms, strict=True):
            pooled = nn.functional.max_pool1d(convolution(narrow), 2).transpose(1, 2)
            # Padding must not enter the statistics of the batch.
            out = pooled.new_zeros(pooled.shape)
            out[left] = norm(pooled[left], learned)
            found.append(out)
        return torch.relu(torch.cat(found, dim=2)).transpose(1, 2), left


class AppearanceStream(nn.Module):
    """Features of video -> one vector per clip.

    `modules`: two `TemporalModule` and the maximum over time. `pooled`: the mean of the features over time
    (the paper's row "C3D as expert", as we read it).

    Args:
        num_channels: D of the features (c3d_fc6 4096, i3d 1024).
        config: which, and how wide.
    """

    def __init__(self, num_channels: int, config: ExpertConfig):
        super().__init__()
        self.stages = nn.ModuleList()
        self.width = num_channels
        if config.appearance == "modules":
            width = len(KERNELS) * config.branch_channels
            self.stages.append(TemporalModule(num_channels, config.branch_channels))
            self.stages.append(TemporalModule(width, config.branch_channels))
            self.width = width

    def forward(self, features: Tensor, valid: Tensor, counts: Tensor | None = None) -> Tensor:
        """(B, S, D), (B, S) bool, True on the first S_b steps -> (B, width); counts see `TemporalModule`.

        Raises:
            ValueError: a row has fewer than `MIN_SEGMENTS` steps, and the stream has modules.
        """
        if not self.stages:
            shown = valid[..., None]
            return features.masked_fill(~shown, 0.0).sum(dim=1) / shown.sum(dim=1)
        if int(valid.sum(dim=1).min()) < MIN_SEGMENTS:
            raise ValueError(f"the appearance modules need at least {MIN_SEGMENTS} segments in every row")
        x = features.transpose(1, 2)
        for stage in self.stages:
            x, valid = stage(x, valid, counts)
        return x.masked_fill(~valid[:, None], -torch.inf).amax(dim=2)


def pad_back(features: list[Tensor]) -> tuple[Tensor, Tensor]:
    """List of (S_b, D) -> (B, S, D) with zeros after each, valid (B, S) bool."""
    padded = nn.utils.rnn.pad_sequence(features, batch_first=True)
    lengths = torch.tensor([len(item) for item in features], device=padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
