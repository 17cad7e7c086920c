"""Pairs, cuts and gradients of one training step, and the numbers of validation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_dives import SEGMENTING, SMALL, changed, make_tables, settings
from scipy.stats import spearmanr

from pipelines.hp_mcore.dives import Dives, dive_table
from pipelines.hp_mcore.phase import HpMcorePhase, best_shares
from pipelines.hp_mcore.score import score_dives

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tables():
    return make_tables(train=3, val=1, test=0)


@pytest.fixture(scope="module")
def dives(tables) -> Dives:
    return Dives(dive_table(*tables, 96))


def with_clips(tables, change) -> Dives:
    return Dives(dive_table(changed(tables[0], change), tables[1], 96))


def pairs_of(phase: HpMcorePhase, epoch: int) -> dict[str, str]:
    """Query -> exemplar of an epoch."""
    return {name: phase.clip_ids[phase._exemplar(row, epoch)] for row, name in enumerate(phase.clip_ids)}


def test_every_training_dive_has_another_of_its_number_drawn_anew_in_each_epoch(dives):
    phase = HpMcorePhase(dives, settings(), CPU)
    assert len(phase.clip_ids) == 9
    drawn = [pairs_of(phase, epoch) for epoch in range(20)]
    for pairs in drawn:
        assert all(query != exemplar for query, exemplar in pairs.items())
        assert all(query[:4] == exemplar[:4] for query, exemplar in pairs.items())
    assert {pairs["107b_0"] for pairs in drawn} == {"107b_1", "107b_2"}
    assert pairs_of(HpMcorePhase(dives, settings(), CPU), 7) == drawn[7]
    assert pairs_of(HpMcorePhase(dives, settings(seed=1), CPU), 7) != drawn[7]


def test_the_draw_does_not_depend_on_what_else_is_trained_on(dives, tables):
    """Without the other numbers, in another order: the same exemplars."""
    phase = HpMcorePhase(dives, settings(), CPU)
    some = tables[0].to_pylist()
    order = [k for k in range(len(some))[::-1] if some[k]["action_type"] == "107b"]
    fewer = HpMcorePhase(Dives(dive_table(tables[0].take(order), tables[1], 96)), settings(), CPU)
    for epoch in range(5):
        every, found = pairs_of(phase, epoch), pairs_of(fewer, epoch)
        assert found == {name: every[name] for name in ("107b_2", "107b_1", "107b_0")}


def test_a_dive_that_is_alone_with_its_number_is_compared_with_its_group(tables):
    numbers = {"107b_0": "105b", "407c_0": "612b"}
    other = with_clips(
        tables, lambda r: {"action_type": numbers[r["clip_id"]]} if r["clip_id"] in numbers else {}
    )
    phase = HpMcorePhase(other, settings(), CPU)
    drawn = [pairs_of(phase, epoch) for epoch in range(30)]
    assert {pairs["107b_0"] for pairs in drawn} == {"107b_1", "107b_2"}
    assert len({pairs["407c_0"] for pairs in drawn}) > 3  # anybody


def step(phase: HpMcorePhase, rows: list[int], total: int, epoch: int = 0):
    gradients, losses = phase.gradients(rows, total, epoch)
    return gradients["model"], losses


def test_shares_of_a_batch_add_up_to_the_whole(dives):
    """What two workers find of their shares is what one finds of all: losses are sums over the total."""
    phase = HpMcorePhase(dives, settings(replace(SEGMENTING, dropout=0.0)), CPU)
    whole, losses = step(phase, [0, 4, 5, 8], 4)
    first, some = step(phase, [0, 4], 4)
    second, others = step(phase, [5, 8], 4)
    for name, value in losses.items():
        torch.testing.assert_close(some[name] + others[name], value)
    for a, b, both in zip(first, second, whole, strict=True):
        torch.testing.assert_close(a + b, both, rtol=1e-3, atol=1e-5)
    assert {"loss", "score", "segmentation", "contrastive_fused", "contrastive_static"} <= set(losses)


def test_the_loss_is_the_weighted_sum_of_its_parts(dives):
    model = replace(SEGMENTING, segmentation_weight=0.5, contrastive_weight=2.0, dropout=0.0)
    _, losses = step(HpMcorePhase(dives, settings(model), CPU), [0, 1, 2], 3)
    expected = losses["score"] + 0.5 * losses["segmentation"]
    expected = expected + 2 * (losses["contrastive_fused"] + losses["contrastive_static"])
    torch.testing.assert_close(losses["loss"], expected)


def test_dropout_is_drawn_by_epoch_and_clips_alone(dives):
    phase = HpMcorePhase(dives, settings(SEGMENTING), CPU)
    _, first = step(phase, [0, 1], 2, epoch=0)
    step(phase, [3, 4], 2, epoch=1)
    torch.rand(7)
    _, again = step(phase, [0, 1], 2, epoch=0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    phase._epoch = 5  # the same pairs in another epoch
    _, other = step(phase, [0, 1], 2, epoch=5)
    assert not torch.equal(first["segmentation"], other["segmentation"])


def test_gradients_reach_what_learns_and_nothing_else(dives):
    model = replace(SEGMENTING, use_static=True, splash_weight=1.0)
    phase = HpMcorePhase(dives, settings(model), CPU)
    found, _ = step(phase, [0, 1, 4], 3)
    names = [name for name, _ in phase.model.named_parameters()]
    dead = {name for name, gradient in zip(names, found, strict=True) if not gradient.any()}
    # No splash of these dives is known, so nothing teaches its head.
    assert dead == {name for name in names if name.startswith("splash_head")}


def test_transitions_are_cut_as_annotated_at_first_and_more_and_more_as_predicted(dives):
    given = torch.tensor([[30, 60]] * 2000)
    rows = list(range(2000))

    def share(phase: HpMcorePhase, epoch: int) -> float:
        cuts = phase._cuts(given, rows, epoch)
        own = (cuts == -1).all(dim=1)
        assert torch.equal(cuts[~own], given[~own])
        return float(own.double().mean())

    phase = HpMcorePhase(dives, settings(epochs=11, predicted_share=0.8), CPU)
    assert share(phase, 0) == 0.0
    assert share(phase, 5) == pytest.approx(0.4, abs=0.04)
    assert share(phase, 10) == pytest.approx(0.8, abs=0.04)
    assert torch.equal(phase._cuts(given, rows, 5), phase._cuts(given, rows, 5))
    # Whoever is cut as predicted early is so later too, but not the same dives in each epoch.
    assert not torch.equal(phase._cuts(given, rows, 9), phase._cuts(given, rows, 10))
    always = HpMcorePhase(dives, settings(epochs=11, predicted_share=0.0), CPU)
    assert share(always, 10) == 0.0
    only = HpMcorePhase(dives, settings(epochs=1, predicted_share=0.8), CPU)
    assert share(only, 0) == 0.0


def test_training_is_cut_where_the_schedule_says(dives, monkeypatch):
    phase = HpMcorePhase(dives, settings(SEGMENTING, epochs=2, predicted_share=1.0), CPU)
    seen = []
    real = type(phase.model).encode

    def watched(self, performances, transitions=None):
        seen.append(transitions)
        return real(self, performances, transitions)

    monkeypatch.setattr(type(phase.model), "encode", watched)
    step(phase, [0, 1], 2, epoch=0)
    exemplars = [phase._exemplar(row, 0) for row in (0, 1)]
    expected = [dives.facts[phase.train_rows[row]].transitions for row in [0, 1, *exemplars]]
    assert seen[0].tolist() == [list(cuts) for cuts in expected]
    step(phase, [0, 1], 2, epoch=1)
    assert (seen[1] == -1).all()


def test_validation_is_the_error_of_scoring(dives):
    phase = HpMcorePhase(dives, settings(SEGMENTING), CPU)
    phase.model.train()
    found = phase.validate()
    predicted = score_dives(phase.model, dives, phase.val_rows, phase.train_rows, phase.config, CPU)
    scores = np.array([p.score for p in predicted])
    true = np.array([dives.facts[row].score for row in phase.val_rows])
    assert [dives.facts[row].split for row in phase.val_rows] == ["val"] * 3
    assert found["loss"] == found["mae"] == pytest.approx(np.abs(scores - true).mean())
    assert found["spearman"] == pytest.approx(spearmanr(scores, true).statistic)
    cuts = np.array([p.transitions for p in predicted])
    real = np.array([dives.facts[row].transitions for row in phase.val_rows])
    assert found["transition_error"] == pytest.approx(np.abs(cuts - real).mean())
    inside = np.clip(np.minimum(cuts[:, 1], real[:, 1]) - np.maximum(cuts[:, 0], real[:, 0]), 0, None)
    union = np.maximum(cuts[:, 1], real[:, 1]) - np.minimum(cuts[:, 0], real[:, 0])
    assert found["aiou_50"] == pytest.approx((inside / union >= 0.5).mean())


def test_without_a_rank_correlation_there_is_none(tables):
    flat = with_clips(tables, lambda row: {"score": 50.0} if row["split"] == "val" else {})
    assert "spearman" not in HpMcorePhase(flat, settings(), CPU).validate()


def test_by_difficulty_the_target_is_the_completeness(dives, tables):
    """Three times score and difficulty: the same loss, three times the error."""
    more = with_clips(tables, lambda r: {"score": 3 * r["score"], "difficulty": 3 * r["difficulty"]})
    config = settings(by_difficulty=True)
    one, other = (HpMcorePhase(of, config, CPU) for of in (dives, more))
    assert float(step(one, [0, 4], 2)[1]["loss"]) == pytest.approx(float(step(other, [0, 4], 2)[1]["loss"]))
    assert other.validate()["mae"] == pytest.approx(3 * one.validate()["mae"])


def test_statistics_are_those_of_the_training_dives(dives):
    phase = HpMcorePhase(dives, settings(), CPU)
    values = dives.stream("static", phase.train_rows).reshape(-1, 368)
    np.testing.assert_allclose(phase.model.scales["static"].mean.numpy(), values.mean(0), atol=1e-5)
    np.testing.assert_allclose(phase.model.scales["static"].deviation.numpy(), values.std(0), rtol=1e-3)
    assert not HpMcorePhase(dives, settings(replace(SMALL, standardise=False)), CPU).model.scales


def test_splashes_are_brought_to_one_scale_by_training(tables):
    sizes = {"107b_0": 0.1, "407c_0": 0.3, "107b_3": 9.0}  # the last one chooses the epoch only
    other = with_clips(tables, lambda r: {"splash": sizes[r["clip_id"]]} if r["clip_id"] in sizes else {})
    model = replace(SMALL, splash_weight=1.0)
    phase = HpMcorePhase(other, settings(model), CPU)
    assert phase.splash == pytest.approx((0.2, 0.1))
    assert float(step(phase, [0, 1], 2)[1]["splash"]) > 0
    assert HpMcorePhase(with_clips(tables, lambda r: {"splash": 0.5}), settings(), CPU).splash == (0.0, 1.0)


def test_reduced_precision_is_near(dives):
    exact = HpMcorePhase(dives, settings(), CPU).validate()["mae"]
    assert HpMcorePhase(dives, settings(precision="bf16"), CPU).validate()["mae"] == pytest.approx(
        exact, rel=0.05
    )


def test_validation_shares_the_streams_by_least_squares():
    true = np.array([10.0, 20.0, 40.0, 30.0])
    noise = np.array([3.0, -3.0, 2.0, -2.0])
    # The true scores are the mean of the first two streams; the third knows nothing.
    alone = {"fused": true + noise, "static": true - noise, "angles": np.full(4, 25.0)}
    shares = best_shares(alone, true)
    expected = {"fused": 0.475 + 0.05 / 3, "static": 0.475 + 0.05 / 3, "angles": 0.05 / 3}
    assert shares == pytest.approx(expected, abs=1e-3)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert best_shares({"fused": true}, true) == pytest.approx({"fused": 1.0})
