"""Recurrent layers over front-padded batches, in which padding changes nothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPANS = 8  # more of them leave less padding to read, but smaller matrices to multiply


class Recurrent(nn.Module):
    """Stacked GRU or LSTM, one or two directions, that reads the valid frames only.

    It equals torch's own layer on packed sequences (tests), but trains faster on a CPU: the backward
    pass of a packed GRU clears a buffer of the whole batch at every frame, so its time grows with the
    square of the length. Here the rows are sorted by length and the frames cut into a few spans; each span is
    run with the rows that reach into it, so that padding costs next to no time and no activations.

    Args:
        kind: nn.GRU or nn.LSTM.
        num_inputs: F.
        units: W, per direction.
        layers: number of stacked layers.
        bidirectional: read backwards too.
        pad_literal: read the padding as if it were motion, as the paper probably did.
    """

    def __init__(
        self,
        kind: type[nn.GRU] | type[nn.LSTM],
        num_inputs: int,
        units: int,
        layers: int,
        bidirectional: bool,
        pad_literal: bool = False,
    ):
        super().__init__()
        self.units, self.directions, self.pad_literal = units, 2 if bidirectional else 1, pad_literal
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
            states (B, T, directions * W), zero on padding (unless it is read literally), and for each layer
            the state after the last frame and, with two directions, the backward state at the first:
            (layers, B, directions * W).
        """
        read = torch.ones_like(valid) if self.pad_literal else valid
        num, order = read.sum(dim=1).sort(descending=True, stable=True)
        spans, num = _spans(num.tolist()), num[:, None]
        frame = torch.arange(x.shape[1], device=x.device).expand_as(valid)
        gap = x.shape[1] - num
        # The cells read valid frames first: whatever comes after the last one cannot reach it.
        current = _take(x[order], (frame + gap) % x.shape[1])
        backwards = torch.where(frame < num, num - 1 - frame, frame)
        finals = []
        for layer in range(len(self.cells) // self.directions):
            start = None if h0 is None else h0[layer][order]
            outs, lasts = [], []
            for direction in range(self.directions):
                cell = self.cells[layer * self.directions + direction]
                out = _run(cell, _take(current, backwards) if direction else current, spans, start)
                lasts.append(_take(out, num - 1).squeeze(1))
                outs.append(_take(out, backwards) if direction else out)
            current = torch.cat(outs, dim=-1)
            finals.append(torch.cat(lasts, dim=-1))
        states = _take(current, (frame - gap) % x.shape[1])
        place = order.argsort()
        return states[place].masked_fill(~read[..., None], 0.0), torch.stack(finals)[:, place]


def _spans(lengths: list[int]) -> list[tuple[int, int, int]]:
    """Falling lengths -> (first frame, end, rows that reach beyond the first frame), covering all frames."""
    step = -(-len(lengths) // SPANS)
    ends = sorted(set(lengths[::step]))
    return [
        (begin, end, sum(length > begin for length in lengths))
        for begin, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


def _run(cell: nn.Module, x: Tensor, spans: list[tuple[int, int, int]], start: Tensor | None) -> Tensor:
    """(B, T, F) rows of falling length, start (B, W) -> (B, T, W); zero where no span needs a row."""
    outs = []
    state = None if start is None else start[None]
    for begin, end, rows in spans:
        if isinstance(state, tuple):
            state = tuple(part[:, :rows].contiguous() for part in state)
        elif state is not None:
            state = state[:, :rows].contiguous()
        out, state = cell(x[:rows, begin:end], state)
        outs.append(F.pad(out, (0, 0, 0, 0, 0, len(x) - rows)))
    outs.append(outs[0].new_zeros(len(x), x.shape[1] - spans[-1][1], outs[0].shape[2]))
    return torch.cat(outs, dim=1)


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
