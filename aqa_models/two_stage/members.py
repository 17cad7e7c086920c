"""Several experts whose answers are averaged, each of them optionally the moving average of its weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from aqa_models.two_stage.expert import Expert


class Members(nn.Module):
    """Experts that differ in their random starts, and in whom they learn from.

    Args:
        experts: at least one.
        averaging: share of the average that stays when `follow` is called, in [0, 1); 0 = no averages.
    """

    def __init__(self, experts: list[Expert], averaging: float = 0.0):
        super().__init__()
        self.experts, self.averaging = nn.ModuleList(experts), averaging
        self.averages = nn.ModuleList()
        if averaging:
            self.averages = copy.deepcopy(self.experts)
            self.averages.requires_grad_(False)

    @property
    def judges(self) -> nn.ModuleList:
        """The experts that are asked outside of training: the averages if there are any."""
        return self.averages if len(self.averages) else self.experts

    @torch.no_grad()
    def follow(self) -> None:
        """Moves every average towards the present weights; counters and running statistics are copied."""
        for average, expert in zip(self.averages, self.experts, strict=False):
            for held, now in zip(average.parameters(), expert.parameters(), strict=True):
                held.lerp_(now, 1 - self.averaging)
            for held, now in zip(average.buffers(), expert.buffers(), strict=True):
                held.copy_(now)

    def forward(
        self, x: Tensor, valid: Tensor, action: Tensor, video: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """(B, T, F), (B, T), (B,), features of the video -> (B, N): mean score, or mean probability's log."""
        answers = torch.stack([judge(x, valid, action, video) for judge in self.judges])
        if answers.shape[2] == 1:
            return answers.mean(dim=0)
        return answers.softmax(dim=2).mean(dim=0).log()
