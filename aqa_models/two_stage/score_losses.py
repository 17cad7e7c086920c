"""What an expert pays for wrong scores: distance to each, and order among them."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

HUBER = 0.5  # deviations: errors above it count as their size, not as its square
MARGIN = 0.5  # deviations: pairs further apart need not be pushed further


def score_loss(predicted: Tensor, target: Tensor, kind: Literal["squared", "huber"]) -> Tensor:
    """(B,) standardised scores, (B,) true ones -> (B,) squared error, or Huber's loss divided by its bend."""
    if kind == "squared":
        return (predicted - target).square()
    return F.smooth_l1_loss(predicted, target, beta=HUBER, reduction="none")


def ranking_loss(predicted: Tensor, target: Tensor, group: Tensor, counts: Tensor) -> Tensor:
    """Hinge on the pairs that the judge put in an order.

    Mean over pairs (i, j) of one group with target_i > target_j of
    max(0, min(target_i - target_j, MARGIN) - (predicted_i - predicted_j)).

    Args:
        predicted: (B,) standardised scores.
        target: (B,) true ones.
        group: (B,) int64, only clips of the same one (the action type) are compared.
        counts: (B,) bool, clips that take part.

    Returns:
        Scalar; 0 where no pair is in order.
    """
    wanted = target[:, None] - target
    found = predicted[:, None] - predicted
    pairs = (wanted > 0) & (group[:, None] == group) & (counts[:, None] & counts)
    loss = torch.relu(wanted.clamp(max=MARGIN) - found).masked_fill(~pairs, 0.0).sum()
    return loss / pairs.sum().clamp(min=1)
