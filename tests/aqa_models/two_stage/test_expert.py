from __future__ import annotations

import pytest
import torch

from aqa_models.two_stage.config import ExpertConfig
from aqa_models.two_stage.expert import Expert, ExpertHead, Output, pool
from aqa_models.two_stage.nonexpert import Encoder
from aqa_models.two_stage.sequence import pad_front


def expert(feature_channels: int = 0, num_actions: int = 1, **options) -> Expert:
    torch.manual_seed(0)
    config = ExpertConfig(lstm_units=6, branch_channels=4, **options)
    sizes = {"num_actions": num_actions, "feature_channels": feature_channels}
    return Expert(Encoder(45, 8, 2), 16, config, **sizes)


def alike(rows: int) -> torch.Tensor:
    return torch.zeros(rows, dtype=torch.long)


def test_sizes_of_the_paper():
    head = ExpertHead(2000, ExpertConfig())
    assert sum(p.numel() for p in head.pose.lstm.parameters()) == 1_681_600
    assert head.out.linear.in_features == 200
    both = ExpertHead(2000, ExpertConfig(appearance="modules"), feature_channels=4096)
    assert both.out.linear.in_features == 200 + 192
    plain = ExpertHead(2000, ExpertConfig(appearance="pooled"), feature_channels=4096)
    assert plain.out.linear.in_features == 200 + 4096
    linear = ExpertHead(2000, ExpertConfig(head="linear"))
    assert sum(p.numel() for p in linear.parameters()) == 2001  # linear regression on the representation


@pytest.mark.parametrize("head", ["lstm", "linear"])
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "mean_max"])
def test_padding_changes_nothing(pooling, head):
    net = expert(pooling=pooling, head=head).eval()
    items = [torch.randn(n, 45) for n in (9, 25, 14)]
    together = net(*pad_front(items), alike(3))
    alone = torch.cat([net(*pad_front([item]), alike(1)) for item in items])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_pooling_by_hand():
    states = torch.tensor([[[9.0, 9.0], [1.0, -4.0], [3.0, -2.0]]])
    valid = torch.tensor([[False, True, True]])
    final = torch.tensor([[7.0, 8.0]])
    expected = {"last": [7, 8], "mean": [2, -3], "max": [3, -2], "mean_max": [2, -3, 3, -2]}
    for pooling, vector in expected.items():
        assert pool(states, valid, final, pooling).tolist() == [vector]


def test_the_encoder_is_frozen_unless_asked_for():
    items = pad_front([torch.randn(9, 45), torch.randn(5, 45)])
    frozen, tuned = expert(), expert(finetune_encoder=True)
    frozen(*items, alike(2)).square().sum().backward()
    tuned(*items, alike(2)).square().sum().backward()
    assert all(p.grad is None for p in frozen.encoder.parameters())
    assert all((p.grad != 0).any() for p in tuned.encoder.parameters())
    assert all(p.grad is not None for p in frozen.head.parameters())


def test_both_streams_reach_the_score():
    net = expert(feature_channels=12, appearance="modules")
    items = pad_front([torch.randn(9, 45), torch.randn(5, 45)])
    video = (torch.randn(2, 8, 12), torch.ones(2, 8, dtype=torch.bool))
    net(*items, alike(2), video).square().sum().backward()
    assert all((p.grad != 0).any() for p in net.head.appearance.stages[0].narrow.parameters())
    assert all((p.grad != 0).any() for p in net.head.pose.parameters())
    with pytest.raises(ValueError, match="has an appearance stream and needs features of the video"):
        net(*items, alike(2))


def test_an_output_for_each_action_type():
    out = Output(5, 2, 3, "outputs")
    vector = torch.randn(4, 5)
    found = out(vector, torch.tensor([2, 0, 1, 2]))
    for row, action in enumerate((2, 0, 1, 2)):
        mine = slice(2 * action, 2 * action + 2)
        wanted = vector[row] @ out.linear.weight[mine].T + out.linear.bias[mine]
        torch.testing.assert_close(found[row], wanted)


def test_an_embedding_starts_alike_and_may_part():
    out = Output(5, 1, 3, "embedding")
    vector, action = torch.randn(3, 5), torch.tensor([0, 1, 2])
    torch.testing.assert_close(out(vector, action), out.linear(vector))
    with torch.no_grad():
        out.scale.weight[1], out.shift.weight[1] = 1.0, 0.5
    moved = out(vector, action)
    torch.testing.assert_close(moved[[0, 2]], out.linear(vector)[[0, 2]])
    torch.testing.assert_close(moved[1], out.linear(2 * vector[1]) + 0.5)
