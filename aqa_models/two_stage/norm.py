"""Batch normalisation that is the same whether one worker or several share a batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor, nn
from torch.nn import functional


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the batch of all workers, on CPU and GPU alike.

    torch's SyncBatchNorm runs on GPUs only; without it two workers would train another model than one.
    """

    def forward(self, input: Tensor, counts: Tensor | None = None) -> Tensor:
        """(N, W) -> (N, W).

        Args:
            input: rows to normalise.
            counts: (N,) bool, rows that the statistics of training are taken of; None = all. If fewer than
                two count, the running statistics serve, and stay.
        """
        shared = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if not self.training or (counts is None and not shared):
            return super().forward(input)
        total = dist_functional.all_reduce if shared else torch.clone
        taken = input if counts is None else input[counts]
        count = total(input.new_full((1,), len(taken)))
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        if float(count) < 2:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        mean = total(taken.sum(dim=0)) / count
        var = total((taken - mean).square().sum(dim=0)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        return (input - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias
