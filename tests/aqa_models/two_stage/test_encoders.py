from __future__ import annotations

import torch

from aqa_models.two_stage.config import NonExpertConfig
from aqa_models.two_stage.encoders import TcnEncoder
from aqa_models.two_stage.nonexpert import build_encoder
from aqa_models.two_stage.sequence import pad_front


def encoder(layers: int = 2) -> TcnEncoder:
    torch.manual_seed(0)
    return TcnEncoder(6, 5, layers)


def test_padding_changes_nothing():
    net = encoder()
    items = [torch.randn(n, 6) for n in (1, 9, 70)]
    states, final = net(*pad_front(items))
    assert states.shape == (3, 70, 10)
    assert final.shape == (2, 3, 10)
    for row, item in enumerate(items):
        alone, last = net(item[None], torch.ones(1, len(item), dtype=torch.bool))
        torch.testing.assert_close(states[row, 70 - len(item) :], alone[0])
        torch.testing.assert_close(final[:, row], last[:, 0])
        assert (states[row, : 70 - len(item)] == 0).all()


def test_two_layers_see_61_frames():
    x = torch.randn(1, 121, 6, requires_grad=True)
    states, _ = encoder()(x, torch.ones(1, 121, dtype=torch.bool))
    states[0, 60].sum().backward()
    seen = x.grad[0].abs().sum(dim=1).nonzero().flatten()
    assert (int(seen.min()), int(seen.max())) == (30, 90)


def test_final_is_the_mean_of_each_layer():
    states, final = encoder()(torch.randn(2, 12, 6), torch.ones(2, 12, dtype=torch.bool))
    torch.testing.assert_close(final[-1], states.mean(dim=1))
    assert not torch.allclose(final[0], final[1])


def test_the_configuration_chooses_the_kind_and_both_are_as_wide():
    sizes = {"encoder_units": 5, "encoder_layers": 2}
    for kind in ("gru", "tcn"):
        net = build_encoder(6, NonExpertConfig(encoder_kind=kind, **sizes))
        states, final = net(torch.randn(3, 7, 6), torch.ones(3, 7, dtype=torch.bool))
        assert states.shape == (3, 7, net.width)
        assert final.shape == (2, 3, net.width) == (2, 3, 10)
