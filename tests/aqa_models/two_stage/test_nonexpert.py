from __future__ import annotations

import numpy as np
import pytest
import torch

from aqa_models.two_stage.config import NonExpertConfig
from aqa_models.two_stage.losses import pretext_losses, routed_gradients
from aqa_models.two_stage.nonexpert import NonExpert
from aqa_models.two_stage.pretext import limb_columns, make_batch

SMALL = NonExpertConfig(encoder_units=8, decoder_units=7, pace_units=6, discriminator_units=5)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def model(config: NonExpertConfig = SMALL) -> NonExpert:
    torch.manual_seed(0)
    return NonExpert(45, config)


def batch(lengths: tuple[int, ...] = (12, 30, 21)):
    generator = np.random.default_rng(3)
    sequences = [generator.normal(size=(n, 45)).astype(np.float32) for n in lengths]
    observed = [np.ones(15, dtype=bool)] * len(lengths)
    draws = [np.random.default_rng([5, k]) for k in range(len(lengths))]
    return make_batch(sequences, observed, SMALL.paces, limb_columns("c15", 3), draws)


def gradients(config: NonExpertConfig, pace=1.0, rec=1.0, adv=1.0):
    net, data = model(config), batch()
    losses = pretext_losses(net(data), data, config)
    return routed_gradients(
        net,
        pace * losses.pace.mean(),
        rec * losses.reconstruction.mean(),
        adv * losses.adversarial.mean(),
        config,
    )


def test_sizes_of_the_paper():
    net = NonExpert(60, NonExpertConfig())
    assert count(net.encoder) == 24_384_000
    assert count(net.decoder.gru) + count(net.decoder.out) == 9_252_060
    assert count(net.discriminator) == 157_401
    assert count(net.pace_head) == 3_007_005


def test_shapes():
    data = batch()
    answer = model()(data)
    assert answer.pace.shape == (3, 5)
    assert answer.inpainted.shape == (3, 30, 45)
    assert answer.real.shape == answer.fake.shape == (3,)


def test_padding_changes_nothing():
    net = model().eval()
    together, alone = batch(), batch((12,))
    assert torch.equal(together.slowed[0, 18:], alone.slowed[0])
    a, b = net(together), net(alone)
    torch.testing.assert_close(a.pace[:1], b.pace, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a.inpainted[:1, 18:], b.inpainted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a.fake[:1], b.fake, atol=1e-5, rtol=1e-5)


def test_encoder_never_feels_the_adversary():
    normal = gradients(SMALL)
    loud = gradients(NonExpertConfig(**{**SMALL.__dict__, "adversarial_weight": 1e6}))
    assert all(torch.equal(a, b) for a, b in zip(normal["encoder"], loud["encoder"], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(normal["decoder"], loud["decoder"], strict=True))
    silent = gradients(SMALL, pace=0.0, rec=0.0)
    assert all((g == 0).all() for g in silent["encoder"])
    assert any((g != 0).any() for g in silent["decoder"])


def test_each_part_gets_the_gradient_of_its_own_loss():
    """Against plain .backward() of the four losses, written out."""
    routed = gradients(SMALL)
    wanted = {
        "encoder": lambda p, r, a: r + 0.2 * p,
        "pace_head": lambda p, r, a: p,
        "decoder": lambda p, r, a: r + 0.01 * a,
        "discriminator": lambda p, r, a: -a,
    }
    for part, loss in wanted.items():
        net, data = model(), batch()
        each = pretext_losses(net(data), data, SMALL)
        loss(each.pace.mean(), each.reconstruction.mean(), each.adversarial.mean()).backward()
        for grad, parameter in zip(routed[part], getattr(net, part).parameters(), strict=True):
            torch.testing.assert_close(grad, parameter.grad, atol=1e-6, rtol=1e-4)


def test_adversarial_loss_by_hand():
    net, data = model(), batch()
    answer = net(data)
    want = torch.log(torch.sigmoid(answer.real)) + torch.log(1 - torch.sigmoid(answer.fake))
    torch.testing.assert_close(pretext_losses(answer, data, SMALL).adversarial, want)


def test_reconstruction_counts_valid_frames_and_observed_joints():
    net, data = model(), batch()
    data.target[0, 10:] = False
    answer = net(data)
    squared = (answer.inpainted - data.slowed).square()
    mean = pretext_losses(answer, data, SMALL).reconstruction
    torch.testing.assert_close(mean[0], squared[0, 18:, :10].mean())
    torch.testing.assert_close(mean[1], squared[1].mean())
    literal = NonExpertConfig(**{**SMALL.__dict__, "reconstruction": "sum"})
    torch.testing.assert_close(pretext_losses(answer, data, literal).reconstruction[1], squared[1].sum())


def test_it_learns_to_inpaint():
    """Sixty steps on one batch bring the error of the missing limb well below that of a guess of zero."""
    torch.manual_seed(0)
    config = NonExpertConfig(encoder_units=24, decoder_units=24, pace_units=16, discriminator_units=8)
    net = NonExpert(45, config)
    generator = np.random.default_rng(0)
    phase = generator.normal(size=45) * 3
    sequences = [
        np.sin(np.arange(40)[:, None] * s + phase).astype(np.float32) for s in (0.1, 0.15, 0.2, 0.25)
    ]
    draws = [np.random.default_rng(k) for k in range(4)]
    data = make_batch(sequences, [np.ones(15, dtype=bool)] * 4, config.paces, limb_columns("c15", 3), draws)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        each = pretext_losses(net(data), data, config)
        routed = routed_gradients(
            net, each.pace.mean(), each.reconstruction.mean(), each.adversarial.mean(), config
        )
        for part, grads in routed.items():
            for parameter, grad in zip(getattr(net, part).parameters(), grads, strict=True):
                parameter.grad = grad
        optimizer.step()
    gone = data.hidden[:, None].expand_as(data.slowed)
    error = (net(data).inpainted - data.slowed)[gone].square().mean()
    assert error < 0.2 * data.slowed[gone].square().mean()


def test_layers_must_match():
    with pytest.raises(ValueError, match=r"decoder_layers \(1\) must equal encoder_layers \(2\)"):
        NonExpert(45, NonExpertConfig(decoder_layers=1))
