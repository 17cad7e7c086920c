from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from aqa_models.two_stage.recurrent import Recurrent
from aqa_models.two_stage.sequence import pad_front

LENGTHS = (4, 11, 1, 7)


def torch_twin(ours: Recurrent, kind, inputs: int, layers: int):
    """torch's stacked layer with the same weights."""
    twin = kind(inputs, ours.units, layers, batch_first=True, bidirectional=ours.directions == 2)
    for index, cell in enumerate(ours.cells):
        suffix = f"_l{index // ours.directions}" + "_reverse" * (index % ours.directions)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(twin, name + suffix).data = getattr(cell, name + "_l0").data
    return twin


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_equals_torch_on_packed_sequences(kind, layers, bidirectional):
    torch.manual_seed(0)
    ours = Recurrent(kind, 5, 3, layers, bidirectional)
    for bias in (p for n, p in ours.named_parameters() if "bias" in n):
        nn.init.normal_(bias)
    items = [torch.randn(n, 5) for n in LENGTHS]
    x, valid = pad_front(items)
    x = x.masked_fill(~valid[..., None], 1e6)  # padding must not be read
    states, final = ours(x, valid)
    packed, last = torch_twin(ours, kind, 5, layers)(pack_sequence(items, enforce_sorted=False))
    want, _ = pad_packed_sequence(packed, batch_first=True)
    for row, n in enumerate(LENGTHS):
        torch.testing.assert_close(states[row, -n:], want[row, :n])
        assert (states[row, : 11 - n] == 0).all()
    last = last[0] if isinstance(last, tuple) else last
    last = last.view(layers, ours.directions, len(LENGTHS), 3).transpose(1, 2).flatten(2)
    torch.testing.assert_close(final, last)


def test_initial_state_is_used():
    torch.manual_seed(0)
    ours = Recurrent(nn.GRU, 5, 3, 2, False)
    items = [torch.randn(n, 5) for n in LENGTHS]
    h0 = torch.randn(2, 4, 3)
    states, _ = ours(*pad_front(items), h0)
    packed, _ = torch_twin(ours, nn.GRU, 5, 2)(pack_sequence(items, enforce_sorted=False), h0)
    want, _ = pad_packed_sequence(packed, batch_first=True)
    torch.testing.assert_close(states[0, -4:], want[0, :4])


def test_recurrent_weights_start_orthogonal():
    cell = Recurrent(nn.GRU, 5, 4, 1, False).cells[0]
    for gate in cell.weight_hh_l0.split(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(4))
