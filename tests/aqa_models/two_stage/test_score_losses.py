from __future__ import annotations

import pytest
import torch
from torch import nn

from aqa_models.two_stage.score_losses import ranking_loss, score_loss


def test_losses_of_single_scores():
    predicted, true = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.0, 0.8, 0.0])
    torch.testing.assert_close(score_loss(predicted, true, "squared"), torch.tensor([0.0, 0.04, 9.0]))
    reference = nn.HuberLoss(reduction="none", delta=0.5)(predicted, true) / 0.5
    torch.testing.assert_close(score_loss(predicted, true, "huber"), reference)


def test_ranking_by_hand():
    """Three clips of one group, one of another, one that does not count."""
    true = torch.tensor([2.0, 1.0, 0.8, 5.0, 9.0])
    predicted = torch.tensor([1.0, 0.9, 1.3, -7.0, -9.0], requires_grad=True)
    group, counts = torch.tensor([0, 0, 0, 1, 0]), torch.tensor([True, True, True, True, False])
    # (0, 1): min(1, .5) - .1 = .4; (0, 2): .5 + .3 = .8; (1, 2): .2 + .4 = .6
    loss = ranking_loss(predicted, true, group, counts)
    assert float(loss.detach()) == pytest.approx((0.4 + 0.8 + 0.6) / 3)
    loss.backward()
    assert (predicted.grad[3:] == 0).all()
    assert predicted.grad[0] < 0 < predicted.grad[2]


def test_no_pair_costs_nothing():
    one = torch.tensor([1.0], requires_grad=True)
    loss = ranking_loss(one, torch.tensor([3.0]), torch.tensor([0]), torch.tensor([True]))
    loss.backward()
    assert float(loss) == 0.0
    ordered = torch.tensor([2.0, 1.0, 0.0])
    assert float(ranking_loss(ordered, ordered, torch.zeros(3), torch.ones(3).bool())) == 0.0
