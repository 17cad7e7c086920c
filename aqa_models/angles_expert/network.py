"""A small temporal convolution network on body angles: the member of the expert that is unlike the kernels.

It reads the angles frame by frame, so it can see what statistics of a whole recording cannot, and errs
elsewhere than they do; its average with them is better than either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from aqa_models.angles_expert.mirror import mirror

LEARNING_RATE, WEIGHT_DECAY, BATCH = 3e-3, 1e-2, 32
AVERAGING = 0.98  # of the weights, per step
_RANKING = 0.3  # weight of the order of two clips of one exercise against their errors
_HIDDEN, _SHIFT = 0.4, 0.1  # in training: share of channels hidden of a clip, deviation of a constant added


@dataclass(frozen=True)
class NetworkSizes:
    """Sizes of `AngleNetwork`: channels D, exercises, width and number of blocks (dilations 1, 2, 4, ...)."""

    channels: int
    exercises: int
    width: int = 32
    blocks: int = 4
    dropout: float = 0.3


class AngleNetwork(nn.Module):
    """Dilated residual convolutions, mean and both extremes over time, one score per clip."""

    def __init__(self, sizes: NetworkSizes):
        super().__init__()
        self.sizes = sizes
        self.entry = nn.Conv1d(sizes.channels, sizes.width, 1)
        self.exercise = nn.Embedding(sizes.exercises, sizes.width)
        self.blocks = nn.ModuleList(
            nn.Conv1d(sizes.width, sizes.width, 3, dilation=2**k, padding=2**k) for k in range(sizes.blocks)
        )
        self.head = nn.Linear(3 * sizes.width, 1)
        nn.init.normal_(self.exercise.weight, std=0.1)

    def forward(self, x: Tensor, valid: Tensor, exercise: Tensor) -> Tensor:
        """Standardised scores.

        Args:
            x: (B, T, D) standardised channels, any value where not valid.
            valid: (B, T) bool, at least one frame per clip.
            exercise: (B,) index.

        Returns:
            (B,).
        """
        real = valid[:, None].to(x.dtype)
        hidden = (self.entry(x.transpose(1, 2)) + self.exercise(exercise)[:, :, None]) * real
        for block in self.blocks:
            step = functional.dropout(functional.gelu(block(hidden)), self.sizes.dropout, self.training)
            hidden = (hidden + step) * real
        mean = hidden.sum(dim=2) / real.sum(dim=2)
        most = hidden.masked_fill(~valid[:, None], -torch.inf).amax(dim=2)
        least = hidden.masked_fill(~valid[:, None], torch.inf).amin(dim=2)
        pooled = torch.cat([mean, most, least], dim=1)
        return self.head(functional.dropout(pooled, self.sizes.dropout, self.training)).squeeze(1)


@dataclass(frozen=True)
class Clips:
    """Inputs of the network: (T, D) float32 per clip, exercise indices (N,), standardised targets (N,)."""

    channels: list[np.ndarray]
    exercise: np.ndarray
    target: np.ndarray


def train(
    clips: Clips,
    sizes: NetworkSizes,
    epochs: int,
    seed: int,
    watch: Callable[[int, AngleNetwork], None] | None = None,
) -> AngleNetwork:
    """Trains with robust and ranking loss on random windows, half of them mirrored.

    Args:
        clips: what to learn from.
        sizes: of the network.
        epochs: passes.
        seed: of weights and draws.
        watch: called with (epochs done, network of averaged weights) every five epochs.

    Returns:
        The network with weights averaged over the steps.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, smooth = AngleNetwork(sizes), AngleNetwork(sizes)
        smooth.load_state_dict(network.state_dict())
        optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        exercise, target = torch.from_numpy(clips.exercise), torch.from_numpy(clips.target).float()
        step = 0
        for epoch in range(1, epochs + 1):
            network.train()
            order = torch.randperm(len(clips.channels), generator=generator)
            for rows in order.chunk(max(1, round(len(order) / BATCH))):
                x, valid = batch([_window(clips.channels[row], draws) for row in rows.tolist()])
                answer = network(_disturb(x), valid, exercise[rows])
                loss = score_loss(answer, target[rows], exercise[rows])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                step += 1
                _average(smooth, network, min(AVERAGING, step / (step + 10)))
            if watch is not None and epoch % 5 == 0:
                watch(epoch, smooth.eval())
    return smooth.eval()


def score_loss(answer: Tensor, target: Tensor, exercise: Tensor) -> Tensor:
    """Huber loss of the scores (B,), and logistic loss of the order of two clips of one exercise."""
    error = functional.smooth_l1_loss(answer, target, beta=0.5)
    apart = target[:, None] - target[None]
    pairs = (exercise[:, None] == exercise[None]) & (apart > 0.25)
    if not pairs.any():
        return error
    return error + _RANKING * functional.softplus(-2 * (answer[:, None] - answer[None])[pairs]).mean()


def batch(channels: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """List of (T_b, D) -> x (B, T, D) with zeros behind, valid (B, T) bool."""
    parts = [torch.from_numpy(np.ascontiguousarray(part)) for part in channels]
    x = nn.utils.rnn.pad_sequence(parts, batch_first=True)
    lengths = torch.tensor([len(part) for part in parts])
    return x, torch.arange(x.shape[1])[None] < lengths[:, None]


@torch.no_grad()
def predict(network: AngleNetwork, channels: list[np.ndarray], exercise: np.ndarray) -> np.ndarray:
    """(N,) standardised scores: the mean of the clip and its mirror image."""
    x, valid = batch(channels)
    mirrored, _ = batch([mirror(part) for part in channels])
    index = torch.from_numpy(exercise)
    both = network(x, valid, index) + network(mirrored, valid, index)
    return (both / 2).double().numpy()


def _window(channels: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """At least half of the frames, mirrored or not."""
    length = max(1, round(len(channels) * draws.uniform(0.5, 1.0)))
    start = draws.integers(len(channels) - length + 1)
    part = channels[start : start + length]
    return mirror(part) if draws.random() < 0.5 else part


def _disturb(x: Tensor) -> Tensor:
    """(B, T, D) with some channels of each clip hidden and all of them shifted a little, as sensors do."""
    shape = (x.shape[0], 1, x.shape[2])
    kept = (torch.rand(shape) >= _HIDDEN) / (1 - _HIDDEN)
    return x * kept + _SHIFT * torch.randn(shape)


@torch.no_grad()
def _average(smooth: AngleNetwork, network: AngleNetwork, keep: float) -> None:
    for old, new in zip(smooth.parameters(), network.parameters(), strict=True):
        old.lerp_(new, 1 - keep)
