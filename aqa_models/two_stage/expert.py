"""The expert without the appearance stream: encoder, BiLSTM, BN-ReLU-FC (paper section 3.2)."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor, nn

from aqa_models.two_stage.config import ExpertConfig
from aqa_models.two_stage.nonexpert import Encoder
from aqa_models.two_stage.recurrent import Recurrent


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the batch of all workers, on CPU and GPU alike.

    torch's SyncBatchNorm runs on GPUs only; without it two workers would train another model than one.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, W) -> (B, W)."""
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


class ExpertHead(nn.Module):
    """BiLSTM over the encoder's states; last forward and first backward state; BN-ReLU-FC."""

    def __init__(self, encoder_width: int, config: ExpertConfig):
        super().__init__()
        self.pooling = config.pooling
        self.lstm = Recurrent(nn.LSTM, encoder_width, config.lstm_units, 1, bidirectional=True)
        self.norm = BatchNorm(2 * config.lstm_units)
        self.out = nn.Linear(2 * config.lstm_units, 1)

    def forward(self, states: Tensor, valid: Tensor) -> Tensor:
        """(B, T, 2W), (B, T) -> (B,) standardised score."""
        states, final = self.lstm(states, valid)
        if self.pooling == "last":
            v_p = final[-1]
        elif self.pooling == "mean":
            v_p = states.sum(dim=1) / valid.sum(dim=1, keepdim=True)
        else:
            v_p = states.masked_fill(~valid[..., None], -torch.inf).amax(dim=1)
        return self.out(torch.relu(self.norm(v_p))).squeeze(-1)


class Expert(nn.Module):
    """Pretrained encoder and head. The score is standardised; its mean and deviation are kept outside."""

    def __init__(self, encoder: Encoder, config: ExpertConfig):
        super().__init__()
        self.encoder = encoder
        self.head = ExpertHead(encoder.width, config)
        if not config.finetune_encoder:
            self.encoder.requires_grad_(False)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """(B, T, F), (B, T) -> (B,) standardised score."""
        states, _ = self.encoder(x, valid)
        return self.head(states, valid)
