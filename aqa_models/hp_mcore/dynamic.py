"""Dynamic visual encoder: I3D on overlapping windows (paper figure 2; docs/papers.md)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aqa_models.hp_mcore.recompute import recomputed
from aqa_models.i3d import FEATURES, I3D

WINDOW = 16  # frames that I3D sees at once
STEP = 10  # frames from one window to the next: window k is the frames 10 k to 10 k + 15


def window_count(frames: int) -> int:
    """N windows of a clip of T frames: (T - 16) // 10 + 1, so 9 at 96 frames.

    Raises:
        ValueError: fewer than 16 frames.
    """
    if frames < WINDOW:
        raise ValueError(f"the dynamic encoder needs at least {WINDOW} frames, got {frames}")
    return (frames - WINDOW) // STEP + 1


class DynamicEncoder(nn.Module):
    """Frames -> one vector per window.

    `network` is a plain I3D: weights are loaded into it. All windows go through it as one batch, so its batch
    normalisation in training sees them together.

    Args:
        legacy_logits: keeps the classifier of 400 classes that the released code holds and never calls
            (410,000 parameters, no gradient); only for equal counts.
        checkpoint: computes the activations again in the backward pass: less memory, more time.
    """

    width = FEATURES

    def __init__(self, legacy_logits: bool = False, checkpoint: bool = False):
        super().__init__()
        self.network = I3D()
        self.logits = nn.Conv3d(FEATURES, 400, 1) if legacy_logits else None
        self.checkpoint = checkpoint

    def forward(self, frames: Tensor) -> Tensor:
        """Features of the windows.

        Args:
            frames: (B, T, 3, h, w) normalised RGB; T at least 16, h = w = 112 in the paper.

        Returns:
            (B, N, 1024) float32, N = (T - 16) // 10 + 1. Frames after the last window are not seen.

        Raises:
            ValueError: another shape, or fewer than 16 frames.
        """
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise ValueError(f"the dynamic encoder needs (B, T, 3, h, w), got {tuple(frames.shape)}")
        count = window_count(frames.shape[1])
        windows = frames.unfold(1, WINDOW, STEP).flatten(0, 1)  # (B N, 3, h, w, 16)
        # Channels last in memory: the quickest order for convolutions on processors and on GPUs.
        windows = windows.permute(0, 1, 4, 2, 3).contiguous(memory_format=torch.channels_last_3d)
        return self._pooled(windows).unflatten(0, (len(frames), count))

    def _pooled(self, windows: Tensor) -> Tensor:
        if not (self.checkpoint and torch.is_grad_enabled()):
            return self.network(windows)
        for layer in self.network.children():
            windows = recomputed(layer, windows, self)
        return windows.float().mean((2, 3, 4))
