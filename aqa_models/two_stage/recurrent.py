"""Recurrent layers over front-padded batches, in which padding changes nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """Stacked GRU or LSTM, one or two directions, that reads the valid frames only.

    It equals torch's own layer on packed sequences (tests), but trains faster on a CPU: the backward
    pass of a packed GRU clears a buffer of the whole batch at every frame, so its time grows with the
    square of the length.

    Args:
        kind: nn.GRU or nn.LSTM.
        num_inputs: F.
        units: W, per direction.
        layers: number of stacked layers.
        bidirectional: read backwards too.
    """

    def __init__(
        self,
        kind: type[nn.GRU] | type[nn.LSTM],
        num_inputs: int,
        units: int,
        layers: int,
        bidirectional: bool,
    ):
        super().__init__()
        self.units, self.directions = units, 2 if bidirectional else 1
        sizes = [num_inputs] + [self.directions * units] * (layers - 1)
        self.cells = nn.ModuleList(
            kind(size, units, batch_first=True) for size in sizes for _ in range(self.directions)
        )
        for cell in self.cells:
            _initialise(cell, units)

    def forward(self, x: Tensor, valid: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Runs over the sequences.

        Args:
            x: (B, T, F), padding before each sequence.
            valid: (B, T) bool, True on the last n_b >= 1 frames of row b.
            h0: initial state of a GRU with one direction, (layers, B, W); None = zeros.

        Returns:
            states (B, T, directions * W), zero on padding, and for each layer the state after the last
            frame and, with two directions, the backward state at the first: (layers, B, directions * W).
        """
        num = valid.sum(dim=1, keepdim=True)
        frame = torch.arange(x.shape[1], device=x.device).expand_as(valid)
        gap = x.shape[1] - num
        # The cells read valid frames first: whatever comes after the last one cannot reach it.
        current = _take(x, (frame + gap) % x.shape[1])
        backwards = torch.where(frame < num, num - 1 - frame, frame)
        finals = []
        for layer in range(len(self.cells) // self.directions):
            outs, lasts = [], []
            for direction in range(self.directions):
                cell = self.cells[layer * self.directions + direction]
                read = _take(current, backwards) if direction else current
                out, _ = cell(read) if h0 is None else cell(read, h0[layer][None].contiguous())
                lasts.append(_take(out, num - 1).squeeze(1))
                outs.append(_take(out, backwards) if direction else out)
            current = torch.cat(outs, dim=-1)
            finals.append(torch.cat(lasts, dim=-1))
        states = _take(current, (frame - gap) % x.shape[1])
        return states.masked_fill(~valid[..., None], 0.0), torch.stack(finals)


def _take(x: Tensor, frames: Tensor) -> Tensor:
    """(B, T, F), (B, S) -> (B, S, F): the frames named, row by row."""
    return x.gather(1, frames[..., None].expand(-1, -1, x.shape[-1]))


def _initialise(cell: nn.Module, units: int) -> None:
    """Orthogonal recurrent and Xavier input weights, zero biases (as MS2L does; the paper is silent)."""
    for name, weight in cell.named_parameters():
        if "bias" in name:
            nn.init.zeros_(weight)
            continue
        for gate in weight.detach().split(units):
            if "weight_hh" in name:
                nn.init.orthogonal_(gate)
            else:
                nn.init.xavier_uniform_(gate)
