from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from aqa_models.hp_mcore.angles import NUM_ANGLES
from aqa_models.hp_mcore.config import HpMcoreConfig
from aqa_models.hp_mcore.regression import CrossAttention, Decoder, StageRegression, StreamRegression


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def regression(**options) -> StageRegression:
    torch.manual_seed(0)
    return StageRegression(HpMcoreConfig(decoder_layers=1, **options)).eval()


def steps(batch: int = 4, slots: int = 3, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, slots, 10, 256, generator=generator) for name in ("fused", "static")}


ALL = torch.ones(4, 3, dtype=torch.bool)


def test_sizes_of_the_released_code():
    assert count(CrossAttention()) == 789_504
    assert count(Decoder(4)) == 3_158_016
    assert count(StageRegression(HpMcoreConfig())) == 2 * 3_158_016 + 164_613


def test_attention_equals_torch():
    torch.manual_seed(0)
    layer = CrossAttention()
    theirs = nn.MultiheadAttention(256, 2, batch_first=True)
    q, e = torch.randn(2, 5, 256), torch.randn(2, 7, 256)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key_value.weight]))
        theirs.in_proj_bias.zero_()
        theirs.out_proj.load_state_dict(layer.out.state_dict())
        looked_at = layer.norm_exemplar(e)
        x = q + theirs(layer.norm_query(q), looked_at, looked_at)[0]
        torch.testing.assert_close(layer(q, e), x + layer.mlp(x), atol=1e-5, rtol=1e-5)


def test_every_layer_looks_at_the_exemplars_own_features():
    torch.manual_seed(0)
    decoder, (q, e) = Decoder(3), (torch.randn(2, 5, 256), torch.randn(2, 5, 256))
    x = q
    for layer in decoder.layers:
        x = layer(x, e)
    assert torch.equal(decoder(q, e), x)


def test_procedures_share_the_decoder_and_the_mean_is_over_steps():
    torch.manual_seed(0)
    net, (q, e) = StreamRegression(1), steps(batch=2).values()
    got = net(q, e)
    for b in range(2):
        for k in range(3):
            alone = net.head(net.decoder(q[b, k][None], e[b, k][None])).mean()
            torch.testing.assert_close(got[b, k], alone, atol=1e-5, rtol=1e-5)


def test_contributions_add_up_exactly_and_are_weighted_as_the_formula_says():
    net = regression()
    with torch.no_grad():
        net.theta.copy_(torch.tensor([3.0, 5.0, 2.0]).log())  # FineParser's weights
        got = net(steps(), steps(seed=2), ALL)
    assert torch.equal(got.delta, got.contributions.sum(dim=1))
    weights = torch.tensor([0.3, 0.5, 0.2])
    q, e = steps(), steps(seed=2)
    with torch.no_grad():
        fused, static = net.fused(q["fused"], e["fused"]), net.static(q["static"], e["static"])
    torch.testing.assert_close(got.streams["fused"], weights * fused)
    torch.testing.assert_close(got.contributions, weights * (fused + static) / 2)


def test_weights_start_at_two():
    net = regression(num_procedures=5, decoding="ordered")
    assert torch.allclose(net.theta.exp(), torch.tensor(2.0))
    assert net.theta[0].item() == pytest.approx(math.log(2))


def test_slots_not_used_count_nothing():
    net, q, e = regression(), steps(), steps(seed=2)
    present = ALL.clone()
    present[1, 1] = False
    with torch.no_grad():
        got, full = net(q, e, present), net(q, e, ALL)
    assert got.contributions[1, 1] == 0
    torch.testing.assert_close(got.contributions[1, ::2], full.contributions[1, ::2] * 3 / 2)
    assert torch.equal(got.delta[0], full.delta[0])


def test_learned_confidence():
    net = regression(combination="learned")
    plain = regression()
    with torch.no_grad():
        q, e = steps(), steps(seed=2)
        assert net.confidence("static") == 1
        torch.testing.assert_close(net(q, e, ALL).delta, plain(q, e, ALL).delta)
        net.log_confidence["static"].fill_(math.log(3))
        got = net(q, e, ALL)
    mixed = (got.streams["fused"] + 3 * got.streams["static"]) / 4
    torch.testing.assert_close(got.delta, mixed.sum(dim=1))


def test_fused_stream_alone():
    net = regression(use_static=False, combination="learned")
    assert net.static is None
    assert not len(net.log_confidence)
    q, e = ({"fused": x["fused"]} for x in (steps(), steps(seed=2)))
    with torch.no_grad():
        got = net(q, e, ALL)
        torch.testing.assert_close(got.delta, net.fused(q["fused"], e["fused"]).mean(dim=1))


def test_angles_are_a_stream_of_their_own_that_adds_up():
    """Two linear layers in place of the networks: the difference is known by hand."""
    net = regression(pose_angles=True, use_pose=True, use_static=False, steps_per_procedure=4)
    with torch.no_grad():
        for slot, layer in enumerate(net.angles.worth):
            layer[1].weight.zero_()
            layer[1].weight[0, 0] = 1.0  # the first angle of the first step, where it is positive
            layer[1].bias.zero_()
            layer[4].weight.zero_()
            layer[4].weight[0, 0] = float(slot + 1)
        q, e = ({"fused": steps(seed=k)["fused"], "angles": torch.zeros(4, 3, 4, NUM_ANGLES)} for k in (1, 2))
        q["angles"][:, :, 0, 0] = torch.tensor([2.0, 3.0, 5.0])
        e["angles"][:, :, 0, 0] = 1.0
        net.eval()
        got = net(q, e, ALL)
    torch.testing.assert_close(got.streams["angles"], torch.tensor([[1.0, 4.0, 12.0]]).expand(4, 3))
    torch.testing.assert_close(got.contributions, (got.streams["fused"] + got.streams["angles"]) / 2)
    assert torch.equal(got.delta, got.contributions.sum(dim=1))


def test_score_scale_is_the_unit_of_the_heads():
    q, e = steps(), steps(seed=2)
    with torch.no_grad():
        torch.testing.assert_close(
            regression(score_scale=10.0)(q, e, ALL).delta, 10 * regression()(q, e, ALL).delta
        )


def test_swapping_negates_every_contribution_where_that_is_built_in():
    q, e = steps(), steps(seed=2)
    with torch.no_grad():
        net = regression(antisymmetric=True)
        there, back = net(q, e, ALL), net(e, q, ALL)
        assert torch.equal(there.contributions, -back.contributions)
        assert torch.equal(there.delta, -back.delta)
        assert (there.delta != 0).all()
        assert (net(q, q, ALL).delta == 0).all()
        # The released architecture promises no such thing: only its loss asks for it.
        plain = regression()
        assert (plain(q, e, ALL).delta + plain(e, q, ALL).delta).abs().max() > 1e-3
