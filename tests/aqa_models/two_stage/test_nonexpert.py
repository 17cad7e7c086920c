from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from aqa_models.two_stage.config import NonExpertConfig
from aqa_models.two_stage.nonexpert import NonExpert
from aqa_models.two_stage.pretext import PretextBatch, limb_columns, make_batch

SMALL = NonExpertConfig(encoder_units=8, decoder_units=7, pace_units=6, discriminator_units=5)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def model(config: NonExpertConfig = SMALL) -> NonExpert:
    torch.manual_seed(0)
    return NonExpert(45, config)


def batch(lengths: tuple[int, ...] = (12, 30, 21), config: NonExpertConfig = SMALL) -> PretextBatch:
    generator = np.random.default_rng(3)
    sequences = [generator.normal(size=(n, 45)).astype(np.float32) for n in lengths]
    observed = [np.ones(15, dtype=bool)] * len(lengths)
    draws = [np.random.default_rng([5, k]) for k in range(len(lengths))]
    return make_batch(sequences, observed, config, limb_columns("c15", 3), draws)


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


PARTS = {
    "inpaint": {"encoder", "decoder", "discriminator"},
    "recon": {"encoder", "decoder", "discriminator"},
    "motion_pred": {"encoder", "decoder", "discriminator"},
    "order": {"encoder", "order_head"},
    "none": {"encoder"},
}


@pytest.mark.parametrize("pretext", list(PARTS))
@pytest.mark.parametrize("pace", [True, False])
def test_only_the_parts_a_pretext_needs_are_there(pretext, pace):
    if pretext == "none" and not pace:
        return
    config = replace(SMALL, pretext=pretext, pace=pace)
    net = model(config)
    assert set(net.parts) == PARTS[pretext] | ({"pace_head"} if pace else set())
    assert {name.partition(".")[0] for name, _ in net.named_parameters()} == set(net.parts)
    answer = net(batch(config=config))
    assert (answer.pace is not None) == pace
    assert (answer.inpainted is not None) == (answer.fake is not None) == config.reconstructs
    if pretext == "order":
        assert answer.order.shape == (3, 25, 25)
    else:
        assert answer.order is None


def moves(net: NonExpert, field: str, change) -> bool:
    """Whether the answer `field` moves when the batch is changed."""
    before = getattr(net(batch()), field)
    changed = batch()
    change(changed)
    return not torch.equal(before, getattr(net(changed), field))


def shake_hidden(data: PretextBatch) -> None:
    data.slowed[data.hidden] += 1.0


def test_the_encoder_sees_what_is_hidden_unless_told_otherwise():
    assert moves(model(), "pace", shake_hidden)
    assert not moves(model(replace(SMALL, encoder_sees_masked=True)), "pace", shake_hidden)
    assert not moves(model(replace(SMALL, encoder_sees_masked=True)), "inpainted", shake_hidden)


def test_motion_prediction_never_sees_the_second_half():
    config = replace(SMALL, pretext="motion_pred")
    net, data, changed = model(config), batch(config=config), batch(config=config)
    shake_hidden(changed)
    assert not torch.equal(data.slowed, changed.slowed)
    assert torch.equal(net(data).inpainted, net(changed).inpainted)


def test_reconstruction_gives_the_decoder_nothing_but_the_encoders_states():
    config = replace(SMALL, pretext="recon")
    net, data = model(config), batch(config=config)
    assert (net.decoder.mask(data) == 0).all()
    shaken = batch(config=config)
    shake_hidden(shaken)
    assert not torch.equal(net(data).inpainted, net(shaken).inpainted)


def test_a_learned_mask_is_shown_in_place_of_the_limb():
    net, data = model(replace(SMALL, mask_value="learned")), batch()
    with torch.no_grad():
        net.decoder.mask_value.copy_(torch.arange(45.0))
    shown = net.decoder.mask(data)
    assert torch.equal(shown[~data.hidden], data.slowed[~data.hidden])
    assert torch.equal(shown[data.hidden], torch.arange(45.0).expand_as(shown)[data.hidden])
    assert (model().decoder.mask(data)[data.hidden] == 0).all()


def test_units_in_total_are_halved():
    total = NonExpertConfig(encoder_units_mode="total")
    net = NonExpert(60, total)
    assert count(net.encoder) == 6_192_000
    assert net.encoder.width == 1000
    with pytest.raises(ValueError, match=r"encoder_units \(9\) in total cannot be halved"):
        NonExpertConfig(encoder_units=9, encoder_units_mode="total")


def test_the_projection_has_the_dimension_of_a_frame():
    net, data = model(replace(SMALL, encoder_projection=True)), batch()
    states, final = net.encoder(data.slowed, data.valid)
    assert states.shape == (3, 30, 45)
    assert final.shape == (2, 3, 45)
    torch.testing.assert_close(
        states[:, -1, :], net.encoder.projection(net.encoder.gru(data.slowed, data.valid)[0])[:, -1]
    )
    assert net(data).inpainted.shape == (3, 30, 45)


def test_bridges_by_hand():
    final = torch.arange(2 * 3 * 16.0).view(2, 3, 16)
    for bridge, want in (("sum", final[..., :8] + final[..., 8:]), ("forward", final[..., :8])):
        net = model(replace(SMALL, decoder_units=8, decoder_bridge=bridge))
        assert torch.equal(net.decoder._start(final), want)
    linear = model().decoder
    torch.testing.assert_close(linear._start(final)[1], torch.tanh(linear.bridge[1](final[1])))


@pytest.mark.parametrize("settings", [{"decoder_units": 7}, {"decoder_units": 8, "encoder_projection": True}])
def test_bridges_that_copy_need_equal_sizes(settings):
    with pytest.raises(ValueError, match="decoder_bridge sum copies states: decoder_units .* must equal"):
        replace(SMALL, decoder_bridge="sum", **settings)


def test_a_pace_head_that_reads_all_frames():
    net = model(replace(SMALL, pace_head="gru"))
    assert net(batch()).pace.shape == (3, 5)
    assert sum(p.numel() for p in net.pace_head.gru.cells[1].parameters()) == 3 * 6 * (6 + 6 + 2)
    together, alone = net(batch()), net(batch((12,)))
    torch.testing.assert_close(together.pace[:1], alone.pace)


def test_literal_padding_reaches_every_part():
    literal = model(replace(SMALL, pad_literal=True))
    masked = model()
    for net in (literal, masked):
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if "bias" in name:
                    parameter.fill_(0.3)
    same, padded = batch((20, 20)), batch()
    for field in ("pace", "inpainted", "real", "fake"):
        torch.testing.assert_close(getattr(literal(same), field), getattr(masked(same), field))
        assert not torch.allclose(getattr(literal(padded), field)[0], getattr(masked(padded), field)[0])


def test_half_precision_is_close():
    net, data = model(), batch()
    exact = net(data)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(data)
    assert rough.pace.dtype == torch.bfloat16
    torch.testing.assert_close(rough.inpainted.float(), exact.inpainted, atol=0.02, rtol=0.05)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"decoder_layers \(1\) must equal encoder_layers \(2\)"):
        NonExpertConfig(decoder_layers=1)
    assert NonExpertConfig(decoder_layers=1, pretext="order").decoder_layers == 1
    with pytest.raises(ValueError, match="pretext none without pace leaves nothing to learn"):
        NonExpertConfig(pretext="none", pace=False)
    with pytest.raises(ValueError, match="encoder_sees_masked needs a pretext that masks a part .*not recon"):
        NonExpertConfig(pretext="recon", encoder_sees_masked=True)
