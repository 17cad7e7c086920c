from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from aqa_models.two_stage.recurrent import SPANS, Recurrent, _spans
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
@pytest.mark.parametrize(
    "lengths", [LENGTHS, (5, 5), (3, 9, 9, 2, 30, 14, 1, 22, 6, 17, 11, 30, 4, 8, 25, 2, 19)]
)
def test_equals_torch_on_packed_sequences(kind, layers, bidirectional, lengths):
    torch.manual_seed(0)
    ours = Recurrent(kind, 5, 3, layers, bidirectional)
    for bias in (p for n, p in ours.named_parameters() if "bias" in n):
        nn.init.normal_(bias)
    items = [torch.randn(n, 5) for n in lengths]
    x, valid = pad_front(items, max(lengths) + 2)
    x = x.masked_fill(~valid[..., None], 1e6)  # padding must not be read
    states, final = ours(x, valid)
    packed, last = torch_twin(ours, kind, 5, layers)(pack_sequence(items, enforce_sorted=False))
    want, _ = pad_packed_sequence(packed, batch_first=True)
    for row, n in enumerate(lengths):
        torch.testing.assert_close(states[row, -n:], want[row, :n])
        assert (states[row, : max(lengths) + 2 - n] == 0).all()
    last = last[0] if isinstance(last, tuple) else last
    last = last.view(layers, ours.directions, len(lengths), 3).transpose(1, 2).flatten(2)
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


def test_gradients_equal_those_of_torch_on_packed_sequences():
    torch.manual_seed(0)
    ours = Recurrent(nn.GRU, 5, 3, 2, True)
    twin = torch_twin(ours, nn.GRU, 5, 2)
    items = [torch.randn(n, 5) for n in LENGTHS]
    states, final = ours(*pad_front(items))
    (states.square().sum() + final.sum()).backward()
    packed, last = twin(pack_sequence(items, enforce_sorted=False))
    (packed.data.square().sum() + last.sum()).backward()
    for index, cell in enumerate(ours.cells):
        suffix = f"_l{index // 2}" + "_reverse" * (index % 2)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            torch.testing.assert_close(getattr(cell, name + "_l0").grad, getattr(twin, name + suffix).grad)


def test_spans_by_hand():
    assert _spans([7, 7, 7]) == [(0, 7, 3)]
    assert _spans([9, 4, 2]) == [(0, 2, 3), (2, 4, 2), (4, 9, 1)]
    many = _spans(list(range(55, 0, -1)))
    assert len(many) <= SPANS
    assert (many[0][0], many[-1][1]) == (0, 55)
    read = sum((end - begin) * rows for begin, end, rows in many)
    assert read < 1.15 * sum(range(56))  # of 55 * 55 when padded


def test_literal_padding_is_torch_on_the_padded_batch():
    torch.manual_seed(0)
    ours = Recurrent(nn.GRU, 5, 3, 2, True, pad_literal=True)
    for bias in (p for n, p in ours.named_parameters() if "bias" in n):
        nn.init.normal_(bias)  # with zero biases a state stays zero on zeros
    x, valid = pad_front([torch.randn(n, 5) for n in LENGTHS])
    states, final = ours(x, valid)
    want, last = torch_twin(ours, nn.GRU, 5, 2)(x)
    torch.testing.assert_close(states, want)
    torch.testing.assert_close(final, last.view(2, 2, 4, 3).transpose(1, 2).flatten(2))


def test_both_ways_of_padding_agree_where_nothing_is_padded():
    torch.manual_seed(0)
    ours = Recurrent(nn.GRU, 5, 3, 2, True)
    x, valid = pad_front([torch.randn(6, 5) for _ in range(3)])
    masked = ours(x, valid)
    ours.pad_literal = True
    for a, b in zip(masked, ours(x, valid), strict=True):
        assert torch.equal(a, b)
