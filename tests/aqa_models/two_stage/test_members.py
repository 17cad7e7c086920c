from __future__ import annotations

import torch

from aqa_models.two_stage.config import ExpertConfig
from aqa_models.two_stage.expert import Expert
from aqa_models.two_stage.members import Members
from aqa_models.two_stage.nonexpert import Encoder
from aqa_models.two_stage.sequence import pad_front


def experts(outputs: int = 1) -> list[Expert]:
    config = ExpertConfig(lstm_units=4)
    return [Expert(Encoder(5, 4, 1), 8, config, num_outputs=outputs) for _ in range(2)]


def batch() -> tuple:
    return *pad_front([torch.randn(7, 5), torch.randn(4, 5)]), torch.zeros(2, dtype=torch.long)


def test_the_answer_is_the_mean_of_the_members():
    made, shown = experts(), batch()
    model = Members(made).eval()
    torch.testing.assert_close(model(*shown), (made[0](*shown) + made[1](*shown)) / 2)
    made = experts(outputs=3)
    model = Members(made).eval()
    mean = (made[0](*shown).softmax(dim=1) + made[1](*shown).softmax(dim=1)) / 2
    torch.testing.assert_close(model(*shown).exp(), mean)


def test_averages_follow_the_weights():
    model = Members(experts(), averaging=0.75)
    weight, average = model.experts[1].head.out.linear.weight, model.averages[1].head.out.linear.weight
    torch.testing.assert_close(weight, average)
    assert weight.data_ptr() != average.data_ptr()
    assert not average.requires_grad
    before = weight.detach().clone()
    with torch.no_grad():
        weight += 1
    model.experts[0].head.norm.running_mean += 2
    model.follow()
    torch.testing.assert_close(average, before + 0.25)
    torch.testing.assert_close(model.averages[0].head.norm.running_mean, torch.full((8,), 2.0))
    assert model.judges is model.averages
    model.eval()
    shown = batch()
    expected = torch.stack([judge(*shown) for judge in model.averages]).mean(dim=0)
    torch.testing.assert_close(model(*shown), expected)


def test_without_averaging_the_experts_judge():
    model = Members(experts())
    model.follow()
    assert model.judges is model.experts
    assert len(model.averages) == 0
