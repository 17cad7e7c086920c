from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from aqa_models.hp_mcore.config import HpMcoreConfig
from aqa_models.hp_mcore.losses import (
    contrastive_loss,
    number_loss,
    pair_losses,
    score_loss,
    segmentation_loss,
    splash_loss,
)
from aqa_models.hp_mcore.model import Encoded
from aqa_models.hp_mcore.performance import Performances
from aqa_models.hp_mcore.regression import Comparison


def test_score_loss_by_hand():
    got = score_loss(torch.tensor([3.0, -1]), torch.tensor([-1.0, 1]), torch.tensor([2.0, -1]), scale=1.0)
    assert got.tolist() == [2, 0]  # (3 - 2)^2 + (-1 + 2)^2
    scaled = score_loss(torch.tensor([30.0]), torch.tensor([-10.0]), torch.tensor([20.0]), scale=10.0)
    assert scaled.tolist() == [2]


def test_score_loss_bounds_how_far_a_swap_is_from_negation():
    """|there + back| <= sqrt(2 L): when the loss goes to 0, swapping query and exemplar negates the delta."""
    there, back, difference = torch.randn(3, 1000) * 10
    loss = score_loss(there, back, difference, scale=1.0)
    assert ((there + back).abs() <= (2 * loss).sqrt() + 1e-4).all()
    tight = score_loss(difference + 1, 1 - difference, difference, scale=1.0)
    torch.testing.assert_close(tight, torch.full_like(tight, 2.0), atol=1e-3, rtol=0)  # |sum| = 2 = sqrt(2 L)


def test_uniform_segmentation_loss():
    got = segmentation_loss(torch.zeros(2, 96, 2), torch.tensor([[29, 62], [1, 95]]))
    assert got.tolist() == pytest.approx([6.8465, 6.8465], abs=1e-4)
    assert got[0].item() == pytest.approx(1.5 * math.log(96))


def test_segmentation_loss_equals_cross_entropy_with_weighted_targets():
    """The reference: torch's cross-entropy with probability targets 1 and 2 over the frames."""
    torch.manual_seed(0)
    logits, transitions = torch.randn(4, 96, 2), torch.tensor([[29, 62], [10, 50], [1, 95], [40, 41]])
    target = torch.zeros(4, 96, 2)
    for row, (a, b) in enumerate(transitions.tolist()):
        target[row, a, 0], target[row, b, 1] = 1, 2
    expected = torch.nn.functional.cross_entropy(logits, target)
    torch.testing.assert_close(segmentation_loss(logits, transitions).mean(), expected)


def test_segmentation_loss_of_other_numbers_of_procedures():
    transitions = torch.tensor([[10, 20, 30, 40], [10, -1, -1, 40], [-1, -1, -1, 40], [-1, -1, -1, -1]])
    got = segmentation_loss(torch.zeros(4, 50, 4), transitions)
    assert got.tolist() == pytest.approx([k * math.log(50) for k in (5 / 4, 3 / 2, 2, 0)])


@pytest.mark.parametrize(("slots", "expected"), [(2, math.log(3)), (3, math.log(5)), (6, math.log(11))])
def test_uniform_contrastive_loss(slots, expected):
    same = torch.ones(2, slots, 10, 8)
    got = contrastive_loss(same, same, torch.ones(2, slots, dtype=torch.bool))
    assert got.tolist() == pytest.approx([expected] * 2)
    if slots == 3:
        assert 10 * got[0].item() == pytest.approx(16.0944, abs=1e-4)


def contrastive_by_hand(a, b):
    """The formula of spec 3.1 for one pair of (K, D) means, sum by sum."""

    def s(x, y):
        return math.exp(float(x @ y / (x.norm() * y.norm())) / 0.1)

    def one(a, b):
        total = 0.0
        for k in range(len(a)):
            others = [j for j in range(len(a)) if j != k]
            below = s(a[k], b[k]) + sum(s(a[k], a[j]) + s(a[k], b[j]) for j in others)
            total -= math.log(s(a[k], b[k]) / below)
        return total / len(a)

    return (one(a, b) + one(b, a)) / 2


def test_contrastive_loss_equals_the_formula_and_skips_absent_slots():
    torch.manual_seed(0)
    a, b = torch.randn(3, 4, 10, 6), torch.randn(3, 4, 10, 6)
    present = torch.tensor([[True] * 4, [True, True, False, True], [True, False, False, True]])
    got = contrastive_loss(a, b, present)
    for row in range(3):
        means = [x[row, present[row]].mean(dim=1) for x in (a, b)]
        assert got[row].item() == pytest.approx(contrastive_by_hand(*means), rel=1e-4)


def test_contrastive_loss_has_a_finite_gradient_with_absent_slots():
    a = torch.randn(1, 3, 10, 6, requires_grad=True)
    b = torch.randn(1, 3, 10, 6)
    b[:, 1] = 0
    masked = a * torch.tensor([1.0, 0, 1])[None, :, None, None]
    contrastive_loss(masked, b, torch.tensor([[True, False, True]])).sum().backward()
    assert a.grad.isfinite().all()
    assert (a.grad[:, ::2] != 0).any()
    assert (a.grad[:, 1] == 0).all()


def test_what_is_not_known_counts_as_zero():
    logits = torch.zeros(3, 60, requires_grad=True)
    got = number_loss(logits, torch.tensor([5, -1, 59]))
    assert got.tolist() == pytest.approx([math.log(60), 0, math.log(60)])
    predicted = torch.tensor([0.5, 0.7], requires_grad=True)
    got = splash_loss(predicted, torch.tensor([0.25, torch.nan]))
    assert got.tolist() == [0.0625, 0]
    got.sum().backward()
    assert predicted.grad.tolist() == [0.5, 0]


def pair(config: HpMcoreConfig, **known):
    """Two performances whose encoding is uniform, and comparisons that are 1 point off each."""
    ones = torch.ones(2, 3, 10, 256)
    encoded = Encoded(
        transitions=torch.tensor([[29, 62]] * 2),
        present=torch.ones(2, 3, dtype=torch.bool),
        fused=ones,
        static=ones,
        logits=torch.zeros(2, 96, 2),
        number_logits=torch.zeros(2, 60),
        splash=torch.zeros(2),
    )
    truth = Performances(transitions=encoded.transitions, **known)
    off = Comparison(
        torch.tensor([6.0, 1.0]), torch.zeros(2, 3), {"fused": torch.tensor([[4.0, 1, 0], [1, 0, 0]])}
    )
    back = Comparison(
        torch.tensor([-5.0, -1.0]), torch.zeros(2, 3), {"fused": torch.tensor([[-5.0, 0, 0], [0, 0, -4]])}
    )
    return pair_losses(
        config, (encoded, truth), (encoded, truth), (off, back), difference=torch.tensor([5.0, 1.0])
    )


def test_total_of_the_released_code():
    config = HpMcoreConfig()
    losses = pair(config)
    assert set(losses.named()) == {"score", "segmentation", "contrastive_fused", "contrastive_static"}
    both = 6.8465 + 2 * 16.0944
    assert losses.total(config).tolist() == pytest.approx([1 + both, both], abs=1e-3)


def test_total_with_everything_weighted():
    config = HpMcoreConfig(
        contrastive_weight=0.0, segmentation_weight=2.0, number_weight=0.1, splash_weight=3.0
    )
    losses = pair(config, number=torch.tensor([3, -1]), splash=torch.tensor([0.5, torch.nan]))
    assert set(losses.named()) == {"score", "segmentation", "number", "splash"}
    expected = [1 + 2 * 6.84652 + 0.1 * math.log(60) + 3 * 0.25, 2 * 6.84652]
    assert losses.total(config).tolist() == pytest.approx(expected, abs=1e-3)


def test_each_stream_is_judged_alone_too():
    config = HpMcoreConfig(segmentation_weight=0.0, contrastive_weight=0.0, stream_weight=2.0)
    losses = pair(config)
    # Alone, the stream says 5 and 1 there, which is right, and -5 and -4 back, where -5 and -1 are.
    assert losses.named()["streams"].tolist() == [0, 9]
    assert losses.total(config).tolist() == [1, 18]


def test_a_weighted_loss_needs_its_truth():
    with pytest.raises(ValueError, match=r"needs Performances\.splash, which this batch does not have"):
        pair(replace(HpMcoreConfig(), splash_weight=1.0))
