"""Recurrent layers over front-padded batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def run_packed(layer: nn.GRU | nn.LSTM, x: Tensor, valid: Tensor, h0: Tensor | None = None):
    """Runs a recurrent layer on the valid frames only, so padding changes nothing.

    Packing needs the valid frames first, the paper pads in front: frames are rolled there and back.

    Args:
        layer: batch-first GRU or LSTM.
        x: (B, T, F), zeros before each sequence.
        valid: (B, T) bool, True on the last n_b >= 1 frames of row b.
        h0: initial state of a GRU, (layers * directions, B, W).

    Returns:
        states (B, T, directions * W), zero on padding, and the final state (layers * directions, B, W).
    """
    lengths = valid.sum(dim=1)
    frames = torch.arange(x.shape[1], device=x.device)
    gap = (x.shape[1] - lengths)[:, None]
    to_front = ((frames + gap) % x.shape[1])[..., None]
    to_back = ((frames - gap) % x.shape[1])[..., None]
    rolled = x.gather(1, to_front.expand_as(x))
    packed = pack_padded_sequence(rolled, lengths.cpu(), batch_first=True, enforce_sorted=False)
    packed_states, final = layer(packed, h0)
    states, _ = pad_packed_sequence(packed_states, batch_first=True, total_length=x.shape[1])
    states = states.gather(1, to_back.expand_as(states))
    return states, final[0] if isinstance(final, tuple) else final


def init_recurrent(layer: nn.Module) -> None:
    """Orthogonal recurrent and Xavier input weights, zero biases (as MS2L does; the paper is silent)."""
    for name, weight in layer.named_parameters():
        if "weight_hh" in name:
            for gate in weight.detach().chunk(weight.shape[0] // weight.shape[1]):
                nn.init.orthogonal_(gate)
        elif "weight_ih" in name:
            for gate in weight.detach().chunk(weight.shape[0] // layer.hidden_size):  # type: ignore[operator]
                nn.init.xavier_uniform_(gate)
        else:
            nn.init.zeros_(weight)
