from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from aqa_models.hp_mcore.config import PRESETS, HpMcoreConfig
from aqa_models.hp_mcore.losses import pair_losses
from aqa_models.hp_mcore.model import Encoded, HpMcore
from aqa_models.hp_mcore.performance import Performances

LEGACY, BEST = PRESETS["legacy"], PRESETS["best"]
SMALL = replace(BEST, decoder_layers=1, steps_per_procedure=3)


def count(module: nn.Module | None) -> int:
    assert module is not None
    return sum(p.numel() for p in module.parameters())


def model(config: HpMcoreConfig, encoders: bool = False) -> HpMcore:
    torch.manual_seed(0)
    return HpMcore(config, encoders)


def performances(config: HpMcoreConfig, batch: int = 3, seed: int = 1, frames: int = 36) -> Performances:
    """Random features of performances with K = P, and one with K = 2."""
    g = torch.Generator().manual_seed(seed)
    slots = config.num_procedures
    cuts = torch.stack(
        [torch.randperm(frames - 1, generator=g)[: slots - 1].sort().values + 1 for _ in range(batch)]
    )
    present = torch.ones(batch, slots, dtype=torch.bool)
    present[0, 1:-1] = False
    walk = torch.randn(batch, frames, 16, 2, generator=g).cumsum(dim=1) + 100 * torch.rand(
        batch, 1, 16, 2, generator=g
    )
    return Performances(
        dynamic=torch.randn(batch, (frames - 16) // 10 + 1, 1024, generator=g),
        static=torch.randn(batch, frames, config.static_width, generator=g),
        keypoints=walk,
        transitions=cuts.where(present[:, 1:], -1),
        present=present,
        splash=torch.rand(batch, generator=g),
        number=torch.randint(0, config.action_numbers, (batch,), generator=g),
    )


def loss_of(net: HpMcore, q: Performances, e: Performances, difference: Tensor) -> Tensor:
    a, b = net.encode(q, q.transitions), net.encode(e, e.transitions)
    losses = pair_losses(net.config, (a, q), (b, e), net.compare_both_ways(a, b), difference)
    return losses.total(net.config).mean()


def assert_same(a: Encoded, b: Encoded, exactly: bool = True) -> None:
    assert a._given().keys() == b._given().keys()
    for name, value in a._given().items():
        tolerance = 0.0 if exactly else 1e-4
        torch.testing.assert_close(
            value, b._given()[name], atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_the_released_model_has_its_parameters():
    net = model(LEGACY, encoders=True)
    assert count(net.dynamic_encoder) == 12_697_264
    assert count(net.static_encoder) == 2_793_996 + 21_602
    assert count(net.segmentation) == 1_630_978
    assert count(net.skeletal_encoder) == 182_156
    assert count(net.fusion.dynamic) + count(net.fusion.static) == 5_358_672
    assert count(net.fusion.attention) == 2_466_051
    decoders = [net.regression.fused.decoder, net.regression.static.decoder]
    assert sum(count(decoder) for decoder in decoders) == 6_316_032
    assert count(net.regression) - 6_316_032 == 164_613
    assert count(net) == 31_631_364


@pytest.mark.parametrize("preset", PRESETS)
def test_shapes(preset):
    config = PRESETS[preset]
    net, given = model(config).eval(), performances(config)
    with torch.no_grad():
        encoded = net.encode(given, given.transitions)
        comparison = net.compare(encoded, encoded[torch.tensor([2, 1, 0])])
    assert encoded.fused.shape == encoded.static.shape == (3, 3, config.steps_per_procedure, 256)
    assert encoded.logits.shape == (3, 36, 2)
    assert encoded.number_logits.shape == (3, 60)
    assert (encoded.splash is None) == (preset == "legacy")
    assert torch.equal(encoded.transitions, given.transitions)
    assert comparison.delta.shape == (3,)
    assert torch.equal(comparison.delta, comparison.contributions.sum(dim=1))
    assert (comparison.contributions[[0, 2], 1] == 0).all()  # one of the two has no middle procedure


def test_a_batch_of_one_equals_its_row():
    net, given = model(SMALL).eval(), performances(SMALL, batch=4)
    with torch.no_grad():
        together = net.encode(given)
        alone = Encoded.concatenate([net.encode(given[slice(k, k + 1)]) for k in range(4)])
        assert_same(together, alone, exactly=False)
        order = torch.tensor([2, 0, 3, 1])
        assert_same(net.encode(given[order]), together[order], exactly=False)


def test_one_query_with_cached_exemplars_in_any_order():
    net, given = model(SMALL).eval(), performances(SMALL, batch=5)
    with torch.no_grad():
        encoded = net.encode(given)
        query, exemplars = encoded[slice(0, 1)], encoded[slice(1, None)]
        votes = net.compare(query[torch.zeros(4, dtype=torch.long)], exemplars)
        order = torch.tensor([3, 1, 0, 2])
        shuffled = net.compare(query[torch.zeros(4, dtype=torch.long)], exemplars[order])
        torch.testing.assert_close(shuffled.delta, votes.delta[order])
        for k in range(4):
            alone = net.compare(query, exemplars[slice(k, k + 1)])
            torch.testing.assert_close(alone.delta[0], votes.delta[k], atol=1e-4, rtol=1e-4)
    assert votes.delta.unique().numel() == 4


def test_both_ways_is_compare_twice_and_its_swap_negates_where_built_in():
    net, given = model(SMALL).eval(), performances(SMALL, batch=4)
    with torch.no_grad():
        encoded = net.encode(given)
        q, e = encoded[slice(0, 2)], encoded[slice(2, 4)]
        there, back = net.compare_both_ways(q, e)
        torch.testing.assert_close(there.delta, net.compare(q, e).delta)
        torch.testing.assert_close(back.contributions, net.compare(e, q).contributions)
        torch.testing.assert_close(there.delta, -back.delta)


def test_cuts_given_predicted_mixed_and_fixed():
    net, given = model(SMALL).eval(), performances(SMALL)
    with torch.no_grad():
        own = net.encode(given).transitions
        assert not torch.equal(own, given.transitions)
        assert (own[1:, 0] < own[1:, 1]).all()
        assert own[0, 0] == -1
        mixed = given.transitions.clone()
        mixed[1] = -1
        assert torch.equal(net.encode(given, mixed).transitions[1], own[1])
        assert torch.equal(net.encode(given, mixed).transitions[::2], given.transitions[::2])
        fixed = model(replace(SMALL, transitions="fixed"))
        assert fixed.segmentation is None
        encoded = fixed.encode(given, given.transitions)
        assert encoded.transitions.tolist() == [[-1, 18], [12, 24], [12, 24]]
        assert encoded.logits is None


def test_without_slots_every_one_is_used_or_those_annotated():
    net, given = model(SMALL).eval(), performances(SMALL)
    with torch.no_grad():
        bare = replace(given, present=None, transitions=None)
        assert net.encode(bare).present.all()
        assert torch.equal(net.encode(replace(given, present=None)).present, given.present)
        assert torch.equal(net.encode(bare, given.transitions).present, given.present)


def test_halves_are_decoded_as_released():
    net, given = model(LEGACY).eval(), performances(LEGACY)
    with torch.no_grad():
        encoded = net.encode(given)
    expected = encoded.logits[:, :18, 0].argmax(dim=1), 18 + encoded.logits[:, 18:, 1].argmax(dim=1)
    assert encoded.transitions[:, 0].tolist() == [-1, *expected[0].tolist()[1:]]
    assert torch.equal(encoded.transitions[:, 1], expected[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dynamic": None}, r"reads Performances\.dynamic, which this batch does not have"),
        ({"static": torch.zeros(3, 36, 512)}, r"static features must be .*368\).* they come from another"),
        ({"keypoints": torch.zeros(3, 30, 16, 2)}, "static features of 36 frames, but keypoints of 30"),
    ],
)
def test_features_that_do_not_fit(change, message):
    given = performances(SMALL)
    with pytest.raises(ValueError, match=message):
        model(SMALL).encode(replace(given, **change))


def test_frames_are_needed_by_a_model_that_holds_encoders():
    config = replace(SMALL, use_dynamic=False)
    with pytest.raises(ValueError, match=r"reads Performances\.frames"):
        model(config, encoders=True).encode(performances(config))


def test_encoders_on_frames_equal_their_stored_features():
    config = replace(SMALL, dynamic_logits=True, standardise=False)
    whole, head = model(config, encoders=True).eval(), model(config)
    missing = head.load_state_dict(whole.state_dict(), strict=False)
    assert not missing.missing_keys
    head.eval()
    given = performances(config, batch=1, frames=36)
    frames = torch.randn(1, 36, 3, 112, 112)
    with torch.no_grad():
        dynamic, static = whole.dynamic_encoder(frames), whole.static_encoder(frames)
        assert dynamic.shape[1] == 3
        got = whole.encode(replace(given, frames=frames, dynamic=None, static=None))
        assert_same(got, head.encode(replace(given, dynamic=dynamic, static=static)))


def test_transitions_out_of_order_are_refused():
    given = performances(SMALL)
    wrong = given.transitions.clone()
    wrong[2] = torch.tensor([30, 20])
    with pytest.raises(ValueError, match=r"transitions of row 2 are \[30, 20\]"):
        model(SMALL).encode(given, wrong)


@pytest.mark.parametrize("preset", ["legacy", "best"])
def test_gradients_reach_what_should_learn_and_nothing_else(preset):
    config = replace(PRESETS[preset], decoder_layers=1)
    net = model(config)
    q, e = performances(config, batch=4), performances(config, batch=4, seed=2)
    loss_of(net, q, e, torch.randn(4) * 10).backward()
    names = {name for name, p in net.named_parameters() if p.grad is None}
    expected = {"skeletal_encoder.number.weight", "skeletal_encoder.number.bias"}
    assert names == (expected if preset == "legacy" else set())
    silent = {n for n, p in net.named_parameters() if p.grad is not None and not (p.grad != 0).any()}
    assert not silent
    assert names == {name for name, p in net.named_parameters() if not p.requires_grad}


def test_i3d_logits_of_the_released_code_ask_for_no_gradient():
    net = model(LEGACY, encoders=True)
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    logits = {f"dynamic_encoder.logits.{part}" for part in ("weight", "bias")}
    assert frozen == logits | {f"skeletal_encoder.number.{part}" for part in ("weight", "bias")}


def test_decoded_transitions_carry_no_gradient_into_the_segmentation():
    config = replace(SMALL, segmentation_weight=0.0)
    net, given = model(config), performances(config)
    a = net.encode(given)
    net.compare(a, a[torch.tensor([2, 1, 0])]).delta.square().sum().backward()
    assert all(p.grad is None for p in net.segmentation.parameters())


@pytest.mark.slow
def test_eight_pairs_are_learned_by_heart_and_then_a_swap_negates():
    config = replace(
        LEGACY, decoder_layers=1, steps_per_procedure=2, score_scale=10.0, use_pose=False, dropout=0.0
    )
    net = model(config)
    q, e = performances(config, batch=8), performances(config, batch=8, seed=2)
    difference = torch.linspace(-20, 20, 8)
    optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=3e-4)
    for _ in range(30):
        optimiser.zero_grad()
        loss_of(net, q, e, difference).backward()
        optimiser.step()
    with torch.no_grad():
        there, back = net.compare_both_ways(net.encode(q, q.transitions), net.encode(e, e.transitions))
        assert (there.delta - difference).abs().max() < 2.5
        assert (there.delta + back.delta).abs().max() < 2.5  # not built in: the loss of both ways taught it


def test_saving_and_loading_changes_nothing(tmp_path):
    net, given = model(SMALL), performances(SMALL)
    net.encode(given)  # moves the running statistics
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    torch.manual_seed(9)
    other = HpMcore(SMALL, encoders=False)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    with torch.no_grad():
        assert_same(net.eval().encode(given), other.eval().encode(given))


@pytest.mark.parametrize("slots", [2, 4, 6])
def test_any_number_of_procedures(slots):
    config = replace(SMALL, num_procedures=slots)
    net, given = model(config).eval(), performances(config)
    with torch.no_grad():
        encoded = net.encode(given)
        comparison = net.compare(encoded, encoded[torch.tensor([1, 2, 0])])
    assert comparison.contributions.shape == (3, slots)
    assert comparison.delta.isfinite().all()
    loss = loss_of(model(config), given, given, torch.zeros(3))
    assert loss.isfinite()


@pytest.mark.parametrize(
    "streams",
    [
        {"use_dynamic": False},
        {"use_static": False},
        {"use_pose": False},
        {"use_dynamic": False, "use_static": False},
        {"use_dynamic": False, "use_static": False, "pose_stream": False},
        {"use_static": False, "use_pose": False},
        {"use_dynamic": False, "use_pose": False},
        {"use_static": False, "segmentation_input": "static"},
    ],
)
def test_a_batch_may_lack_what_is_switched_off(streams):
    config = replace(SMALL, number_weight=0.0, **streams)
    given = performances(config)
    given = replace(
        given,
        dynamic=given.dynamic if config.use_dynamic else None,
        static=given.static if config.reads_static else None,
        keypoints=given.keypoints if config.use_pose else None,
    )
    net = model(config)
    loss_of(net, given, performances(config, seed=3), torch.ones(3)).backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_stored_features_are_standardised_by_given_statistics():
    net, given = model(SMALL).eval(), performances(SMALL)
    mean, deviation = torch.randn(1024), torch.rand(1024) + 0.5
    deviation[0] = 0  # a channel that never changes keeps its size
    net.scales["dynamic"].set(mean, deviation)
    deviation[0] = 1
    plain = model(replace(SMALL, standardise=False)).eval()
    plain.load_state_dict({name: value for name, value in net.state_dict().items() if "scales" not in name})
    with torch.no_grad():
        scaled = replace(given, dynamic=(given.dynamic - mean) / deviation)
        assert_same(net.encode(given), plain.encode(scaled))


def test_a_pose_stride_shows_every_second_frame_and_interpolates():
    config = replace(SMALL, pose_stride=2, pose_angles=False)
    net, given = model(config).eval(), performances(config)
    changed = given.keypoints.clone()
    changed[:, 1::2] = 1e3
    with torch.no_grad():
        assert_same(net.encode(given), net.encode(replace(given, keypoints=changed)))
