"""Batch normalisation that is the same whether one worker or several share a batch."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the batch of all workers, on CPU and GPU alike.

    torch's SyncBatchNorm runs on GPUs only; without it two workers would train another model than one.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, W) -> (N, W)."""
        if not (
            self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        ):
            return super().forward(input)
        ones = input.new_full((1,), len(input))
        count = dist_functional.all_reduce(ones)
        mean = dist_functional.all_reduce(input.sum(dim=0)) / count
        var = dist_functional.all_reduce((input - mean).square().sum(dim=0)) / count
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        return (input - mean) * torch.rsqrt(var + self.eps) * self.weight + self.bias
