from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from aqa_models.two_stage.config import NonExpertConfig
from aqa_models.two_stage.losses import encoder_loss, order_accuracy, pretext_losses, routed_gradients
from aqa_models.two_stage.nonexpert import NonExpert
from aqa_models.two_stage.pretext import PretextBatch, limb_columns, make_batch

SMALL = NonExpertConfig(encoder_units=8, decoder_units=7, pace_units=6, discriminator_units=5)
VARIANTS = [
    {},
    {"pace": False},
    {"pretext": "recon"},
    {"pretext": "recon", "pace": False},
    {"pretext": "motion_pred"},
    {"pretext": "motion_pred", "pace": False},
    {"pretext": "order"},
    {"pretext": "order", "pace": False},
    {"pretext": "none"},
    {"generator_loss": "non_saturating"},
    {"encoder_sees_masked": True, "mask_value": "learned"},
    {"encoder_projection": True},
    {"pace_head": "gru"},
    {"decoder_bridge": "forward", "decoder_units": 8, "pace": False},
]


def model(config: NonExpertConfig = SMALL) -> NonExpert:
    torch.manual_seed(0)
    return NonExpert(45, config)


def batch(lengths: tuple[int, ...] = (12, 30, 21), config: NonExpertConfig = SMALL) -> PretextBatch:
    generator = np.random.default_rng(3)
    sequences = [generator.normal(size=(n, 45)).astype(np.float32) for n in lengths]
    observed = [np.ones(15, dtype=bool)] * len(lengths)
    draws = [np.random.default_rng([5, k]) for k in range(len(lengths))]
    return make_batch(sequences, observed, config, limb_columns("c15", 3), draws)


def gradients(config: NonExpertConfig, **scales: float) -> dict[str, list[torch.Tensor]]:
    """Routed gradients; a loss named in `scales` is multiplied by that."""
    net, data = model(config), batch(config=config)
    losses = pretext_losses(net(data), data, config)
    means = {name: scales.get(name, 1.0) * loss.mean() for name, loss in losses.items()}
    return routed_gradients(net, means, config)


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("settings", [v for v in VARIANTS if v.get("pretext") not in ("order", "none")])
def test_encoder_never_feels_the_adversary(settings):
    config = replace(SMALL, **settings)
    normal, loud = gradients(config), gradients(replace(config, adversarial_weight=1e6))
    assert same(normal["encoder"], loud["encoder"])
    assert not same(normal["decoder"], loud["decoder"])
    silent = gradients(config, pace=0.0, reconstruction=0.0)
    assert all((g == 0).all() for g in silent["encoder"])
    assert any((g != 0).any() for g in silent["decoder"])
    mute = gradients(config, adversarial=0.0, generator=0.0)
    assert same(mute["encoder"], normal["encoder"])
    assert all((g == 0).all() for g in mute["discriminator"])


@pytest.mark.parametrize("settings", VARIANTS)
def test_each_part_gets_the_gradient_of_its_own_loss(settings):
    """Against plain .backward() of what each part minimises, written out."""
    config = replace(SMALL, **settings)
    zero = torch.zeros(())
    wanted = {
        "encoder": lambda m: m.get("reconstruction", zero) + m.get("order", zero) + 0.2 * m.get("pace", zero),
        "pace_head": lambda m: m["pace"],
        "decoder": lambda m: m["reconstruction"] + 0.01 * m.get("generator", m.get("adversarial")),
        "discriminator": lambda m: -m["adversarial"],
        "order_head": lambda m: m["order"],
    }
    routed = gradients(config)
    assert set(routed) == set(model(config).parts)
    for part, grads in routed.items():
        net, data = model(config), batch(config=config)
        means = {name: each.mean() for name, each in pretext_losses(net(data), data, config).items()}
        wanted[part](means).backward()
        for grad, parameter in zip(grads, getattr(net, part).parameters(), strict=True):
            want = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(grad, want, atol=1e-6, rtol=1e-4)


def test_a_loss_that_is_not_asked_for_is_not_there():
    names = {
        "inpaint": {"pace", "reconstruction", "adversarial"},
        "order": {"pace", "order"},
        "none": {"pace"},
    }
    for pretext, want in names.items():
        config = replace(SMALL, pretext=pretext)
        net, data = model(config), batch(config=config)
        assert set(pretext_losses(net(data), data, config)) == want


def test_encoder_loss_by_hand():
    losses = {"pace": torch.tensor([1.0, 2.0]), "reconstruction": torch.tensor([3.0, 4.0])}
    losses["adversarial"] = torch.tensor([9.0, 9.0])
    torch.testing.assert_close(encoder_loss(losses, SMALL), torch.tensor([3.2, 4.4]))
    torch.testing.assert_close(encoder_loss({"order": torch.ones(2)}, SMALL), torch.ones(2))


def test_adversarial_losses_by_hand():
    config = replace(SMALL, generator_loss="non_saturating")
    net, data = model(), batch()
    answer = net(data)
    losses = pretext_losses(answer, data, config)
    want = torch.log(torch.sigmoid(answer.real)) + torch.log(1 - torch.sigmoid(answer.fake))
    torch.testing.assert_close(losses["adversarial"], want)
    torch.testing.assert_close(losses["generator"], -torch.log(torch.sigmoid(answer.fake)))
    assert "generator" not in pretext_losses(answer, data, SMALL)


def test_reconstruction_counts_valid_frames_and_observed_joints():
    net, data = model(), batch()
    data.counts[0, :, 10:] = False
    answer = net(data)
    squared = (answer.inpainted - data.slowed).square()
    mean = pretext_losses(answer, data, SMALL)["reconstruction"]
    torch.testing.assert_close(mean[0], squared[0, 18:, :10].mean())
    torch.testing.assert_close(mean[1], squared[1].mean())
    literal = replace(SMALL, reconstruction="sum")
    found = pretext_losses(answer, data, literal)["reconstruction"]
    torch.testing.assert_close(found[1], squared[1].sum())


def test_order_loss_is_the_mean_over_the_places_there_are():
    config = replace(SMALL, pretext="order")
    net, data = model(config), batch((9, 40), config)
    answer = net(data)
    found = pretext_losses(answer, data, config)["order"]
    for row, places in ((0, 9), (1, 25)):
        chance = answer.order[row, :places].softmax(dim=1)
        right = chance[torch.arange(places), data.order[row, :places]]
        torch.testing.assert_close(found[row], -right.log().mean())


def test_order_accuracy_takes_the_best_permutation():
    # The second place alone would say segment 0 too; as a permutation it gets what is left.
    logits = torch.tensor([[[9.0, 0.0, 0.0], [5.0, 4.0, 0.0], [0.0, 0.0, 3.0]]]).repeat(3, 1, 1)
    orders = torch.tensor([[0, 1, 2], [1, 0, 2], [0, 1, -1]])
    assert order_accuracy(logits, orders).tolist() == pytest.approx([1.0, 1 / 3, 1.0])


@pytest.mark.slow
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
    seen = [np.ones(15, dtype=bool)] * 4
    data = make_batch(sequences, seen, config, limb_columns("c15", 3), draws)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        losses = pretext_losses(net(data), data, config)
        routed = routed_gradients(net, {name: loss.mean() for name, loss in losses.items()}, config)
        for part, grads in routed.items():
            for parameter, grad in zip(getattr(net, part).parameters(), grads, strict=True):
                parameter.grad = grad
        optimizer.step()
    gone = data.hidden
    error = (net(data).inpainted - data.slowed)[gone].square().mean()
    assert error < 0.2 * data.slowed[gone].square().mean()
