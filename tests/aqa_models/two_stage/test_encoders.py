from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import cont2discrete, dlsim

from aqa_models.two_stage.config import NonExpertConfig
from aqa_models.two_stage.encoders import (
    StateSpace,
    StateSpaceEncoder,
    TcnEncoder,
    TransformerEncoder,
    places,
)
from aqa_models.two_stage.nonexpert import build_encoder
from aqa_models.two_stage.sequence import pad_front


def encoder(layers: int = 2) -> TcnEncoder:
    torch.manual_seed(0)
    return TcnEncoder(6, 5, layers)


@pytest.mark.parametrize("kind", [TcnEncoder, TransformerEncoder, StateSpaceEncoder])
def test_padding_changes_nothing(kind):
    torch.manual_seed(0)
    net = kind(6, 6, 2)
    items = [torch.randn(n, 6) for n in (1, 9, 70)]
    states, final = net(*pad_front(items))
    assert states.shape == (3, 70, 12)
    assert final.shape == (2, 3, 12)
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


@pytest.mark.parametrize("kind", [TransformerEncoder, StateSpaceEncoder])
def test_every_state_reads_the_first_and_the_last_frame(kind):
    torch.manual_seed(0)
    x = torch.randn(1, 40, 6, requires_grad=True)
    states, _ = kind(6, 6, 1)(x, torch.ones(1, 40, dtype=torch.bool))
    states[0, 20].sum().backward()
    assert (x.grad[0].abs().sum(dim=1) > 0).all()


def test_places_count_from_the_first_valid_frame():
    valid = torch.tensor([[True, True, True], [False, True, True]])
    told = places(valid, 4)
    expected = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.841471, 0.540302, 0.01, 0.99995]])
    torch.testing.assert_close(told[0, :2], expected)
    torch.testing.assert_close(told[1, 1:], expected)


def test_a_state_space_is_what_scipy_simulates():
    torch.manual_seed(0)
    layer = StateSpace(2)
    u = torch.randn(1, 30, 2)
    found = layer(u)[0].detach().numpy()
    for channel in range(2):
        step = float(layer.log_step[channel].detach().exp())
        poles = zip(layer.log_decay[channel].exp().tolist(), layer.frequency[channel].tolist(), strict=True)
        gains = layer.output[channel].detach().numpy().tolist()
        direct = float(layer.direct[channel].detach())
        expected = direct * u[0, :, channel].numpy()
        for (decay, turn), (real, imaginary) in zip(poles, gains, strict=True):
            # h' = A h + u of a complex h, as two real numbers; y = 2 Re(C h), one step later than SciPy's.
            a, b = np.array([[-decay, -turn], [turn, -decay]]), np.array([[1.0], [0.0]])
            c = 2 * np.array([[real, -imaginary]])
            system = (*cont2discrete((a, b, c, np.zeros((1, 1))), step)[:4], step)
            _, answer, *_ = dlsim(system, np.append(u[0, :, channel].numpy(), 0.0))
            expected = expected + np.asarray(answer)[1:, 0]
        np.testing.assert_allclose(found[:, channel], expected, atol=1e-4)


def test_the_configuration_chooses_the_kind_and_all_are_as_wide():
    for kind in ("gru", "tcn", "transformer", "state_space"):
        net = build_encoder(6, NonExpertConfig(encoder_kind=kind, encoder_units=6, encoder_layers=2))
        states, final = net(torch.randn(3, 7, 6), torch.ones(3, 7, dtype=torch.bool))
        assert states.shape == (3, 7, net.width)
        assert final.shape == (2, 3, net.width) == (2, 3, 12)


def test_what_other_encoders_cannot_do_is_refused():
    with pytest.raises(ValueError, match="encoder_kind state_space has neither encoder_projection nor"):
        NonExpertConfig(encoder_kind="state_space", pad_literal=True)
    with pytest.raises(ValueError, match="transformer needs an even encoder_units, not 5"):
        NonExpertConfig(encoder_kind="transformer", encoder_units=5)
